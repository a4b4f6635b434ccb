"""The studies behind docs/evidence.md: their tables are those of the stored results, and their trainings run."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from evaluation_data import SIZES, write_splits

from fairchem_hdgnn.evaluation.splits import VALIDATION_SPLITS

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import data_sizes  # noqa: E402 - not on the path before
import evidence  # noqa: E402
import fine_tuning  # noqa: E402
import gamenet  # noqa: E402
import kept_results  # noqa: E402
from pages import marks  # noqa: E402

sys.path.remove(str(ROOT / "benchmarks"))

GAMENET = {study.name: study for study in (gamenet.TEST, gamenet.CHOICE)}


def part(page: Path, name: str) -> str:
    """What stands between the marks of a page."""
    begin, end = marks(name)
    return page.read_text().split(begin)[1].split(end)[0].strip()


@pytest.mark.parametrize("name", list(evidence.STUDIES))
def test_tables_at_equal_epochs_are_those_of_the_results(name: str) -> None:
    results = evidence.kept(name).results
    found = part(evidence.PAGE, f"evidence_{name}").split("\n\n")[0]
    assert len(results) > 1 and found == evidence.table(results, evidence.STUDIES[name]).strip()


def test_table_of_data_sizes_is_that_of_the_results() -> None:
    expected = data_sizes.table(data_sizes.all_results()).strip()
    assert part(evidence.PAGE, "data_sizes") == expected


@pytest.mark.parametrize("name", list(GAMENET))
def test_tables_of_gamenet_are_those_of_the_results(name: str) -> None:
    study = GAMENET[name]
    results = gamenet.kept(study).results
    expected = gamenet.table(study, results).strip() if results else ""
    assert {part(page, name) for page in study.pages} == {expected}


def test_table_of_fine_tuning_is_that_of_the_results() -> None:
    expected = fine_tuning.table(fine_tuning.KEPT.results).strip()
    assert part(ROOT / "docs/training.md", "fine_tuning") == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*jittable")
@pytest.mark.parametrize("model", ["HDGNN, tensor product alone", "PaiNN"])
def test_a_study_trains_and_tests_its_models(model: str, tmp_path: Path) -> None:
    data = write_splits(tmp_path / "data")
    runs = evidence.runs_of(evidence.STUDIES["hea"], data, tmp_path / "out")
    (run,) = (r for r in runs if r.facts["model"] == model and r.seed == 0)
    store = kept_results.KeptResults(tmp_path / "kept.json")
    assert store.left([run]) == [run]
    run.go_on(time.monotonic() + 600)
    result = run.result
    assert result is not None
    for split in VALIDATION_SPLITS:
        errors = np.array(list(result["errors"][split].values()))
        assert len(errors) == SIZES[split.removeprefix("val_")]
        assert result["mae"][split] == pytest.approx(np.abs(errors).mean())
    steps, curve = result["curve"]
    assert steps[-1] == 12 * SIZES["train"] / 8 and np.isfinite(curve).all()
    assert result["parameters"] > 1e5 and 0 < result["hours"] < 1

    store.take([run])
    (kept,) = store.results
    assert "errors" not in kept and kept["mae"] == result["mae"]
    (run.folder / "result.json").unlink()
    assert store.left([run]) == [], "a run that another machine has finished is not repeated"
    (row,) = (line for line in evidence.table(store.results, evidence.STUDIES["hea"]).splitlines() if model in line)
    assert f"| {1000 * result['mae']['val_id']:.0f} |" in row
