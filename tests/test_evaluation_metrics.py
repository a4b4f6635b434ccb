"""Scores, their intervals and their differences."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from fairchem.core.modules.evaluator import Evaluator
from rich.console import Console

from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.evaluation.metrics import bootstrap_means, compare, constant_baseline, force_errors
from fairchem_hdgnn.evaluation.predictions import Predictions, hill_formula, merge
from fairchem_hdgnn.evaluation.published import table_1
from fairchem_hdgnn.evaluation.report import markdown, print_tables, write_tables

SPLITS = ("val_id", "val_ood_ads", "val_ood_cat", "val_ood_both")


def predictions(errors: np.ndarray, first_id: int = 0) -> Predictions:
    num = len(errors)
    target = np.random.default_rng(num).normal(-1.5, 2, num).astype(np.float32)
    return Predictions(
        ids=np.sort(np.array([str(first_id + index) for index in range(num)])),
        energy=(target + errors).astype(np.float32),
        target=target,
        natoms=np.full(num, 40),
        adsorbate=np.full(num, "CO"),
        elements=np.full(num, "Pt"),
    )


def model(scale: float, seed: int, num: int = 400) -> dict[str, Predictions]:
    random = np.random.default_rng(seed)
    return {split: predictions(scale * random.normal(size=num)) for split in SPLITS}


def test_scores_are_in_mev_and_percent_and_means_weigh_splits_equally():
    errors = {
        "val_id": [0.1, -0.1],
        "val_ood_ads": [0.01, 0.3, -0.01],
        "val_ood_cat": [0.5],
        "val_ood_both": [-0.7, 0.7],
    }
    of_splits = {split: predictions(np.array(values)) for split, values in errors.items()}
    scores = compare({"model": of_splits}, num_resamples=10).scores
    mae = [100.0, 320 / 3, 500.0, 700.0]
    assert [scores["mae"]["model"][split].value for split in errors] == pytest.approx(mae, rel=1e-4)
    assert scores["mae"]["model"]["mean"].value == pytest.approx(np.mean(mae), rel=1e-4)
    assert scores["mae"]["model"]["ood_mean"].value == pytest.approx(np.mean(mae[1:]), rel=1e-4)
    assert [scores["ewt"]["model"][split].value for split in errors] == pytest.approx([0, 200 / 3, 0, 0])


def test_ewt_counts_errors_below_20_mev_only():
    scores = compare({"m": {"val_id": predictions(np.array([0.019, -0.019, 0.021, -0.021]))}}, num_resamples=5).scores
    assert scores["ewt"]["m"]["val_id"].value == 50


def with_forces(of_split: Predictions, error: float, seed: int) -> Predictions:
    """The same predictions with forces on 0 to 5 free atoms of each system, off by about ``error`` eV/Å."""
    free_atoms = np.random.default_rng(0).integers(0, 6, len(of_split))
    labels = np.random.default_rng(1).normal(size=(free_atoms.sum(), 3)).astype(np.float32)
    forces = labels + np.random.default_rng(seed).normal(scale=error, size=labels.shape).astype(np.float32)
    return replace(of_split, forces=forces, target_forces=labels, free_atoms=free_atoms)


def test_scores_of_energies_are_those_of_fairchems_evaluator():
    of_split = predictions(np.random.default_rng(0).normal(scale=0.025, size=1001))
    tensors = [
        {"energy": torch.from_numpy(each.astype(np.float64))[:, None]} for each in (of_split.energy, of_split.target)
    ]
    theirs = Evaluator(eval_metrics={"energy": ["mae", "energy_within_threshold"]}).eval(*tensors)
    found = compare({"m": {"val_id": of_split}}, num_resamples=5).scores
    assert found["mae"]["m"]["val_id"].value == pytest.approx(1000 * theirs["energy_mae"]["metric"], rel=1e-12)
    assert found["ewt"]["m"]["val_id"].value == pytest.approx(
        100 * theirs["energy_within_threshold"]["metric"], rel=1e-12
    )


def test_scores_of_forces_are_those_of_fairchems_evaluator():
    errors = np.random.default_rng(0).normal(scale=0.02, size=300)
    of_split = with_forces(predictions(errors), 0.01, 2)
    some = of_split.free_atoms > 0  # fairchem's evaluator stops at a system without free atoms
    tensors = {
        name: {
            "energy": torch.from_numpy(energy[some]),
            "forces": torch.from_numpy(forces),
            "natoms": torch.from_numpy(of_split.free_atoms[some]),
        }
        for name, energy, forces in (
            ("prediction", of_split.energy, of_split.forces),
            ("target", of_split.target, of_split.target_forces),
        )
    }
    metrics = {
        "energy": ["mae"],
        "forces": ["mae", "cosine_similarity"],
        "misc": ["energy_forces_within_threshold"],
    }
    theirs = Evaluator(task=None, eval_metrics=metrics).eval(tensors["prediction"], tensors["target"], {})
    scores = compare({"m": {"val_id": of_split}}, num_resamples=20).scores
    ours = {metric: rows["m"]["val_id"].value for metric, rows in scores.items()}
    assert ours["force_mae"] == pytest.approx(1000 * theirs["forces_mae"]["metric"], rel=1e-5)
    assert ours["force_cos"] == pytest.approx(theirs["forces_cosine_similarity"]["metric"], rel=1e-5)
    without = np.abs(errors[~some]) < 0.02
    within = theirs["energy_forces_within_threshold"]["total"] + without.sum()
    assert 0 < within < 300 and ours["efwt"] == pytest.approx(100 * within / 300)
    np.testing.assert_allclose(
        np.nansum(force_errors(of_split) * of_split.free_atoms) / of_split.free_atoms.sum(), ours["force_mae"] / 1000
    )


def test_cosines_of_small_forces_are_those_of_their_directions():
    """Forces of relaxed structures are far below 0.1 eV/Å."""
    of_split = with_forces(predictions(np.zeros(40)), 0.0, 0)
    small = replace(of_split, forces=1e-3 * of_split.forces, target_forces=1e-3 * of_split.target_forces)
    found = compare({"m": {"val_id": small}}, num_resamples=5).scores["force_cos"]["m"]["val_id"]
    assert found.value == pytest.approx(1, abs=1e-6)


def test_interval_of_force_scores_is_that_of_a_ratio():
    """Systems with more atoms count more: the spread between systems is that of sums over sums."""
    of_split = with_forces(predictions(np.zeros(400)), 0.1, 3)
    found = compare({"m": {"val_id": of_split}}, num_resamples=400).scores["force_mae"]["m"]["val_id"]
    sums = 1000 * np.nan_to_num(force_errors(of_split)) * of_split.free_atoms
    residuals = sums - found.value * of_split.free_atoms
    linearised = residuals.std() / np.sqrt(len(of_split)) / of_split.free_atoms.mean()
    assert found.high - found.low == pytest.approx(2 * 1.96 * linearised, rel=0.15)
    assert found.low < found.value < found.high


def test_intervals_of_forces_leave_out_resamples_without_a_free_atom():
    free = with_forces(predictions(np.zeros(3)), 0.1, 3)
    counts = np.array([2, 0, 0])
    of_split = replace(free, free_atoms=counts, forces=free.forces[:2], target_forces=free.target_forces[:2])
    other = replace(of_split, forces=of_split.forces + 0.1)
    comparison = compare({"m": {"val_id": of_split}, "n": {"val_id": other}}, num_resamples=200)
    for metric in ("force_mae", "force_cos"):
        for found in (comparison.scores[metric]["m"]["val_id"], comparison.differences[metric]["n"]["val_id"]):
            assert np.isfinite([found.low, found.value, found.high]).all()


def test_models_without_forces_have_no_row_for_forces(tmp_path):
    energies = model(0.5, 0)
    forces = {split: with_forces(each, 0.2, 3) for split, each in model(0.6, 1).items()}
    baseline = constant_baseline(forces, None)
    comparison = compare({"forces": forces, "energies": energies, "baseline": baseline}, num_resamples=20)
    assert list(comparison.scores["force_mae"]) == ["forces", "baseline"]
    assert list(comparison.differences["force_mae"]) == ["baseline"]
    zero = comparison.scores["force_mae"]["baseline"]["val_id"].value
    assert zero == pytest.approx(1000 * np.abs(forces["val_id"].target_forces).mean(), rel=1e-5)
    assert comparison.scores["force_cos"]["baseline"]["val_id"].value == 0
    text = markdown(comparison, [], with_paper=True)
    assert "### Force MAE, meV/Å (95 % interval)" in text
    assert "### Paired difference in force MAE from forces, meV/Å (95 % interval)" in text
    write_tables(comparison, [], {}, tmp_path, with_paper=True)
    units = json.loads((tmp_path / "table.json").read_text())["units"]
    assert units["force_mae"] == "meV/Å" and units["efwt"] == "%"
    assert "force_mae" not in compare({"energies": energies}, num_resamples=5).scores


def test_forces_that_are_not_finite_are_refused():
    good = with_forces(predictions(np.zeros(10)), 0.1, 0)
    broken = good.forces.copy()
    broken[0] = np.nan
    first = good.ids[np.flatnonzero(good.free_atoms)[0]]
    with pytest.raises(DataError, match=f"val_id: m's forces of system {first} are NaN or infinity"):
        compare({"m": {"val_id": replace(good, forces=broken)}})
    with pytest.raises(DataError, match=f"val_id: the forces of system {first} are NaN or infinity; correct the LMDB"):
        compare({"m": {"val_id": replace(good, target_forces=broken)}})
    with pytest.raises(DataError, match="m and n read different labels"):
        other = replace(good, target_forces=good.target_forces + 1)
        compare({"n": {"val_id": good}, "m": {"val_id": other}})


def test_interval_covers_the_true_mean_as_often_as_it_says():
    random = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        sample = random.exponential(1.0, (150, 1))
        low, high = np.quantile(bootstrap_means(sample, 400, random), [0.025, 0.975])
        covered += low <= 1.0 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_paired_interval_is_narrower_than_the_interval_of_either_model():
    hard = np.random.default_rng(0).exponential(0.5, 400)
    one = {"val_id": predictions(hard)}
    other = {"val_id": predictions(hard + 0.01)}
    comparison = compare({"one": one, "other": other}, num_resamples=300)
    difference = comparison.differences["mae"]["other"]["val_id"]
    score = comparison.scores["mae"]["other"]["val_id"]
    assert difference.value == pytest.approx(10, abs=0.01)
    assert difference.low > 9.9 and difference.high < 10.1
    assert score.high - score.low > 50


def test_bootstrap_repeats_with_its_seed():
    models = {"a": model(0.5, 0), "b": model(0.6, 1)}
    assert compare(models, num_resamples=50, seed=4) == compare(models, num_resamples=50, seed=4)
    assert compare(models, num_resamples=50, seed=4) != compare(models, num_resamples=50, seed=5)


def test_median_baseline_is_the_median_of_each_split():
    of_split = replace(predictions(np.zeros(5)), target=np.array([-4.0, -1.0, 0.5, 1.0, 9.0], dtype=np.float32))
    other = predictions(np.zeros(3))
    answers = constant_baseline({"val_id": of_split, "val_ood_ads": other}, None)
    assert answers["val_id"].energy.tolist() == [0.5] * 5
    assert answers["val_ood_ads"].energy.tolist() == [sorted(other.target.tolist())[1]] * 3
    assert constant_baseline({"val_id": of_split}, -1.25)["val_id"].energy.tolist() == [-1.25] * 5


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"energy": np.full(400, np.nan, dtype=np.float32)}, "b predicts NaN or infinity, first for system"),
        (
            {"target": np.full(400, np.inf, dtype=np.float32)},
            "the label of system 0 is NaN or infinity; correct the LMDB",
        ),
        ({"ids": np.array([f"x{i}" for i in range(400)])}, "b and a were run on different systems"),
        ({"target": np.zeros(400, dtype=np.float32)}, "b and a read different labels"),
        ({"target": None}, "no labels"),
    ],
)
def test_unusable_predictions_are_refused(broken, message):
    good, bad = model(0.5, 0), model(0.5, 1)
    bad["val_ood_cat"] = replace(bad["val_ood_cat"], **broken)
    with pytest.raises(DataError, match=f"val_ood_cat: .*{message}"):
        compare({"a": good, "b": bad}, num_resamples=5)


def test_merge_restores_one_order_whatever_the_shares():
    whole = predictions(np.linspace(-1, 1, 11))
    forces = np.arange(22 * 3, dtype=np.float32).reshape(-1, 3)
    whole = replace(whole, forces=forces, free_atoms=np.full(11, 2))
    whole = whole.sorted_by_id()

    def part(rows):
        atoms = np.concatenate([[2 * row, 2 * row + 1] for row in rows])
        fields = ("ids", "energy", "natoms", "adsorbate", "elements", "target", "free_atoms")
        return Predictions(**{name: getattr(whole, name)[rows] for name in fields}, forces=whole.forces[atoms])

    merged = merge([part(np.arange(1, 11, 2)), part(np.arange(0, 11, 2))])
    for name in ("ids", "energy", "target", "forces", "free_atoms"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))


def test_hill_formula_puts_carbon_first():
    assert hill_formula(np.array([8, 1, 6, 1])) == "CH2O"
    assert hill_formula(np.array([], dtype=int)) == ""


def test_table_1_means_are_taken_from_its_columns():
    hdgnn = table_1("mae")["HDGNN"]
    assert hdgnn["mean"] == 550.25
    assert hdgnn["ood_mean"] == pytest.approx(563.67, abs=0.01)
    assert round(table_1("mae")["SCN"]["mean"]) == 573
    assert round(table_1("mae")["Equiformer"]["mean"]) == 586


def test_table_1_means_are_of_the_splits_shown():
    columns = ("val_id", "val_ood_ads", "mean")
    assert table_1("mae", columns)["HDGNN"] == {"val_id": 510, "val_ood_ads": 618, "mean": 564}
    assert table_1("mae", ("fold_0", "val_id", "mean"))["HDGNN"] == {"val_id": 510}, "no number for fold_0"
    comparison = compare({"a": {split: model(0.5, 0)[split] for split in ("val_id", "val_ood_ads")}}, num_resamples=5)
    row = next(line for line in markdown(comparison, [], with_paper=True).splitlines() if "*DimeNet++*" in line)
    assert row == "| *DimeNet++* \\* | *562* | *725* | *644* |"


def test_a_table_wider_than_the_terminal_keeps_its_names_and_numbers(tmp_path):
    of_split = next(iter(model(0.5, 0).values()))
    names = ["HDGNN (2024-01-01-first-run)", "HDGNN (2024-01-02-second-run)"]
    comparison = compare({name: {f"fold_{k}": of_split for k in range(9)} for name in names}, num_resamples=5)
    with (tmp_path / "terminal").open("w") as file:
        print_tables(comparison, [], with_paper=False, console=Console(width=60, file=file))
    lines = (tmp_path / "terminal").read_text().splitlines()
    assert all(any(f" {split} " in line for line in lines) for split in comparison.splits)
    for estimate in comparison.scores["mae"][names[1]].values():
        assert any(f" {estimate.low:.0f}…{estimate.high:.0f} " in line for line in lines)
    assert {"HDGNN", "(2024-01-01-first-run)"} <= set(" ".join(lines).split())


def test_tables_hold_the_same_numbers_in_every_format(tmp_path):
    comparison = compare({"a | b": model(0.5, 0), "c": model(0.6, 1)}, num_resamples=20)
    write_tables(comparison, ["a note"], {"seed": 0}, tmp_path, with_paper=True)
    report = json.loads((tmp_path / "table.json").read_text())
    value = report["scores"]["mae"]["c"]["val_ood_ads"]["value"]
    assert value == comparison.scores["mae"]["c"]["val_ood_ads"].value
    assert report["units"] == {"mae": "meV", "ewt": "%"} and report["seed"] == 0
    rows = (tmp_path / "table.csv").read_text().splitlines()
    assert any(row.startswith(f"c,val_ood_ads,400,mae,meV,{value}") for row in rows)
    text = (tmp_path / "table.md").read_text()
    assert f"| {value:.0f} (" in text and "a \\| b" in text and "a note" in text
    widths = {line.count(" | ") for line in text.splitlines() if line.startswith("| ")}
    assert len(widths) == 1
    assert "*HDGNN*" not in markdown(comparison, [], with_paper=False)
