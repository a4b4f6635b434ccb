"""Calibration of standard deviations: synthetic errors whose distribution is known, tables and plot."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console
from scipy.special import erfinv

from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.evaluation.calibration import (
    Calibration,
    calibrate,
    fit_scale,
    miscalibration_area,
    rank_correlation,
)
from fairchem_hdgnn.evaluation.calibration_plot import binned, calibration_figure, draw_calibration
from fairchem_hdgnn.evaluation.calibration_report import calibration_json, calibration_notes
from fairchem_hdgnn.evaluation.ensemble import EnsemblePredictions
from fairchem_hdgnn.evaluation.metrics import compare
from fairchem_hdgnn.evaluation.predictions import Predictions
from fairchem_hdgnn.evaluation.report import print_tables, write_tables

Numbers = np.ndarray


def normal_errors(num: int = 20_000, seed: int = 0) -> tuple[Numbers, Numbers]:
    """Errors, eV, drawn from the standard deviations beside them."""
    random = np.random.default_rng(seed)
    std = np.exp(random.normal(-2, 0.7, num))
    return std * random.normal(size=num), std


def ensemble(num: int, seed: int, factor: float = 1.0) -> EnsemblePredictions:
    """Predictions whose errors are ``1 / factor`` of what ``factor`` times too small deviations say."""
    errors, std = normal_errors(num, seed)
    target = np.random.default_rng(seed).normal(-1, 1, num).astype(np.float32)
    of_split = Predictions(
        ids=np.arange(num).astype(str),
        energy=(target + errors).astype(np.float32),
        natoms=np.full(num, 30),
        adsorbate=np.full(num, "O"),
        elements=np.full(num, "Pt"),
        target=target,
        energy_std=(std / factor).astype(np.float32),
    )
    return EnsemblePredictions(of_split, std / factor, None)


@pytest.fixture
def splits() -> dict[str, EnsemblePredictions]:
    return {"val_ood_ads": ensemble(400, 1, 2.0), "val_id": ensemble(600, 2, 2.0)}


@pytest.fixture
def calibration(splits: dict[str, EnsemblePredictions]) -> Calibration:
    return calibrate(splits)


def test_deviations_that_errors_follow_need_no_scale() -> None:
    errors, std = normal_errors()
    assert fit_scale(errors, std) == pytest.approx(1, abs=0.02)
    assert miscalibration_area(errors, std) < 0.01
    correlation = rank_correlation(errors, std)
    assert correlation is not None and 0.3 < correlation < 0.8


def test_halved_deviations_are_doubled() -> None:
    errors, std = normal_errors()
    scale = fit_scale(errors, std / 2)
    assert scale == pytest.approx(2, abs=0.04)
    assert miscalibration_area(errors, std / 2) > 0.1 > 10 * miscalibration_area(errors, scale * std / 2)


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
def test_area_is_that_between_curve_and_diagonal(factor: float) -> None:
    errors, std = normal_errors(37, 5)
    probability = (np.arange(20_000) + 0.5) / 20_000
    bounds = np.sqrt(2) * erfinv(probability)
    inside = np.abs(errors) <= bounds[:, None] * factor * std
    expected = np.abs(inside.mean(1) - probability).mean()
    assert miscalibration_area(errors, factor * std) == pytest.approx(expected, abs=1e-4)


def test_area_of_the_certain() -> None:
    errors, std = normal_errors(50)
    assert miscalibration_area(errors, 0 * std) == pytest.approx(0.5)
    assert miscalibration_area(0 * errors, std) == pytest.approx(0.5)


def test_area_that_chance_leaves() -> None:
    areas = [miscalibration_area(*normal_errors(100, seed)) for seed in range(300)]
    assert np.mean(areas) == pytest.approx(0.31 / np.sqrt(100), rel=0.1)


def test_systems_without_spread_are_left_out_of_the_scale() -> None:
    errors, std = np.array([1.0, 2.0, 5.0]), np.array([0.5, 1.0, 0.0])
    assert fit_scale(errors, std) == pytest.approx(2)
    with pytest.raises(DataError, match="standard deviation is 0 for all systems"):
        fit_scale(errors, 0 * std)
    with pytest.raises(DataError, match="all errors are 0"):
        fit_scale(0 * errors, std)


def test_rank_correlation_is_of_sizes() -> None:
    assert rank_correlation(np.array([-3.0, 1.0, 2.0]), np.array([0.9, 0.1, 0.2])) == pytest.approx(1)
    assert rank_correlation(np.array([-3.0, 1.0, 2.0]), np.full(3, 0.1)) is None


def test_scale_is_fitted_on_val_id(splits: dict[str, EnsemblePredictions], calibration: Calibration) -> None:
    of_id = splits["val_id"]
    assert calibration.fitted_on == "val_id"
    assert calibration.scale == fit_scale(of_id.mean.errors, of_id.energy_std)
    scores = calibration.splits["val_ood_ads"]
    assert scores.rmse == pytest.approx(np.sqrt(np.mean(splits["val_ood_ads"].mean.errors ** 2)))
    assert scores.mean_std == scores.mean_between == pytest.approx(splits["val_ood_ads"].energy_std.mean())
    assert scores.scaled_miscalibration_area < scores.miscalibration_area / 3
    others = {"a": splits["val_ood_ads"], "b": of_id}
    assert calibrate(others).fitted_on == "a"


def test_reported_scores_are_those_of_the_calibration(calibration: Calibration) -> None:
    for split, scores in calibration.splits.items():
        found = calibration_json(calibration)["splits"][split]
        assert found["systems"] == scores.num_systems and found["mean_within"] is None
        assert found["mean_std"] == found["mean_between"] == pytest.approx(1000 * scores.mean_std)
        assert found["scaled_mean_std"] == pytest.approx(1000 * calibration.scale * scores.mean_std)
        for name in ("rank_correlation", "miscalibration_area", "scaled_miscalibration_area"):
            assert found[name] == getattr(scores, name), name


def test_systems_without_spread_are_counted(splits: dict[str, EnsemblePredictions]) -> None:
    of_id = splits["val_id"]
    std = of_id.energy_std.copy()
    std[:6] = 0, 0, 0, 1e-4, 1e-4, 1e-4
    found = calibrate({"val_id": replace(of_id, between=std, within=0.5 * std)})
    assert found.splits["val_id"].num_certain == 3
    assert found.splits["val_id"].mean_within == pytest.approx(0.5 * std.mean())
    assert calibration_json(found)["splits"]["val_id"]["systems_with_zero_std"] == 3
    assert "Systems with a standard deviation of 0 (3 in val_id) were excluded from the fit of the scale." in (
        calibration_notes(found)
    )


def test_tables(splits: dict[str, EnsemblePredictions], calibration: Calibration, tmp_path: Path) -> None:
    first = {split: replace(each.mean, energy_std=None) for split, each in splits.items()}
    comparison = compare({"one": first, "ensemble": {s: e.mean for s, e in splits.items()}}, num_resamples=10)
    facts = {"calibration": calibration_json(calibration)}
    write_tables(comparison, [], facts, tmp_path, with_paper=False, calibration=calibration)
    report = json.loads((tmp_path / "table.json").read_text())["calibration"]
    rmse = 1000 * np.sqrt(np.mean(splits["val_id"].mean.errors ** 2))
    assert report["splits"]["val_id"]["rmse"] == pytest.approx(rmse) and report["units"]["rmse"] == "meV"
    assert report["fitted_on"] == "val_id" and report["splits"]["val_id"]["scale_fitted_here"]
    with (tmp_path / "table.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["source"].startswith("calibration")]
    values = {(row["split"], row["metric"]): float(row["value"]) for row in rows}
    assert values["val_id", "rmse"] == pytest.approx(rmse)
    assert values["val_id", "std_scale"] == calibration.scale
    assert {row["source"] for row in rows if row["split"] == "val_id"} == {"calibration, scale fitted here"}
    markdown = (tmp_path / "table.md").read_text()
    assert f"| ID † | 600 | {rmse:.0f} |" in markdown and "| OOD Ads | 400 |" in markdown
    console = Console(width=80, record=True, file=(tmp_path / "terminal").open("w"))
    print_tables(comparison, [], with_paper=False, calibration=calibration, console=console)
    printed = console.export_text()
    assert "…" not in printed.split("Calibration")[1].replace("0…", "")
    assert f"predict --std-scale {calibration.scale:.3g}" in printed and "fitted on val_id." in printed


def test_another_split_to_fit_on_is_said(splits: dict[str, EnsemblePredictions], tmp_path: Path) -> None:
    of_split = {"val_ood_ads": splits["val_ood_ads"]}
    comparison = compare({"ensemble": {s: e.mean for s, e in of_split.items()}}, num_resamples=2)
    write_tables(comparison, [], {}, tmp_path, with_paper=False, calibration=calibrate(of_split))
    assert "fitted on val_ood_ads (val_id is not among the splits)" in (tmp_path / "table.md").read_text()


def test_bins_hold_equally_many_systems() -> None:
    errors, std = normal_errors(103, 3)
    deviations, root_errors = binned(errors, std)
    assert len(deviations) == 10 and (np.diff(deviations) > 0).all()
    first = np.argsort(std)[:11]
    assert root_errors[0] == pytest.approx(np.sqrt(np.mean(errors[first] ** 2)))
    assert len(binned(errors[:7], std[:7])[0]) == 1


def test_plot(splits: dict[str, EnsemblePredictions], calibration: Calibration, tmp_path: Path) -> None:
    predictions = {split: each.mean for split, each in splits.items()}
    figure = calibration_figure(predictions, calibration)
    coverage, _, bins, _ = figure.axes
    assert "%" in coverage.get_xlabel() and "meV" in bins.get_ylabel() and "meV" in figure.get_supxlabel()
    raw, scaled = coverage.get_lines()[:2]
    of_split = splits["val_ood_ads"]
    for line, factor in ((raw, 1.0), (scaled, calibration.scale)):
        inside = 100 * np.mean(np.abs(of_split.mean.errors) <= factor * of_split.energy_std)
        at_one_deviation = line.get_ydata()[line.get_xdata() <= 68.2689].max()
        assert at_one_deviation == pytest.approx(inside, abs=0.3)
    path = draw_calibration(predictions, calibration, tmp_path / "calibration.png")
    assert imread(path).shape[1] > 800
