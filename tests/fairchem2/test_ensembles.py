"""Ensembles of networks, for which no fairchem is needed: checkpoints of 1.10 under fairchem-core 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fc2_after_structures import structures

from fairchem_hdgnn.cli import main
from fairchem_hdgnn.data.lmdb import write_lmdb
from fairchem_hdgnn.data.npz import read_npz
from fairchem_hdgnn.data.records import atoms_to_record

# fairchem and what it imports warn of their own affairs.
pytestmark = pytest.mark.filterwarnings("ignore")

CHECKPOINT = Path(__file__).parents[1] / "data/hdgnn_paper.pt"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One labelled split of slabs."""
    folder = tmp_path_factory.mktemp("lmdb")
    records = []
    for sid in range(4):
        atoms = structures()["slab"]
        atoms.rattle(0.1, seed=sid)
        record = atoms_to_record(atoms, sid)
        record.energy = float(sid)
        records.append(record)
    (folder / "val_id").mkdir()
    write_lmdb(folder / "val_id", records)
    return folder


def variant(folder: Path, name: str, **config: Any) -> Path:
    """The checkpoint with other weights, and other sections of its config."""
    contents = torch.load(CHECKPOINT, weights_only=True)
    contents["state_dict"] = {
        key: weight * 1.01 if weight.is_floating_point() else weight for key, weight in contents["state_dict"].items()
    }
    contents["config"] = {**contents["config"], **config}
    torch.save({**contents, "ema": None}, folder / name)
    return folder / name


def test_spread_of_checkpoints_and_draws(root: Path, tmp_path: Path) -> None:
    paths = [str(CHECKPOINT), str(variant(tmp_path, "other.pt"))]
    common = ["--data", str(root), "--splits", "val_id", "--cpu", "--batch-size", "4"]
    out = tmp_path / "out"
    command = ["evaluate", "--checkpoint", *paths, "--names", "a", "b", "--ensemble", "--frame-draws", "2"]
    assert main([*command, *common, "--bootstrap", "2", "--out", str(out)]) == 0
    energies = []
    for path in paths:
        for seed in (0, 2):  # each draw averages two seeds
            alone = tmp_path / f"{Path(path).stem}{seed}"
            assert (
                main(["predict", "--checkpoint", path, *common, "--set", f"frame_seed={seed}", "--out", str(alone)])
                == 0
            )
            energies.append(read_npz(alone / "val_id.npz")["energy"].astype(np.float64))
    found = read_npz(out / "predictions/ensemble/val_id.npz")
    np.testing.assert_allclose(found["energy"], np.mean(energies, 0), rtol=1e-6)
    np.testing.assert_allclose(found["energy_std"], np.std(energies, 0), rtol=1e-3)
    calibration = json.loads((out / "table.json").read_text())["calibration"]["splits"]["val_id"]
    assert calibration["mean_between"] > 0 and calibration["mean_within"] > 0


def test_other_targets_are_named(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = torch.load(CHECKPOINT, weights_only=True)["config"]
    gap = variant(tmp_path, "gap.pt", model={**config["model"], "output_name": "gap"}, outputs={"gap": {}})
    command = ["predict", "--checkpoint", str(CHECKPOINT), str(gap), "--ensemble", "--data", str(root), "--cpu"]
    assert main([*command, "--splits", "val_id", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "hdgnn_paper.pt predicts energy, " in error and "gap.pt predicts gap;" in error and error.count("\n") == 1
