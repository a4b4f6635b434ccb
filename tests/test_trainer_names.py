"""fairchem's trainer has several names; whichever a config uses, its checkpoints open everywhere."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ase import Atoms
from fairchem.core.common.relaxation.ase_utils import OCPCalculator
from fairchem_escn import TINY
from small_runs import TINY_ESCN, load, losses, train, write_config

from fairchem_hdgnn.cli import main
from fairchem_hdgnn.host.fairchem1.config_forms import checkpoint_config
from fairchem_hdgnn.host.fairchem1.inference import calculator

ATOMS = Atoms("PtCuO", [[0.0, 0, 0], [2.4, 0.3, 0], [0.2, 2.0, 1.1]], cell=[6.0, 6.1, 6.2], pbc=True)
STORED = {"energy": "is2re", "forces": "s2ef"}
"""Name of the trainer in a config -> name in its checkpoints."""

CHECKPOINT = "checkpoints/run/checkpoint.pt"


def with_forces(config: Path) -> Path:
    """The config, to learn energies and vectors."""
    settings = yaml.safe_load(config.read_text())
    for split in settings["dataset"].values():
        split["key_mapping"]["pos_relaxed"] = "forces"  # any vectors will do
    settings["outputs"]["forces"] = {"level": "atom", "train_on_free_atoms": True, "eval_on_free_atoms": True}
    settings["loss_functions"].append({"forces": {"fn": "l2mae", "coefficient": 1}})
    settings["evaluation_metrics"]["metrics"]["forces"] = ["mae"]
    config.write_text(yaml.safe_dump(settings))
    return config


def train_under(name: str, model: dict[str, Any], folder: Path) -> Path:
    """A folder in which fairchem's own trainer has made six steps under one of its names, and data for commands."""
    config = write_config(folder, {**model, "regress_forces": name == "forces"}, trainer=name, max_epochs=1)
    train(with_forces(config) if name == "forces" else config, "run")
    assert load(folder, "run")["config"]["trainer"] == STORED[name]
    for source, split in (("train", "train"), ("val", "val_id"), ("val", "test_id")):
        shutil.copytree(folder / source, folder / "data" / split)
    return folder


@pytest.fixture(scope="module")
def fairchems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fairchem's eSCN after ``trainer: forces``."""
    return train_under("forces", {"name": "escn", **TINY, "use_pbc": True}, tmp_path_factory.mktemp("fairchem"))


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This package's eSCN after ``trainer: energy``."""
    return train_under("energy", TINY_ESCN, tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def converted(fairchems: Path) -> Path:
    """What ``convert`` makes of fairchem's eSCN."""
    out = fairchems / "converted.pt"
    assert main(["convert", "--from", "fairchem-escn", str(fairchems / CHECKPOINT), str(out)]) == 0
    return out


def energy(calculator: OCPCalculator) -> float:
    atoms = ATOMS.copy()
    atoms.calc = calculator
    return float(atoms.get_potential_energy())


def opened_by_commands(path: Path, data: Path, tmp_path: Path, *, turned: bool = True) -> None:
    """Check that each command that runs a checkpoint, and the calculator, take this one."""
    commands = [
        ["evaluate", "--checkpoint", path, "--data", data, "--splits", "val_id"],
        ["predict", "--checkpoint", path, "--data", data, "--splits", "test_id", "--out", tmp_path / "predictions"],
    ]
    if turned:
        commands.append(["equivariance", path, data / "val_id/data.lmdb", "--systems", "2"])
    for command in commands:
        assert main([*map(str, command), "--cpu"]) == 0, command
    assert abs(energy(calculator(path, cpu=True))) < 100


def test_commands_open_fairchems_checkpoint(fairchems: Path, tmp_path: Path) -> None:
    opened_by_commands(fairchems / CHECKPOINT, fairchems / "data", tmp_path, turned=False)


def test_commands_open_a_checkpoint_of_fairchems_trainer_with_our_model(ours: Path, tmp_path: Path) -> None:
    opened_by_commands(ours / CHECKPOINT, ours / "data", tmp_path)


def test_commands_open_what_was_converted(converted: Path, fairchems: Path, tmp_path: Path) -> None:
    opened_by_commands(converted, fairchems / "data", tmp_path)


def test_fairchem_opens_what_was_converted(converted: Path, fairchems: Path) -> None:
    contents = torch.load(converted, weights_only=True)
    theirs = energy(OCPCalculator(checkpoint_path=converted, cpu=True, seed=0))
    assert theirs == pytest.approx(energy(calculator(converted, cpu=True)), rel=1e-5)
    settings = yaml.safe_load((fairchems / "config.yml").read_text())
    for trainer in ("forces", "ocp"):
        config = fairchems / f"{trainer}.yml"
        config.write_text(yaml.safe_dump({**settings, "trainer": trainer, "model": contents["config"]["model"]}))
        train(config, f"validate-{trainer}", "--mode=validate", f"--checkpoint={converted}")
        assert losses(fairchems, f"validate-{trainer}", "val/energy_mae")


@pytest.mark.parametrize("whose", ["fairchems", "ours"])
def test_training_goes_on_under_every_name(whose: str, request: pytest.FixtureRequest) -> None:
    """Our trainer from fairchem's checkpoint, then fairchem's, under its own name, from ours."""
    folder = request.getfixturevalue(whose)
    settings = yaml.safe_load((folder / "config.yml").read_text())
    config, run = folder / "on.yml", "run"
    for epochs, trainer in ((2, "fairchem_hdgnn.Trainer"), (3, settings["trainer"])):
        config.write_text(yaml.safe_dump({**settings, "trainer": trainer}))
        checkpoint = folder / "checkpoints" / run / "checkpoint.pt"
        run = f"epoch-{epochs}"
        train(config, run, f"--checkpoint={checkpoint}", f"--optim.max_epochs={epochs}")
        assert load(folder, run)["step"] == 6 * epochs
        assert sorted(losses(folder, run)) == list(range(6 * epochs - 5, 6 * epochs + 1))


@pytest.mark.parametrize("name", ["ocp", "energy", "forces", "is2re", "s2ef", "equiformerv2_forces"])
def test_a_checkpoint_means_fairchems_one_trainer(name: str) -> None:
    config = {"trainer": name, "loss_functions": [{"energy": {"fn": "mae", "coefficient": 1}}]}
    assert checkpoint_config({"config": config})["trainer"] == "ocp"
    assert config["trainer"] == name
