"""Ensembles of checkpoints and of draws of edge frames, through evaluate and predict."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_data import SIZES, make_records, write_splits

from fairchem_hdgnn.cli import main
from fairchem_hdgnn.data.lmdb import write_lmdb
from fairchem_hdgnn.data.npz import read_npz
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.evaluation.ensemble import combine, predict_members
from fairchem_hdgnn.evaluation.inference import InferenceOptions, predict_splits
from fairchem_hdgnn.evaluation.predictions import Predictions
from fairchem_hdgnn.host.targets import Target, target_of_config
from fairchem_hdgnn.host.trained import Scale

DATA = Path(__file__).parent / "data"
QUIET = InferenceOptions(cpu=True, progress=False, batch_size=10)
ON_CPU = ["--cpu", "--batch-size", "10"]
NUMBERS = {"val_id": 6, "val_ood_ads": 4}
fault = pytest.mark.fault


def variant(folder: Path, seed: int, source: str = "hdgnn_paper.pt") -> Path:
    """A checkpoint as another seed of the same training might have left it."""
    checkpoint = torch.load(DATA / source, weights_only=True)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in checkpoint["state_dict"].items():
        if weight.is_floating_point():
            noise = torch.randn(weight.shape, generator=generator)
            checkpoint["state_dict"][name] = weight * (1 + 0.03 * noise)
    torch.save({**checkpoint, "ema": None}, folder / f"seed{seed}.pt")
    return folder / f"seed{seed}.pt"


def edited(checkpoint: Path, name: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """A checkpoint beside another, after a change of its contents."""
    contents = torch.load(checkpoint, weights_only=True)
    change(contents)
    torch.save(contents, checkpoint.with_name(name))
    return checkpoint.with_name(name)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labelled splits."""
    folder = tmp_path_factory.mktemp("data")
    for seed, (split, number) in enumerate(NUMBERS.items()):
        records = make_records(number, 1000 * (seed + 1), seed)
        for record in records:
            record.energy = record.y_relaxed
        (folder / split).mkdir()
        write_lmdb(folder / split, records)
    return folder


@pytest.fixture(scope="module")
def sources(root: Path) -> dict[str, Path]:
    return {split: root / split / "data.lmdb" for split in NUMBERS}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return [variant(folder, seed) for seed in range(3)]


@pytest.fixture(scope="module")
def energies(checkpoints: list[Path], sources: dict[str, Path]) -> dict[str, np.ndarray]:
    """Split -> energies of each checkpoint alone, under two seeds of its frames; [checkpoints, draws, systems].

    The checkpoints average two seeds, so the second draw begins at 2.
    """
    found = [
        [predict_splits(path, sources, replace(QUIET, model_overrides={"frame_seed": seed})) for seed in (0, 2)]
        for path in checkpoints
    ]
    return {split: np.array([[draw[split].energy for draw in draws] for draws in found]) for split in NUMBERS}


def test_mean_and_spread_are_those_of_predictions_made_alone(
    checkpoints: list[Path], sources: dict[str, Path], energies: Mapping[str, np.ndarray]
) -> None:
    combined = combine(predict_members(checkpoints, sources, QUIET, num_draws=2))
    for split, found in combined.items():
        expected = energies[split].astype(np.float64)
        assert found.between is not None and found.within is not None
        np.testing.assert_allclose(found.mean.energy, expected.mean((0, 1)), rtol=1e-6)
        np.testing.assert_allclose(found.mean.energy_std, expected.reshape(6, -1).std(0), rtol=1e-4)
        np.testing.assert_allclose(found.between, expected.mean(1).std(0), rtol=1e-4)
        np.testing.assert_allclose(found.within, np.sqrt(expected.var(1).mean(0)), rtol=1e-4)
        assert found.between.min() > 1e-3 and found.within.min() > 1e-3, "or the test tells nothing"


def test_evaluate_has_a_row_of_the_ensemble(
    checkpoints: list[Path], root: Path, energies: Mapping[str, np.ndarray], tmp_path: Path, capsys: Any
) -> None:
    command = ["evaluate", "--names", "a", "b", "--data", str(root), "--splits", "val_id", *ON_CPU]
    paths = ["--checkpoint", *map(str, checkpoints[:2])]
    assert main([*command, *paths, "--ensemble", "--out", str(tmp_path), "--plots", "--bootstrap", "5"]) == 0
    printed = capsys.readouterr().out
    assert "Calibration of the ensemble" in printed and "† The scale was fitted" in printed
    report = json.loads((tmp_path / "table.json").read_text())
    scale = report["calibration"]["std_scale"]
    assert f"predict --std-scale {scale:.3g}" in printed
    with (tmp_path / "systems.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "val_id"]
    expected = energies["val_id"][:2, 0].astype(np.float64)
    of_model = {
        name: np.array([float(row["energy_eV"]) for row in rows if row["model"] == name])
        for name in ("a", "b", "ensemble")
    }
    for name, energy in zip(of_model, [*expected, expected.mean(0)]):
        np.testing.assert_allclose(of_model[name], energy, rtol=1e-6)
    of_ensemble = [row for row in rows if row["model"] == "ensemble"]
    std = np.array([float(row["energy_std_eV"]) for row in of_ensemble])
    scaled = np.array([float(row["scaled_energy_std_eV"]) for row in of_ensemble])
    np.testing.assert_allclose(std, expected.std(0), rtol=1e-4)
    np.testing.assert_allclose(scaled, scale * std, rtol=1e-5)
    assert {row["energy_std_eV"] for row in rows if row["model"] != "ensemble"} == {""}
    errors = np.array([float(row["error_eV"]) for row in of_ensemble])
    assert scale == pytest.approx(np.sqrt(np.mean((errors / std) ** 2)), rel=1e-4)
    mae = report["scores"]["mae"]["ensemble"]["val_id"]["value"]
    assert mae == pytest.approx(1000 * np.abs(errors).mean(), rel=1e-4)
    assert (tmp_path / "calibration.png").exists()
    assert "energy_std" in read_npz(tmp_path / "predictions/ensemble/val_id.npz")
    assert "energy_std" not in read_npz(tmp_path / "predictions/a/val_id.npz")


def test_draws_of_one_checkpoint_go_to_a_checked_submission(
    checkpoints: list[Path], tmp_path: Path, capsys: Any
) -> None:
    data = write_splits(tmp_path / "data", prefix="test", labels=False)
    command = ["predict", "--checkpoint", str(checkpoints[0]), "--ensemble", "--frame-draws", "2", "--data", str(data)]
    assert main([*command, "--out", str(tmp_path / "p"), *ON_CPU, "--std-scale", "3"]) == 0
    printed = capsys.readouterr().out
    sources = {"test_id": data / "test_id/data.lmdb"}
    draws = [predict_splits(checkpoints[0], sources, QUIET, draw=draw)["test_id"].energy for draw in range(2)]
    written = read_npz(tmp_path / "p/test_id.npz")
    assert written["energy_std"].shape == (SIZES["id"],) and written["energy_std"].dtype == np.float32
    np.testing.assert_allclose(written["energy"], np.mean(draws, 0), rtol=1e-6)
    np.testing.assert_allclose(written["energy_std"], 3 * np.std(np.float64(draws), 0), rtol=1e-3)
    advice = re.search(r"Next: fairchem-hdgnn (.*)", printed)
    assert advice is not None
    out = tmp_path / "submission.npz"
    assert main([*advice.group(1).replace("submission.npz", str(out)).split(), "--counts", "any"]) == 0
    assert main(["check-submission", str(out), "--data", str(data), "--counts", "any"]) == 0
    assert {key.removeprefix("id_") for key in read_npz(out) if key.startswith("id_")} == {"ids", "energy"}


def test_forces_and_their_spread(root: Path, tmp_path: Path) -> None:
    members = [variant(tmp_path, seed, "hdgnn_authors.pt") for seed in range(2)]
    source = {"val": root / "val_ood_ads/data.lmdb"}
    found = combine(predict_members(members, source, QUIET, num_draws=1))["val"].mean
    forces = np.array([predict_splits(path, source, QUIET)["val"].forces for path in members], dtype=np.float64)
    np.testing.assert_allclose(found.forces, forces.mean(0), atol=1e-6)
    deviation = np.linalg.norm(forces - forces.mean(0), axis=-1)
    np.testing.assert_allclose(found.forces_std, np.sqrt((deviation**2).mean(0)), rtol=1e-3, atol=1e-6)


def test_an_ensemble_has_forces_if_all_members_have_them() -> None:
    def member(forces: bool) -> Predictions:
        vectors = np.ones((3, 3), dtype=np.float32) if forces else None
        return Predictions(
            ids=np.array(["1", "2"]), energy=np.zeros(2, dtype=np.float32), natoms=np.full(2, 4),
            adsorbate=np.full(2, "O"), elements=np.full(2, "Pt"), forces=vectors, target_forces=vectors,
            free_atoms=np.array([1, 2]) if forces else None,
        )  # fmt: skip

    both, some = ([[{"val": member(True)}], [{"val": member(forces)}]] for forces in (True, False))
    assert combine(both)["val"].mean.forces is not None
    found = combine(some)["val"].mean
    assert found.forces is None and found.target_forces is None and found.forces_std is None


# === what is refused ===================================================================


def energy(**changes: Any) -> Target:
    return Target(**{"outputs": ("energy",), "label": "y_relaxed", "scale": Scale(-1.5, 2.3), **changes})


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (energy(outputs=("gap",)), ("predicts energy", "predicts gap")),
        (energy(outputs=("energy", "forces")), ("predicts energy", "predicts energy, forces")),
        (energy(label="y_init"), ("learnt 'y_relaxed'", "learnt 'y_init'")),
        (energy(scale=Scale(6858.0, 1286.0)), ("has a normalizer of -1.5 ± 2.3", "has a normalizer of 6858 ± 1286")),
        (
            energy(references=True),
            ("does not add energies of the elements", "adds energies of the elements"),
        ),
        (energy(label=None, scale=None), None),
        (energy(scale=Scale(0.0, 1.0)), None),
        (energy(scale=Scale(-1.4, 2.2)), None),
    ],
)
def test_targets_are_told_apart(other: Target, difference: tuple[str, str] | None) -> None:
    assert energy().difference(other) == difference


def test_a_vector_that_only_helps_training_is_no_target() -> None:
    config = {
        "model": {"vector_name": "displacement"},
        "outputs": {"displacement": {}, "energy": {}},
        "dataset": {"key_mapping": {"y_relaxed": "energy"}},
    }
    found = target_of_config(config, {"energy": {"mean": torch.tensor(-1.5), "rmsd": torch.tensor(2.25)}}, {})
    assert found == energy(scale=Scale(-1.5, 2.25))


@pytest.mark.parametrize(
    ("outputs", "label", "unit"),
    [
        (("energy", "forces"), "y_relaxed", "eV"),
        (("energy",), None, "eV"),
        (("energy",), "gap", "(unit of the label 'gap')"),
        (("gap",), "gap", "meV"),
        (("gap",), None, "meV"),
        (("u0",), "u0", "eV"),
        (("band_gap",), None, "(unit of the labels)"),
    ],
)
def test_the_unit_is_that_of_the_label(outputs: tuple[str, ...], label: str | None, unit: str) -> None:
    assert Target(outputs, label, None).unit == unit


def test_labels_of_an_unknown_unit_are_not_called_ev(
    root: Path, checkpoints: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = edited(checkpoints[0], "gap.pt", lambda contents: label(contents, "gap"))
    data = tmp_path / "data"
    for split in NUMBERS:
        records = list(Records(root / split))
        for record in records:
            record.gap = 1000 * record.energy
            del record.energy
        (data / split).mkdir(parents=True)
        write_lmdb(data / split, records)
    common = ["--checkpoint", str(checkpoint), "--data", str(data), "--splits", "val_id", *ON_CPU]
    main(["predict", *common, "--out", str(tmp_path / "predicted")])
    assert re.search(r"energy \S+ ± \S+ \(unit of the label 'gap'\)", capsys.readouterr().out)
    main(["evaluate", *common, "--out", str(tmp_path / "scores"), "--bootstrap", "20"])
    notes = json.loads((tmp_path / "scores/table.json").read_text())["notes"]
    assert "Label: 'gap'. The numbers are in eV, meV and % only if this label is in eV." in notes


def label(contents: dict[str, Any], name: str) -> None:
    contents["config"]["dataset"]["key_mapping"] = {name: "energy"}


def other_label(contents: dict[str, Any]) -> None:
    label(contents, "y_init")


def not_finite(contents: dict[str, Any]) -> None:
    next(weight for name, weight in contents["state_dict"].items() if name.endswith("weight"))[:] = np.nan


def of_gaps(contents: dict[str, Any]) -> None:
    contents["config"]["model"]["output_name"] = "gap"
    contents["config"]["outputs"] = {"gap": {"level": "system"}}
    contents["normalizers"] = {"gap": {"mean": torch.tensor(6858.35), "rmsd": torch.tensor(1285.64)}}


def of_total_energies(contents: dict[str, Any]) -> None:
    contents["normalizers"]["energy"]["mean"] = torch.tensor(-500_000.0)


def test_members_that_predict_total_energies(checkpoints: list[Path], root: Path) -> None:
    """Draws differ by less than 1e-5 of such energies, and are not taken to be the same."""
    members = [edited(path, f"total_{path.name}", of_total_energies) for path in checkpoints[:2]]
    draws = predict_members(members, {"val_id": root / "val_id"}, QUIET, num_draws=2)
    spread = np.abs(draws[0][0]["val_id"].energy - draws[0][1]["val_id"].energy)
    assert 0.1 < spread.max() < 500_000 * 1e-5
    assert draws[0][0]["val_id"].energy.max() < -400_000


def refused(capsys: Any, root: Path, out: Path, paths: list[Path], *flags: str) -> str:
    """The line that predict ends with."""
    command = ["predict", "--checkpoint", *map(str, paths), "--data", str(root), "--splits", "val_id"]
    assert main([*command, "--out", str(out), *ON_CPU, *flags]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fairchem-hdgnn")]
    assert len(lines) == 1 and not list(out.glob("*.npz"))
    return lines[0]


@fault("ensembles", "predict with several checkpoints, without --ensemble")
def test_several_checkpoints_need_ensemble(
    checkpoints: list[Path], root: Path, tmp_path: Path, capsys: Any, outcome: Callable[[object], None]
) -> None:
    message = refused(capsys, root, tmp_path, checkpoints)
    assert "3 checkpoints: add --ensemble" in message
    outcome(message)


@fault("ensembles", "--ensemble of one checkpoint")
def test_an_ensemble_of_one(
    checkpoints: list[Path], root: Path, tmp_path: Path, capsys: Any, outcome: Callable[[object], None]
) -> None:
    message = refused(capsys, root, tmp_path, checkpoints[:1], "--ensemble")
    assert "--ensemble needs several members" in message and "--frame-draws 2" in message
    outcome(message)
    command = ["evaluate", "--checkpoint", str(checkpoints[0]), "--data", str(root), "--splits", "val_id", "--ensemble"]
    assert main(command) == 2 and "needs several members" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--frame-draws", "3"], "--frame-draws 3 needs --ensemble"),
        (["--ensemble", "--frame-draws", "0"], "--frame-draws 0: must be at least 1"),
        (["--std-scale", "2"], "--std-scale needs --ensemble"),
        (["--ensemble", "--frame-draws", "2", "--std-scale", "-1"], "--std-scale -1: must be a number above 0"),
        (["--ensemble", "--frame-draws", "2", "--std-scale", "nan"], "--std-scale nan: must be a number above 0"),
    ],
)
def test_flags_that_do_not_fit(
    checkpoints: list[Path], root: Path, tmp_path: Path, capsys: Any, flags: list[str], words: str
) -> None:
    assert words in refused(capsys, root, tmp_path, checkpoints[:1], *flags)


@fault("ensembles", "a checkpoint given twice")
def test_a_checkpoint_given_twice(
    checkpoints: list[Path], root: Path, tmp_path: Path, capsys: Any, outcome: Callable[[object], None]
) -> None:
    (tmp_path / "link.pt").symlink_to(checkpoints[0])
    message = refused(capsys, root, tmp_path, [*checkpoints[:2], tmp_path / "link.pt"], "--ensemble")
    assert "link.pt is given twice" in message
    outcome(message)


@fault("ensembles", "the same weights in two files")
def test_a_copy_of_a_checkpoint(
    checkpoints: list[Path], root: Path, tmp_path: Path, capsys: Any, outcome: Callable[[object], None]
) -> None:
    (tmp_path / "copy.pt").write_bytes(checkpoints[0].read_bytes())
    message = refused(capsys, root, tmp_path, [checkpoints[0], tmp_path / "copy.pt"], "--ensemble")
    assert "seed0.pt and" in message and "copy.pt give the same energies" in message
    outcome(message)


@fault("ensembles", "checkpoints with different outputs")
def test_different_outputs(
    checkpoints: list[Path], root: Path, tmp_path: Path, capsys: Any, outcome: Callable[[object], None]
) -> None:
    message = refused(capsys, root, tmp_path, [checkpoints[0], DATA / "hdgnn_authors.pt"], "--ensemble")
    assert "seed0.pt predicts energy," in message and "hdgnn_authors.pt predicts energy, forces" in message
    outcome(message)


@fault("ensembles", "a checkpoint of adsorption energies and one of QM9's gaps")
def test_gaps_and_adsorption_energies(
    checkpoints: list[Path], root: Path, tmp_path: Path, capsys: Any, outcome: Callable[[object], None]
) -> None:
    other = edited(checkpoints[1], "gap.pt", of_gaps)
    message = refused(capsys, root, tmp_path, [checkpoints[0], other], "--ensemble")
    assert "seed0.pt predicts energy," in message and "gap.pt predicts gap;" in message
    outcome(message)


@fault("ensembles", "checkpoints that learnt different labels")
def test_different_labels(
    checkpoints: list[Path], root: Path, tmp_path: Path, capsys: Any, outcome: Callable[[object], None]
) -> None:
    other = edited(checkpoints[1], "other_label.pt", other_label)
    message = refused(capsys, root, tmp_path, [checkpoints[0], other], "--ensemble")
    assert "learnt 'energy'" in message and "other_label.pt learnt 'y_init'" in message
    outcome(message)


@fault("ensembles", "a member that predicts NaN")
def test_a_member_that_is_not_finite(
    checkpoints: list[Path], root: Path, tmp_path: Path, capsys: Any, outcome: Callable[[object], None]
) -> None:
    other = edited(checkpoints[1], "nan.pt", not_finite)
    message = refused(capsys, root, tmp_path, [checkpoints[0], other], "--ensemble")
    assert "nan.pt: predicts NaN or infinity, first for system 1000 of val_id" in message
    outcome(message)


@fault("ensembles", "--frame-draws of a model whose frames are fixed")
def test_draws_that_are_all_the_same(
    checkpoints: list[Path], root: Path, tmp_path: Path, capsys: Any, outcome: Callable[[object], None]
) -> None:
    flags = ["--ensemble", "--frame-draws", "3", "--set", "frames=fixed"]
    message = refused(capsys, root, tmp_path, checkpoints[:1], *flags)
    assert (
        "seed0.pt: its predictions do not depend on random frames, so --frame-draws 3 has no effect; omit it" in message
    )
    outcome(message)
