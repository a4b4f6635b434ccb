"""Leaderboard files: what is accepted, and every fault by its name."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from evaluation_data import SIZES, submission_arrays
from fairchem.core.scripts.make_submission_file import SPLITS, write_predictions

from fairchem_hdgnn.cli import main
from fairchem_hdgnn.data.npz import read_npz, write_npz
from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.evaluation.expected import ExpectedSystems
from fairchem_hdgnn.evaluation.origin import Origin
from fairchem_hdgnn.evaluation.splits import SUFFIXES
from fairchem_hdgnn.evaluation.submission import SubmissionError, check_submission, make_submission
from fairchem_hdgnn.evaluation.submission_checks import OFFICIAL_COUNTS, find_problems


def expected_of(arrays: dict[str, np.ndarray]) -> dict[str, ExpectedSystems]:
    """What LMDBs with exactly these systems would ask for."""
    ids = {suffix: arrays[f"{suffix}_ids"] for suffix in SUFFIXES}
    return {s: ExpectedSystems(Path(f"test_{s}/data.lmdb"), ids[s], np.full(len(ids[s]), 3)) for s in SUFFIXES}


def problems(arrays: dict[str, np.ndarray], task: str = "is2re", reference: dict | None = None) -> list[str]:
    expected = expected_of(reference or submission_arrays(forces=task == "s2ef"))
    return find_problems(arrays, task, expected=expected, official_counts=False)


@pytest.mark.parametrize("task", ["is2re", "s2ef"])
def test_faultless_file_has_no_problems(task):
    assert problems(submission_arrays(forces=task == "s2ef"), task) == []


def edited(**changes) -> dict[str, np.ndarray]:
    """A faultless file in which some arrays have been passed through a function."""
    arrays = submission_arrays()
    for key, change in changes.items():
        arrays[key] = change(arrays[key])
    return arrays


def with_value(index: int, value: float):
    def change(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values[index] = value
        return values

    return change


def with_duplicate(ids: np.ndarray) -> np.ndarray:
    return np.concatenate([ids[:1], ids[:-1]])


FAULTS = {
    "missing id": (
        edited(ood_ads_ids=lambda ids: ids[:-1], ood_ads_energy=lambda e: e[:-1]),
        ["ood_ads: 1 missing id of test_ood_ads/data.lmdb: 3006"],
    ),
    "duplicate": (edited(id_ids=with_duplicate), ["id: 1 duplicate id: 2000"]),
    "stranger": (
        edited(ood_cat_ids=with_value(2, "77")),
        ["ood_cat: 1 missing id of test_ood_cat/data.lmdb: 4002", "ood_cat: 1 id not in test_ood_cat/data.lmdb: 77"],
    ),
    "NaN": (edited(id_energy=with_value(3, np.nan)), ["id: energy: 1 value NaN or infinite (first: 2003)"]),
    "infinity": (edited(id_energy=with_value(0, np.inf)), ["id: energy: 1 value NaN or infinite (first: 2000)"]),
    "float16": (
        edited(ood_both_energy=lambda e: e.astype(np.float16)),
        ["ood_both: energy: float16 (steps of 2 to 8 meV); predict again with prediction_dtype: float32"],
    ),
    "whole numbers": (edited(id_energy=lambda e: e.astype(int)), ["id: energy: int64, not float32"]),
    "total energies": (
        edited(ood_cat_energy=with_value(1, -312.5)),
        [
            "ood_cat: 1 energy outside ±20 eV, up to -312.5 eV: expected adsorption energies in eV, not total DFT "
            "energies"
        ],
    ),
    "one number": (edited(id_energy=lambda e: e[0]), ["id: energy has shape (), not (9,)"]),
    "one id": (
        edited(id_ids=lambda ids: np.array(ids[0])),
        ["id: ids have shape (), not (systems,)", "id: energy has shape (9,), not (1,)"],
    ),
    "constant": (
        edited(id_energy=lambda e: np.full_like(e, -1.5)),
        ["id: all 9 energies are the same, -1.5 eV"],
    ),
    "column": (edited(id_energy=lambda e: e[:, None]), ["id: energy has shape (9, 1), not (9,)"]),
    "numbers for ids": (edited(id_ids=lambda ids: ids.astype(int)), ["id: ids are int64, not text such as '1000076'"]),
    "shorter energies": (edited(id_energy=lambda e: e[:-1]), ["id: energy has shape (8,), not (9,)"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_named(fault):
    arrays, sentences = FAULTS[fault]
    assert problems(arrays) == sentences


def test_swapped_splits_are_recognised():
    arrays = submission_arrays()
    for key in ("ids", "energy"):
        arrays[f"id_{key}"], arrays[f"ood_ads_{key}"] = arrays[f"ood_ads_{key}"], arrays[f"id_{key}"]
    assert problems(arrays) == [
        "id: swapped splits: these ids are those of ood_ads (test_ood_ads/data.lmdb)",
        "ood_ads: swapped splits: these ids are those of id (test_id/data.lmdb)",
    ]


def test_official_counts_recognise_a_swap_without_lmdbs():
    arrays = submission_arrays(OFFICIAL_COUNTS["is2re"])
    for suffix in SUFFIXES:
        arrays[f"{suffix}_ids"] = np.char.add(f"{suffix}", arrays[f"{suffix}_ids"]).astype(str)
        arrays[f"{suffix}_ids"] = np.char.replace(arrays[f"{suffix}_ids"], "_", "")
    assert find_problems(arrays, "is2re") == []
    for key in ("ids", "energy"):
        arrays[f"id_{key}"], arrays[f"ood_both_{key}"] = arrays[f"ood_both_{key}"], arrays[f"id_{key}"]
    assert find_problems(arrays, "is2re") == [
        "id: 24,985 systems; OC20's IS2RE test set has 24,948, which is the count of ood_both: swapped splits?",
        "ood_both: 24,948 systems; OC20's IS2RE test set has 24,985, which is the count of id: swapped splits?",
    ]


def test_official_counts_are_those_of_oc20s_test_sets():
    """https://fair-chem.github.io: version 2, February 2021."""
    assert {task: tuple(counts[suffix] for suffix in SUFFIXES) for task, counts in OFFICIAL_COUNTS.items()} == {
        "is2re": (24_948, 24_930, 24_965, 24_985),
        "s2ef": (999_736, 999_859, 999_826, 999_973),
    }


def test_float16_values_in_float32_arrays_are_recognised():
    sizes = dict.fromkeys(SIZES, 40)
    reference = submission_arrays(sizes)
    arrays = dict(reference, id_energy=reference["id_energy"].astype(np.float16).astype(np.float32))
    assert problems(arrays, reference=reference) == [
        "id: energy: float16 numbers stored as float32; predict again with prediction_dtype: float32"
    ]


def test_one_split_twice_is_recognised_without_lmdbs():
    arrays = submission_arrays()
    arrays["ood_cat_ids"][:2] = arrays["id_ids"][:2]
    assert find_problems(arrays, "is2re", official_counts=False) == ["id and ood_cat share 2 ids: 2000, 2001"]


def test_missing_split_and_stray_key_are_named():
    arrays = submission_arrays()
    del arrays["ood_cat_ids"], arrays["ood_cat_energy"], arrays["id_energy"]
    arrays["is_energy"] = np.zeros(3)
    assert problems(arrays) == [
        "id: missing id_energy",
        "ood_cat: the whole split is missing (ood_cat_ids, ood_cat_energy)",
        "keys that do not belong in an IS2RE file: is_energy",
    ]


def test_ids_of_other_data_may_have_underscores():
    arrays = submission_arrays()
    arrays["id_ids"] = np.array([f"val_id@{index}" for index in range(len(arrays["id_ids"]))])
    assert not any("frames of S2EF" in problem for problem in problems(arrays))


def test_s2ef_given_as_is2re_and_the_reverse():
    s2ef, is2re = submission_arrays(forces=True), submission_arrays()
    assert problems(s2ef, "is2re")[0].startswith("S2EF given as IS2RE: it has forces")
    assert any("frames of S2EF (sid_fid)" in problem for problem in problems(s2ef, "is2re"))
    assert problems(is2re, "s2ef")[0].startswith("IS2RE given as S2EF: it has no forces")


def test_task_must_be_known():
    with pytest.raises(ConfigError, match="did you mean 'is2re'"):
        problems(submission_arrays(), "is2rs", submission_arrays())


@pytest.mark.parametrize(
    ("key", "change", "sentence"),
    [
        ("id_forces", lambda f: f[:, :2], "id: forces have shape (27, 2), not (free atoms, 3)"),
        ("id_forces", lambda f: f[:-9], "id: chunk_idx does not split 18 rows into blocks; first at 2008_0"),
        ("id_forces", lambda f: f[:-1], "id: 1 system whose forces are not those of the free atoms: 2008_0"),
        (
            "id_forces",
            lambda f: np.concatenate([f, f[:2] + 0.1]),
            "id: 1 system whose forces are not those of the free atoms: 2008_0",
        ),
        ("id_forces", lambda f: f.clip(-1, 1) * 1e4, "id: forces up to 1e+04 eV/Å, above 100 eV/Å"),
        ("id_forces", with_value(0, np.nan), "id: forces: 3 values NaN or infinite"),
        ("id_chunk_idx", lambda c: c[:-1], "id: chunk_idx is int64 of shape (7,), not integers of shape (8,)"),
        (
            "id_chunk_idx",
            lambda c: c.astype(float),
            "id: chunk_idx is float64 of shape (8,), not integers of shape (8,)",
        ),
    ],
)
def test_wrong_forces_are_named(key, change, sentence):
    arrays = submission_arrays(forces=True)
    arrays[key] = change(arrays[key])
    assert problems(arrays, "s2ef") == [sentence]


def write_files(folder: Path, arrays: dict[str, np.ndarray]) -> dict[str, Path]:
    """The arrays as four files of fairchem's predict mode."""
    files = {}
    for suffix in SUFFIXES:
        files[suffix] = folder / f"{suffix}.npz"
        keys = ("ids", "energy", "forces", "chunk_idx")
        np.savez(files[suffix], **{key: arrays[f"{suffix}_{key}"] for key in keys if f"{suffix}_{key}" in arrays})
    return files


@pytest.mark.parametrize("task", ["is2re", "s2ef"])
def test_written_file_holds_what_fairchems_script_would_write(tmp_path, task):
    arrays = submission_arrays(forces=task == "s2ef")
    files = write_files(tmp_path, arrays)
    make_submission(files, tmp_path / "ours.npz", expected_of(arrays), task=task, official_counts=False)

    assert SPLITS["OC20"] == list(SUFFIXES)
    theirs_path = str(tmp_path / "theirs.npz")
    given = {suffix: str(file) for suffix, file in files.items()}
    write_predictions(Namespace(dataset="OC20", out_path=theirs_path, is2re_relaxations=False, **given))

    ours, theirs = read_npz(tmp_path / "ours.npz"), read_npz(tmp_path / "theirs.npz")
    assert set(ours) == set(theirs)
    for key, values in theirs.items():
        np.testing.assert_array_equal(ours[key], values)
        assert ours[key].dtype == values.dtype
    check_submission(tmp_path / "ours.npz", task=task, expected=expected_of(arrays), official_counts=False)


def test_fairchems_column_of_energies_becomes_one_number_a_system(tmp_path):
    arrays = submission_arrays()
    files = write_files(tmp_path, dict(arrays, id_energy=arrays["id_energy"][:, None]))
    written = make_submission(files, tmp_path / "out.npz", expected_of(arrays), official_counts=False)
    assert written["id_energy"].shape == (SIZES["id"],)
    np.testing.assert_array_equal(written["id_energy"], arrays["id_energy"])


def test_nothing_is_written_and_nothing_lost_when_something_is_wrong(tmp_path):
    arrays = submission_arrays()
    files = write_files(tmp_path, dict(arrays, id_energy=arrays["id_energy"].astype(np.float16)))
    out = tmp_path / "submission.npz"
    out.write_bytes(b"the good one")
    with pytest.raises(SubmissionError, match="not written: one problem\n  - id: energy: float16"):
        make_submission(files, out, expected_of(arrays), official_counts=False)
    assert out.read_bytes() == b"the good one"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["submission.npz", *(p.name for p in files.values())]
    )


def test_predictions_of_two_models_are_not_joined(tmp_path):
    arrays = submission_arrays()
    for name in ("first.pt", "second.pt"):
        (tmp_path / name).write_text(name)
    first, same, second = (Origin.of([tmp_path / name], {}) for name in ("first.pt", "first.pt", "second.pt"))

    def write(origins: dict[str, Origin | None]) -> dict[str, Path]:
        files = write_files(tmp_path, arrays)
        for suffix, origin in origins.items():
            write_npz(files[suffix], read_npz(files[suffix]), comment=origin.comment if origin else "")
        return files

    joined = write({"id": first, "ood_ads": same, "ood_cat": None})
    make_submission(joined, tmp_path / "out.npz", expected_of(arrays), official_counts=False)
    mixed = write({"id": second, "ood_ads": first, "ood_cat": first})
    with pytest.raises(SubmissionError, match="one problem") as error:
        make_submission(mixed, tmp_path / "out.npz", expected_of(arrays), official_counts=False)
    assert f"id by {tmp_path}/second.pt ({second.digest}); ood_ads, ood_cat by {tmp_path}/first.pt" in str(error.value)


def test_settings_that_change_predictions_belong_to_their_origin(tmp_path):
    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for path in paths:
        path.write_text(path.name)
    origin = Origin.of(paths, {"frame_draws": 4})
    assert origin.digest == Origin.of(paths[::-1], {"frame_draws": 4}).digest
    assert origin.digest != Origin.of(paths, {"frame_draws": 8}).digest
    assert origin.digest != Origin.of(paths[:1], {"frame_draws": 4}).digest


def test_pickled_arrays_are_not_read(tmp_path):
    np.savez(tmp_path / "evil.npz", id_ids=np.array(["1", None], dtype=object))
    with pytest.raises(DataError, match=r"not a readable \.npz of plain arrays"):
        check_submission(tmp_path / "evil.npz")


def test_check_submission_command_lists_every_fault(tmp_path, capsys):
    arrays = edited(id_energy=with_value(3, np.nan), ood_cat_ids=with_duplicate)
    np.savez(tmp_path / "bad.npz", **arrays)
    assert main(["check-submission", str(tmp_path / "bad.npz"), "--counts", "any"]) == 2
    message = capsys.readouterr().err
    assert "bad.npz: 2 problems" in message
    assert "id: energy: 1 value NaN" in message and "ood_cat: 1 duplicate id" in message

    np.savez(tmp_path / "good.npz", **submission_arrays())
    assert main(["check-submission", str(tmp_path / "good.npz"), "--counts", "official", "--prefix", "val"]) == 2
    assert "--counts official: OC20's test splits only" in capsys.readouterr().err
    assert main(["check-submission", str(tmp_path / "good.npz"), "--counts", "any"]) == 0
    output = capsys.readouterr().out
    assert "no errors found" in output and "5 successful submissions a month" in output and "Not checked" in output
