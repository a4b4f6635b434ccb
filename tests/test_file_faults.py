"""Files that are damaged, gone or cannot be written: an error that names them, and never half a file."""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from small_runs import ENVIRONMENT, arguments, load, write_config, write_lmdb
from torch_geometric.data import Data

from fairchem_hdgnn.data.directories import new_directory
from fairchem_hdgnn.data.lmdb import write_lmdb as write_records
from fairchem_hdgnn.data.npz import read_npz, write_npz
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.files import complete_or_absent
from fairchem_hdgnn.host.checkpoints import read_checkpoint, write_checkpoint
from fairchem_hdgnn.host.fairchem1 import trainer
from fairchem_hdgnn.host.fairchem1.safe_lmdb import SafeLmdbDataset

fault = pytest.mark.fault
Outcome = Callable[[object], None]


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file can grow beyond ``size`` bytes: what a full disk is to a program."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def read_all(path: Path) -> list[Data]:
    dataset = SafeLmdbDataset({"src": str(path)})
    return [dataset[index] for index in range(len(dataset))]


# Reading.


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def spoil_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(os.urandom(8192))


def spoil_records(path: Path) -> None:
    """Overwrite what is inside the records, and inside the copies that LMDB leaves in unused space; its pages stay."""
    name = b"torch_geometric"
    path.write_bytes(path.read_bytes().replace(name, b"?" * len(name)))


def change_record(path: Path, key: bytes, value: bytes | None) -> None:
    with lmdb.open(str(path), subdir=False) as environment, environment.begin(write=True) as transaction:
        transaction.delete(key) if value is None else transaction.put(key, value)
    path.with_name(path.name + "-lock").unlink(missing_ok=True)


DAMAGE: list[tuple[str, Callable[[Path], None], str]] = [
    ("an LMDB cut short", cut, "is truncated"),
    ("an empty LMDB", empty, "is empty, damaged or not an LMDB"),
    ("an LMDB with an overwritten header", spoil_header, "is empty, damaged or not an LMDB"),
    ("an LMDB with overwritten records", spoil_records, "record "),
    ("a record cut short", lambda path: change_record(path, b"1", pickle.dumps(Data(pos=torch.zeros(9, 3)))[:100]),
     "record 1 of"),
    ("a missing record", lambda path: change_record(path, b"2", None), "is 6, but there are 5 records"),
    ("a length larger than the number of records", lambda path: change_record(path, b"length", pickle.dumps(99)),
     "is 99, but there are 6 records"),
    ("a metadata.npz of other data", lambda path: np.savez(path.with_name("metadata.npz"), natoms=np.ones(3, int)),
     "describes 3 systems"),
    ("a metadata.npz cut short", lambda path: cut(path.with_name("metadata.npz")), "cannot be read as plain arrays"),
    ("a metadata.npz that holds an object",
     lambda path: np.savez(path.with_name("metadata.npz"), natoms=np.array([print], dtype=object)),
     "cannot be read as plain arrays"),
    ("a vanished LMDB", Path.unlink, "does not exist"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "message"), [pytest.param(*rest, marks=fault("reading data", what), id=what) for what, *rest in DAMAGE]
)
def test_damaged_data(tmp_path: Path, damage: Callable[[Path], None], message: str, outcome: Outcome) -> None:
    path = write_lmdb(tmp_path / "data.lmdb", 6)
    assert len(read_all(path)) == 6
    damage(path)
    with pytest.raises(DataError) as error:
        read_all(path)
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    outcome(f"error: {error.value}")


@fault("reading data", "an LMDB deleted or replaced while it is read")
def test_open_data_outlive_their_name(tmp_path: Path, outcome: Outcome) -> None:
    path = write_lmdb(tmp_path / "data.lmdb", 6)
    dataset = SafeLmdbDataset({"src": str(path)})
    write_lmdb(tmp_path / "new" / "data.lmdb", 3, seed=1).replace(path)
    assert [dataset[index].sid for index in range(len(dataset))] == [1000 + index for index in range(6)]
    outcome("correct: the records of the file that was opened")


@fault("reading data", "a data set without leave to write")
def test_nothing_is_written_where_data_lie(tmp_path: Path, outcome: Outcome) -> None:
    path = write_lmdb(tmp_path / "data.lmdb", 6)
    path.with_name("data.lmdb-lock").unlink(missing_ok=True)
    before = sorted(tmp_path.iterdir())
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        assert len(read_all(path)) == 6
    finally:
        tmp_path.chmod(0o755)
    assert sorted(tmp_path.iterdir()) == before
    outcome("correct: read; no lock file is made")


# Writing.


@fault("writing", "a full disk, for a checkpoint")
def test_checkpoint_on_a_full_disk(tmp_path: Path, outcome: Outcome) -> None:
    path = tmp_path / "checkpoint.pt"
    write_checkpoint({"step": 1}, path)
    before = path.read_bytes()
    with pytest.raises(DataError) as error, files_up_to(100_000):
        write_checkpoint({"step": 2, "weights": torch.zeros(1_000_000)}, path)
    assert str(error.value).startswith(f"{path}: cannot be written (")
    assert "an existing file is unchanged" in str(error.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    outcome("error: checkpoint.pt: cannot be written; an existing file is unchanged")


@fault("writing", "a full disk, for predictions")
def test_predictions_on_a_full_disk(tmp_path: Path, outcome: Outcome) -> None:
    path = tmp_path / "val_id.npz"
    write_npz(path, {"energy": np.ones(3)})
    with pytest.raises(DataError) as error, files_up_to(10_000):
        write_npz(path, {"energy": np.random.default_rng(0).random(100_000)})
    assert list(read_npz(path)["energy"]) == [1, 1, 1]
    assert list(tmp_path.iterdir()) == [path]
    assert "File too large" in str(error.value)
    outcome(f"error: {error.value}")


@fault("writing", "a full disk, for predictions of the trainer")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of numpy's unfinished archive
def test_results_of_the_trainer_on_a_full_disk(tmp_path: Path, outcome: Outcome) -> None:
    ours = trainer.Trainer.__new__(trainer.Trainer)
    ours.name, ours.config = "ocp", {"cmd": {"results_dir": str(tmp_path)}}
    rng = np.random.default_rng(0)

    def save(count: int) -> None:
        ids = [str(index) for index in range(count)]
        ours.save_results({"ids": ids, "energy": list(rng.random(count))}, "predictions")

    save(3)
    with pytest.raises(DataError, match="results cannot be written") as error, files_up_to(10_000):
        save(10_000)
    assert [path.name for path in tmp_path.iterdir()] == ["ocp_predictions.npz"]
    assert len(read_npz(tmp_path / "ocp_predictions.npz")["ids"]) == 3
    assert ours.config["cmd"]["results_dir"] == str(tmp_path)
    outcome(f"error: {error.value}")


@fault("writing", "a full disk, for an LMDB")
def test_lmdb_on_a_full_disk(tmp_path: Path, outcome: Outcome) -> None:
    target = tmp_path / "data"
    records = (Data(pos=torch.rand(1000, 3), natoms=1000, sid=index) for index in range(200))
    with pytest.raises(DataError) as error, files_up_to(500_000), new_directory(target) as partial:
        write_records(partial, records)
    assert "cannot write" in str(error.value)
    assert not list(tmp_path.iterdir())
    outcome("error: cannot write data.lmdb ...; is the disk full?")


@fault("writing", "a folder that cannot be made")
def test_folder_that_is_a_file(tmp_path: Path, outcome: Outcome) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError) as error:
        write_npz(tmp_path / "out" / "val_id.npz", {"energy": np.ones(3)})
    outcome(f"error: {error.value}")


@fault("interruption", "Ctrl-C while a file is written")
def test_interrupted_file(tmp_path: Path, outcome: Outcome) -> None:
    path = tmp_path / "file"
    path.write_text("whole")
    with pytest.raises(KeyboardInterrupt), complete_or_absent(path) as temporary:
        temporary.write_text("ha")
        raise KeyboardInterrupt
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]
    outcome("the earlier file is intact; nothing else is left")


@fault("interruption", "Ctrl-C while a data set is made")
def test_interrupted_directory(tmp_path: Path, outcome: Outcome) -> None:
    def records() -> Iterator[Data]:
        yield Data(pos=torch.rand(10, 3), natoms=10, sid=1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), new_directory(tmp_path / "data") as partial:
        write_records(partial, records())
    assert not list(tmp_path.iterdir())
    outcome("nothing is left")


@fault("interruption", "Ctrl-C in a training")
def test_interrupted_training(tmp_path: Path, outcome: Outcome) -> None:
    config = write_config(tmp_path, max_epochs=10_000)
    command = [sys.executable, "-m", "fairchem_hdgnn.cli", "train", *arguments(config, "stopped")]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=ENVIRONMENT, cwd=tmp_path, stdout=log, stderr=log)
        checkpoint = tmp_path / "checkpoints" / "stopped" / "checkpoint.pt"
        deadline = time.monotonic() + 120
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        status = process.wait(timeout=60)
    message = (tmp_path / "log").read_text()
    assert status == 130, message[-2000:]
    assert "interrupted; no file is half-written" in message
    assert "Traceback" not in message
    assert load(tmp_path, "stopped")["step"] >= 1
    assert not list(checkpoint.parent.glob(".*.tmp"))
    outcome("exit status 130, one line; the last checkpoint is whole")


@fault("interruption", "Ctrl-C in a backward pass")
def test_interrupted_backward_pass(outcome: Outcome) -> None:
    command = [sys.executable, "-c", INTERRUPTED_BACKWARD]
    assert subprocess.run(command, env=ENVIRONMENT, check=False).returncode == 130
    outcome("exit status 130; what autograd had yet to visit does not outlive the interpreter")


INTERRUPTED_BACKWARD = """
import sys, torch
from fairchem_hdgnn.host.stop_conditions import backward_queue_emptied

class Interrupt(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise KeyboardInterrupt

def train():
    x = torch.ones(3, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        waiting = torch.nn.functional.silu(2 * x)
    (waiting + Interrupt.apply(2 * x)).sum().backward()

try:
    with backward_queue_emptied():
        train()
except KeyboardInterrupt:
    sys.exit(130)
"""


# Checkpoints.


def trained() -> dict:
    return {"config": {}, "state_dict": {"weight": torch.zeros(100, 100)}, "normalizers": {}}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(cut, "truncated", marks=fault("checkpoint", "cut short")),
        pytest.param(empty, "not a PyTorch checkpoint", marks=fault("checkpoint", "empty")),
        pytest.param(spoil_header, "not a PyTorch checkpoint", marks=fault("checkpoint", "overwritten")),
        pytest.param(Path.unlink, "no such checkpoint", marks=fault("checkpoint", "vanished")),
    ],
)
def test_damaged_checkpoint(tmp_path: Path, damage: Callable[[Path], None], message: str, outcome: Outcome) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(trained(), path)
    assert read_checkpoint(path)["normalizers"] == {}
    damage(path)
    with pytest.raises(DataError) as error:
        read_checkpoint(path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)
    outcome(f"error: {error.value}")
