"""``fairchem-hdgnn recipe``: from one's own structures to a config that trains."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from fairchem.core.common import distutils
from fairchem_batches import system
from small_runs import write_lmdb

from fairchem_hdgnn.checks.own_data import SAMPLE
from fairchem_hdgnn.checks.recipe import FEWEST_EPOCHS, MOST_EPOCHS, Tasks, make_recipe
from fairchem_hdgnn.checks.records import sample
from fairchem_hdgnn.cli import main
from fairchem_hdgnn.data.lmdb import write_lmdb as write_records
from fairchem_hdgnn.data.reading import Records


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """24 and 6 structures of 4 to 9 atoms."""
    write_lmdb(tmp_path / "own/train/data.lmdb", 24)
    write_lmdb(tmp_path / "own/val_id/data.lmdb", 6, seed=1)
    return tmp_path / "own"


@pytest.mark.parametrize("model", ["hdgnn", "escn_so2"])
def test_sizes_follow_from_the_data(root: Path, model: str) -> None:
    recipe = make_recipe(root, model)
    records = list(Records(root / "train"))
    labels = np.array([record.y_relaxed for record in records])
    atoms = np.mean([len(record.pos) for record in records])
    config = recipe.config
    normalizer = config["dataset"]["train"]["transforms"]["normalizer"]["energy"]
    assert normalizer == {
        "mean": pytest.approx(labels.mean(), abs=1e-6),
        "stdev": pytest.approx(labels.std(), abs=1e-6),
    }
    assert config["model"]["energy_scale"] == pytest.approx(atoms**-0.5, abs=0.005)
    assert 1 < config["model"]["mean_neighbors"] <= config["model"]["max_neighbors"]
    assert config["optim"]["max_epochs"] == MOST_EPOCHS
    assert recipe.steps == 3 * MOST_EPOCHS
    assert config["optim"]["ema_decay"] ** recipe.steps < 1e-4, "the averages do not keep initial weights"
    assert make_recipe(root, model, epochs=2000).config["optim"]["ema_decay"] == 0.995


def test_more_structures_take_fewer_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as take the usual number of steps, until there would be too few."""
    monkeypatch.setattr("fairchem_hdgnn.checks.recipe.TRAINING_STEPS", 150)
    records = [system([[0.0, 0.0, 0.0], [1.0, 1.0, 1.1]], [6, 8], sid=index) for index in range(2)]
    for index, record in enumerate(records):
        record.y_relaxed = float(index)
    for name, count in (("some", 20), ("many", 100)):
        for split, repeats in (("train", count), ("val", 1)):
            (tmp_path / name / split).mkdir(parents=True)
            write_records(tmp_path / name / split, repeats * records)
    assert make_recipe(tmp_path / "some").epochs == 150 / 5, "40 structures are five steps of eight"
    assert make_recipe(tmp_path / "many").epochs == FEWEST_EPOCHS


def test_what_it_writes_passes_the_check_and_trains(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["recipe", str(root), "--epochs", "2"]) == 0
    out = capfd.readouterr().out
    assert "Structures:    24 to train on, 7 atoms on average" in out and "2 epochs, 6 steps" in out
    assert "fairchem-hdgnn check recipe.yml" in out
    text = (tmp_path / "recipe.yml").read_text()
    assert "# Structures     24 to train on, 7 atoms on average" in text
    assert main(["check", "recipe.yml"]) == 0
    narrow = [f"--model.{key}=4" for key in ("sphere_channels", "hidden_channels", "edge_channels")]
    try:
        common = [
            "--config-yml",
            "recipe.yml",
            "--cpu",
            "--optim.num_workers=0",
            "--timestamp-id",
            "run",
            "--run-dir",
            str(tmp_path),
            *narrow,
        ]
        assert main(["train", "--mode", "train", *common]) == 0
    finally:
        distutils.cleanup()
    checkpoint = torch.load(tmp_path / "checkpoints/run/checkpoint.pt", map_location="cpu", weights_only=False)
    assert checkpoint["step"] == 2 * 3


def test_relaxed_positions_are_used_where_there_are_any(root: Path, tmp_path: Path) -> None:
    assert "displacement" not in make_recipe(root).config["outputs"], "they are the initial ones"
    for split in ("train", "val_id"):
        records = list(Records(root / split))
        for record in records:
            record.pos_relaxed = record.pos + 0.2
        (tmp_path / "moved" / split).mkdir(parents=True)
        write_records(tmp_path / "moved" / split, records)
    config = make_recipe(tmp_path / "moved").config
    assert config["outputs"]["displacement"]["level"] == "atom"
    assert config["dataset"]["train"]["transforms"]["noisy_nodes"] == {"probability": 0.5, "standard_deviation": 0.1}
    assert set(config["dataset"]["train"]["transforms"]["normalizer"]) == {"energy", "displacement"}
    assert config["model"]["regress_forces"] is True
    assert "displacement" not in make_recipe(tmp_path / "moved", tasks=Tasks(noisy_nodes=False)).config["outputs"]


def test_validation_on_training_structures_is_noted(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["recipe", str(root), "--out", str(tmp_path / "a.yml")]) == 0
    assert "Validate on structures" not in capsys.readouterr().out
    shutil.rmtree(root / "val_id")
    shutil.copytree(root / "train", root / "val_id")
    assert main(["recipe", str(root), "--out", str(tmp_path / "b.yml")]) == 0
    assert "Note: 24 of 24 validation structures have the elements and the y_relaxed of a" in capsys.readouterr().out


def test_another_label(root: Path, tmp_path: Path) -> None:
    assert main(["recipe", str(root), "--label", "y_init", "--out", str(tmp_path / "a.yml")]) == 0
    config = yaml.safe_load((tmp_path / "a.yml").read_text())
    assert config["dataset"]["train"]["key_mapping"] == {"y_init": "energy"}


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda root: (root / "val_id").rename(root / "validation"),
            "val_id: no LMDB for split 'val_id' (it has train, validation)",
        ),
        (lambda root: (root / "train").rename(root / "a"), "train: no LMDB for split 'train' (it has a, val_id)"),
    ],
)
def test_missing_splits(root: Path, capsys: pytest.CaptureFixture, break_it, message: str) -> None:
    break_it(root)
    assert main(["recipe", str(root)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_labels(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["recipe", str(root), "--label", "gap"]) == 2
    assert "no 'gap'; it has" in capsys.readouterr().err
    record = system([[0.0, 0.0, 0.0], [1.0, 1.0, 1.1]], [6, 8])
    record.y_relaxed = 1.0
    for split in ("train", "val"):
        (tmp_path / "same" / split).mkdir(parents=True)
        write_records(tmp_path / "same" / split, [record])
    assert main(["recipe", str(tmp_path / "same")]) == 2
    assert "all 1 structures have y_relaxed = 1; there is nothing to learn" in capsys.readouterr().err


def test_molecules_without_a_cell_are_not_periodic(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Such as QM9's, whose label need not be an energy in eV."""
    for split, count in (("train", 8), ("val", 2)):
        records = [system([[0.0, 0.0, 0.0], [0.0, 0.0, 1.1]], [6, 8], cell=0.0, sid=index) for index in range(count)]
        for index, record in enumerate(records):
            record.gap = 7000.0 + 100 * index
        (tmp_path / "molecules" / split).mkdir(parents=True)
        write_records(tmp_path / "molecules" / split, records)
    out = tmp_path / "recipe.yml"
    assert main(["recipe", str(tmp_path / "molecules"), "--label", "gap", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "not for 8" in printed and "float32" not in printed
    model = yaml.safe_load(out.read_text())["model"]
    assert model["use_pbc"] is False and model["mean_neighbors"] == 1.0
    assert main(["check", str(out)]) == 0


@pytest.mark.parametrize("split", ["train", "val"])
def test_few_periodic_structures_among_molecules_count(tmp_path: Path, split: str) -> None:
    for each in ("train", "val"):
        records = [system([[0.0, 0.0, 0.0], [0.0, 0.0, 1.1]], [6, 8], cell=0.0, sid=index) for index in range(200)]
        for index, record in enumerate(records):
            record.y_relaxed, record.pbc = 0.01 * index, torch.zeros(1, 3, dtype=torch.bool)
        if each == split:
            position = sampled_out(len(records)) if each == "train" else 0
            records[position].cell, records[position].pbc = 8.0 * torch.eye(3)[None], torch.ones(1, 3, dtype=torch.bool)
        (tmp_path / "own" / each).mkdir(parents=True)
        write_records(tmp_path / "own" / each, records)
    assert make_recipe(tmp_path / "own").config["model"]["use_pbc"] is True


def sampled_out(length: int) -> int:
    """A record that a sample for neighbours does not have."""
    return next(index for index in range(length) if index not in sample(length, SAMPLE))


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos": torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, np.nan]])}, "atom 1 is at [0.0, 0.0, nan]; remove"),
        ({"cell": torch.zeros(1, 3, 3)}, "its cell has no volume; correct it"),
        ({"cell": None}, "records have no 'cell', which the trainer reads; re-create the LMDB"),
        ({"atomic_numbers": torch.tensor([6.0, 300.0])}, "atom 1 has atomic number 300; remove it"),
        ({"fixed": torch.zeros(1)}, "'fixed' is [1], not a tensor of shape [2]; re-create the LMDB"),
        ({"pos_relaxed": torch.zeros(3, 3)}, "'pos_relaxed' is [3, 3], not [2, 3]; re-create the LMDB"),
    ],
)
def test_a_record_that_is_no_structure_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture, split: str, change: dict, message: str
) -> None:
    for each in ("train", "val"):
        records = [system([[0.0, 0.0, 0.0], [0.0, 0.0, 1.1]], [6, 8], sid=index) for index in range(3)]
        for index, record in enumerate(records):
            record.y_relaxed = float(index)
        if each == split:
            for name, value in change.items():
                records[2][name] = value
                if value is None:
                    del records[2][name]
        (tmp_path / "own" / each).mkdir(parents=True)
        write_records(tmp_path / "own" / each, records)
    assert main(["recipe", str(tmp_path / "own")]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{split}/data.lmdb, record 2: {message}" in line


def test_nothing_is_overwritten(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "recipe.yml").write_text("mine")
    assert main(["recipe", str(root), "--out", str(tmp_path / "recipe.yml")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "recipe.yml").read_text() == "mine"
