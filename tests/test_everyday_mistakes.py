"""What people get wrong on the first day: one line with the remedy, or simply what they meant."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fairchem.core.common import distutils
from small_runs import arguments, load, run_here, train, write_config, write_lmdb

from fairchem_hdgnn import cli
from fairchem_hdgnn.errors import DataError, UserError
from fairchem_hdgnn.host.fairchem1.runner import with_device

fault = pytest.mark.fault
Outcome = Callable[[object], None]
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@pytest.fixture(autouse=True)
def _without_process_group() -> Iterator[None]:
    """A run that stopped leaves its process group to the process's end."""
    yield
    distutils.cleanup()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = write_config(tmp_path, max_epochs=1)
    settings = yaml.safe_load(path.read_text())
    for split in settings["dataset"].values():
        split["format"] = "safe_lmdb"
    path.write_text(yaml.safe_dump(settings))
    return path


def message_of(capfd: pytest.CaptureFixture, command: list[str]) -> str:
    """The line that a command ends with, once its status has been looked at."""
    capfd.readouterr()
    assert cli.main(command) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("fairchem-hdgnn")]
    assert len(lines) == 1
    return lines[0]


def command(config: Path, *extra: str, cpu: bool = True) -> list[str]:
    return ["train", *(flag for flag in arguments(config, "run") if cpu or flag != "--cpu"), *extra]


# The device.


@NO_GPU
@fault("command line", "no GPU and no --cpu")
def test_training_without_a_gpu(config: Path, capfd: pytest.CaptureFixture, outcome: Outcome) -> None:
    message = message_of(capfd, command(config, cpu=False))
    assert "torch finds no GPU: add --cpu" in message
    outcome(message)


@NO_GPU
def test_predictions_without_a_gpu_are_made_on_the_cpu(config: Path) -> None:
    train(config, "weights")
    checkpoint = config.parent / "checkpoints" / "weights" / "checkpoint.pt"
    assert cli.main(command(config, "--mode=validate", f"--checkpoint={checkpoint}", cpu=False)) == 0
    distutils.cleanup()
    with pytest.raises(UserError, match="add --cpu"):
        with_device({"mode": "train", "cpu": False})


# Checkpoints.


@pytest.mark.parametrize("mode", ["validate", "predict", "run-relaxations"])
def test_modes_that_need_a_checkpoint(config: Path, capfd: pytest.CaptureFixture, mode: str) -> None:
    assert f"--checkpoint: missing; --mode {mode} needs" in message_of(capfd, command(config, f"--mode={mode}"))


@pytest.mark.parametrize(("mode", "split"), [("predict", "test"), ("validate", "val")])
def test_modes_that_need_a_split(config: Path, capfd: pytest.CaptureFixture, mode: str, split: str) -> None:
    contents = yaml.safe_load(config.read_text())
    contents["dataset"].pop(split, None)
    config.write_text(yaml.safe_dump(contents))
    line = message_of(capfd, command(config, f"--mode={mode}", "--checkpoint=any.pt"))
    assert f"dataset.{split}.src: missing, but --mode {mode} needs it; add --dataset.{split}.src=LMDB" in line


@fault("checkpoint", "of another size than the config's model")
def test_checkpoint_of_another_size(config: Path, outcome: Outcome) -> None:
    train(config, "small")
    checkpoint = config.parent / "checkpoints" / "small" / "checkpoint.pt"
    with pytest.raises(DataError) as error:
        train(config, "large", f"--checkpoint={checkpoint}", "--model.lmax=3", "--model.hidden_channels=9")
    assert "(model.hidden_channels: 8 in the file, 9 in the config; model.lmax: 2 in the file, 3 in the config)" in str(
        error.value
    )
    outcome(f"error: {error.value}")


def test_checkpoint_of_another_optimiser(config: Path) -> None:
    train(config, "adam")
    folder = config.parent / "checkpoints" / "adam"
    with pytest.raises(DataError, match=r"was trained with optim\.optimizer AdamW, so it has no state for SGD"):
        train(config, "sgd", f"--checkpoint={folder / 'checkpoint.pt'}", "--optim.optimizer=SGD")
    train(config, "fresh", f"--checkpoint={folder / 'best_checkpoint.pt'}", "--optim.optimizer=SGD")


# Folders.


@fault("command line", "--run-dir that cannot be made")
@pytest.mark.parametrize("place", ["/proc/runs", "{config}"])
def test_folder_that_cannot_be_written(
    config: Path, capfd: pytest.CaptureFixture, place: str, outcome: Outcome
) -> None:
    message = message_of(capfd, command(config, f"--run-dir={place.format(config=config)}"))
    assert re.search(r"--run-dir \S+: ", message)
    outcome(message)


def test_folder_under_fairchems_own_command_line(config: Path) -> None:
    distutils.setup_env_local()
    with pytest.raises(UserError, match="--run-dir /proc/runs: /proc/runs/checkpoints cannot be created"):
        run_here([*arguments(config, "run"), "--run-dir=/proc/runs"])
    distutils.cleanup()


@pytest.mark.parametrize("flag", ["--run-dir={}", "--dataset.train.src={}/train/data.lmdb"])
@pytest.mark.parametrize("place", ["~", "$HDGNN_TEST", "${HDGNN_TEST}"])
def test_home_and_variables_in_paths(config: Path, monkeypatch: pytest.MonkeyPatch, flag: str, place: str) -> None:
    monkeypatch.setenv("HOME", str(config.parent))
    monkeypatch.setenv("HDGNN_TEST", str(config.parent))
    assert cli.main(command(config, flag.format(place))) == 0
    distutils.cleanup()
    assert not [path for path in Path().iterdir() if path.name in (place, "~")]
    assert cli.main(["inspect", f"{place}/val/data.lmdb"]) == 0


def test_variable_that_is_not_set(config: Path, capfd: pytest.CaptureFixture) -> None:
    line = message_of(capfd, command(config, "--dataset.val.src=$HDGNN_UNSET/data.lmdb"))
    assert "dataset.val.src: $HDGNN_UNSET/data.lmdb: the environment variable HDGNN_UNSET is not set" in line


# Runs.


def test_an_empty_task_section(config: Path) -> None:
    """``task:`` with nothing after it is None in YAML."""
    settings = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**settings, "task": None}))
    train(config, "run")
    assert load(config.parent, "run")["step"] == 6


def test_debug_run_with_a_test_set(config: Path, capfd: pytest.CaptureFixture) -> None:
    settings = yaml.safe_load(config.read_text())
    settings["dataset"]["test"] = {"src": str(write_lmdb(config.parent / "test" / "data.lmdb", 3, seed=2))}
    config.write_text(yaml.safe_dump(settings))
    train(config, "debug", "--debug")
    assert not (config.parent / "results" / "debug").exists()
    checkpoint = write_lmdb(config.parent / "any" / "data.lmdb", 1)
    line = message_of(capfd, command(config, "--mode=predict", "--debug", f"--checkpoint={checkpoint}"))
    assert "--debug: writes no files" in line


# Files that are something else.


def ase_database(path: Path) -> Path:
    with sqlite3.connect(path) as connection:
        connection.execute("create table systems (id integer)")
    return path


def lmdb_folder(path: Path, train: Path) -> Path:
    path.mkdir()
    shutil.copy(train, path / "data.mdb")
    return path


def kind_of_file(kind: str, what: str, message: str) -> Any:
    return pytest.param(kind, message, marks=fault("reading data", what), id=kind)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        kind_of_file("database", "an ASE database", "is an ASE database, not an LMDB of records: set format: ase_db"),
        kind_of_file("databases", "a folder of ASE databases", "contains no .lmdb file but a.db, an ASE database"),
        kind_of_file("folder", "a folder with data.mdb", "an LMDB in the form of a folder: write "),
        kind_of_file("empty", "an empty file", "is empty, damaged or not an LMDB (0 bytes)"),
    ],
)
@pytest.mark.parametrize("form", ["lmdb", "safe_lmdb"])
def test_files_that_are_no_lmdb(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture, kind: str, message: str, form: str, outcome: Outcome
) -> None:
    places = {"database": "a.db", "databases": "all", "folder": "mdb", "empty": "empty.lmdb"}
    path = tmp_path / places[kind]
    if kind == "folder":
        lmdb_folder(path, tmp_path / "train" / "data.lmdb")
    elif kind == "empty":
        path.touch()
    else:
        (tmp_path / "all").mkdir()
        ase_database(path / "a.db" if kind == "databases" else path)
    line = message_of(capfd, command(config, f"--dataset.train.src={path}", f"--dataset.train.format={form}"))
    assert message in line
    assert message in message_of(capfd, ["inspect", str(path)])
    outcome(line.replace("dataset.train: ", ""))


def test_the_file_in_an_lmdb_folder_can_be_named(config: Path, tmp_path: Path) -> None:
    folder = lmdb_folder(tmp_path / "mdb", tmp_path / "train" / "data.lmdb")
    train(config, "done", f"--dataset.train.src={folder / 'data.mdb'}")
    assert load(tmp_path, "done")["step"] == 6


@pytest.mark.parametrize(
    ("contents", "message"), [(b"", "is empty; see configs/"), (b"\xff\xfe\x00", "not a text file, so not a config")]
)
def test_files_that_are_no_config(tmp_path: Path, capfd: pytest.CaptureFixture, contents: bytes, message: str) -> None:
    path = tmp_path / "config.yml"
    path.write_bytes(contents)
    assert message in message_of(capfd, ["check", str(path)])


# What to do next.


def test_predict_prints_a_line_that_works(config: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    train(config, "weights")
    checkpoint = tmp_path / "checkpoints" / "weights" / "checkpoint.pt"
    splits = [f"val_{name}" for name in ("id", "ood_ads", "ood_cat", "ood_both")]
    for seed, split in enumerate(splits):
        write_lmdb(tmp_path / "all" / split / "data.lmdb", 3, seed)
    places = ["--data", str(tmp_path / "all"), "--out", str(tmp_path / "predicted")]
    cli.main(["predict", "--checkpoint", str(checkpoint), *places, "--splits", *splits])
    [line] = [line for line in capfd.readouterr().out.splitlines() if line.startswith("Next: fairchem-hdgnn ")]
    words = line.removeprefix("Next: fairchem-hdgnn ").split()
    words[words.index("--out") + 1] = str(tmp_path / "submission.npz")
    assert cli.main(words) == 0
    assert (tmp_path / "submission.npz").is_file()
