"""Checkpoints from strangers: no command and no function runs what is in them."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from attacks import pickled_checkpoint, tar_checkpoint, torchscript
from small_runs import train, write_config

import fairchem_hdgnn
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.host.checkpoints import read_checkpoint

fault = pytest.mark.fault
Outcome = Callable[[object], None]

ATTACKS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "a call pickled into a checkpoint": (pickled_checkpoint, "contains a pickled"),
    "a call pickled into a checkpoint of old torch": (
        lambda marker: pickled_checkpoint(marker, zipped=False),
        "one from before torch 1.6 needs --trust-checkpoint",
    ),
    "a checkpoint in the oldest (tar) format": (tar_checkpoint, "one from before torch 1.6 needs --trust-checkpoint"),
    "a TorchScript archive in place of a checkpoint": (torchscript, "a TorchScript archive, which can run code"),
}
OPENERS: dict[str, Callable[[Path, Path], object]] = {
    "read_checkpoint": lambda path, folder: read_checkpoint(path),
    "calculator": lambda path, folder: fairchem_hdgnn.calculator(path),
    "evaluate": lambda path, folder: run("evaluate", "--checkpoint", path, "--data", folder, "--splits", "val"),
    "predict": lambda path, folder: run(
        "predict", "--checkpoint", path, "--data", folder, "--splits", "val", "--out", folder
    ),
    "convert": lambda path, folder: run("convert", path, folder / "new.pt", "--from", "fairchem-escn"),
}


def run(*arguments: object) -> None:
    """A command whose error is raised, not printed."""
    parser = argparse.ArgumentParser()
    module = importlib.import_module(f"fairchem_hdgnn.cli.{arguments[0]}")
    module.configure(parser)
    module.run(parser.parse_args([str(argument) for argument in arguments[1:]]))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config and data sets, of which one is at val/data.lmdb."""
    return write_config(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("attack", [pytest.param(name, marks=fault("checkpoint", name)) for name in ATTACKS])
def test_nothing_runs(attack: str, opener: str, data: Path, tmp_path: Path, outcome: Outcome) -> None:
    make, message = ATTACKS[attack]
    path, marker = tmp_path / "checkpoint.pt", tmp_path / "ran"
    path.write_bytes(make(marker))
    with pytest.raises(DataError) as error:
        OPENERS[opener](path, data.parent)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert not marker.exists()
    outcome(f"error: {error.value}")


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_training_does_not_start_from_it(attack: str, data: Path, tmp_path: Path) -> None:
    make, message = ATTACKS[attack]
    path, marker = tmp_path / "checkpoint.pt", tmp_path / "ran"
    path.write_bytes(make(marker))
    with pytest.raises(DataError, match=message):
        train(data, "attacked", f"--checkpoint={path}")
    assert not marker.exists()


@pytest.mark.parametrize(
    "attack", ["a call pickled into a checkpoint", "a TorchScript archive in place of a checkpoint"]
)
@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file")
def test_the_attacks_work_on_torch_alone(attack: str, tmp_path: Path) -> None:
    """Otherwise the tests above show nothing."""
    path, marker = tmp_path / "checkpoint.pt", tmp_path / "ran"
    path.write_bytes(ATTACKS[attack][0](marker))
    torch.load(path, weights_only=attack.startswith("a TorchScript") and torch.__version__ < (2, 6))
    assert marker.exists()
