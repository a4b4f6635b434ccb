"""`fairchem-hdgnn train` and `main.py`: what reaches fairchem, and what is refused before anything starts."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lmdb
import pytest
from fairchem.core.common.registry import registry
from small_runs import ENVIRONMENT, write_lmdb
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

import fairchem_hdgnn
import fairchem_hdgnn_command
from fairchem_hdgnn import cli
from fairchem_hdgnn.checks.files import check_data_sets
from fairchem_hdgnn.cli import train as command_line
from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.host.fairchem1.names import with_dotted_names
from fairchem_hdgnn.host.messages import user_message
from fairchem_hdgnn.host.shipped import shipped_configs

CONFIG = """
model: {name: hdgnn}
dataset: {train: {format: ase_db}}
outputs: {energy: {level: system}}
loss_functions: [energy: {fn: mae, coefficient: 1}]
optim: {max_epochs: 1, lr_initial: 0.1}
"""


@pytest.mark.parametrize(
    ("arguments", "status", "printed"),
    [
        (["--help"], 0, "check the installation"),
        ([], 2, "error: the following arguments are required: COMMAND"),
        (["predikt"], 2, "error: argument COMMAND: invalid choice: 'predikt'"),
    ],
    ids=["help", "none", "unknown"],
)
def test_help_does_not_import_the_package(arguments: list[str], status: int, printed: str, tmp_path: Path) -> None:
    """Which takes seconds."""
    shutil.copy(fairchem_hdgnn_command.__file__, tmp_path / "alone.py")
    line = [sys.executable, "-I", "-S", str(tmp_path / "alone.py"), *arguments]
    done = subprocess.run(line, check=False, capture_output=True, text=True)
    assert done.returncode == status and printed in done.stdout + done.stderr


def test_letters_that_the_terminal_lacks_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="latin-1"))
    monkeypatch.setattr(sys, "argv", ["fairchem-hdgnn", "doctor"])
    monkeypatch.setattr(cli, "main", lambda: print("Å …") or 0)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    try:
        assert fairchem_hdgnn_command.main() == 0
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    sys.stdout.flush()
    assert printed.getvalue().decode("latin-1") == "Å ?\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Configs that would have been run."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(command_line, "runner_wrapper", calls.append)
    return calls


def refusal(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    assert cli.main(["train", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("fairchem-hdgnn train: error: ")
    assert message.count("\n") == 1
    return message


def test_overrides_and_names_reach_fairchem(config: Path, launched: list) -> None:
    assert cli.main(["train", "--mode=train", f"--config-yml={config}", "--cpu", "--model.lmax=4"]) == 0
    [merged] = launched
    assert merged["cpu"]
    assert merged["model"] == {"name": "fairchem_hdgnn.HDGNN", "lmax": 4}


def test_ranks_share_a_run_and_load_their_own_data(
    config: Path, launched: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs on a machine have rendezvous of their own: fairchem's is always port 29400."""
    asked = []
    monkeypatch.setattr(command_line, "elastic_launch", lambda ranks, run: asked.append(ranks) or run)
    assert cli.main(["train", "--mode=train", f"--config-yml={config}", "--num-gpus=3"]) == 0
    assert (asked[0].nproc_per_node, asked[0].rdzv_endpoint) == (3, "localhost:0")
    assert launched[0]["optim"]["num_workers"] == 0


def test_runs_started_together_do_not_share_a_directory(config: Path, launched: list) -> None:
    for _ in range(2):
        cli.main(["train", "--mode=train", f"--config-yml={config}", "--identifier=pair"])
    first, second = (run["timestamp_id"] for run in launched)
    assert first != second
    assert first.endswith("-pair")


def test_a_named_run_keeps_its_name(config: Path, launched: list) -> None:
    cli.main(["train", "--mode=train", f"--config-yml={config}", "--timestamp-id=again"])
    assert launched[0]["timestamp_id"] == "again"


def test_shipped_config_from_anywhere(launched: list, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--mode=train", "--config-yml", "hdgnn:oc20/is2re/10k/hdgnn.yml"]) == 0
    assert launched[0]["model"]["name"] == "fairchem_hdgnn.HDGNN"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--mode=train", "--config-yml=absent.yml"], "no file 'absent.yml'"),
        (["--mode=train", "--config-yml=hdgnn:oc20/is2re/10k/hdgn.yml"], "'hdgnn:oc20/is2re/10k/hdgnn.yml'?"),
        (["--config-yml={config}"], "--mode: missing"),
        (["--mode=train", "--config-yml={config}", "--model.lmax", "4"], "'--model.lmax': not a flag, nor"),
        (["--mode=train", "--config-yml={config}", "--a.b=c=d"], "'--a.b=c=d': not a flag, nor"),
        (["--mode=train", "--config-yml={config}", "--optim="], "section 'optim' is missing or empty"),
        (["--mode=train", "--config-yml={config}", "--optim=3"], "optim: the section is missing, empty or of the"),
        (["--mode=train", "--config-yml={config}", "--num-gpus=0"], "--num-gpus 0: must be at least 1"),
    ],
)
def test_refusals(
    arguments: list[str], message: str, config: Path, launched: list, capsys: pytest.CaptureFixture
) -> None:
    assert message in refusal(capsys, *[argument.format(config=config) for argument in arguments])
    assert not launched


def test_broken_yaml(tmp_path: Path, launched: list, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "broken.yml"
    path.write_text("model: {name: hdgnn\noptim: [")
    assert str(path) in refusal(capsys, "--mode=train", f"--config-yml={path}")


def test_submit_without_slurm(
    config: Path, launched: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "sbatch not found" in refusal(capsys, "--mode=train", f"--config-yml={config}", "--submit")
    assert not launched


@pytest.mark.parametrize(
    "contents, message",
    [
        (None, "does not exist"),
        ({}, "contains no records"),
        ({b"length": pickle.dumps(0)}, "contains no records"),
        (b"", "empty, damaged or not an LMDB"),
        (b"no LMDB" * 1000, "empty, damaged or not an LMDB"),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_data_set_that_cannot_be_used(split: str, contents: dict | bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.lmdb"
    if isinstance(contents, dict):
        with lmdb.open(str(path), subdir=False) as environment, environment.begin(write=True) as transaction:
            for key, value in contents.items():
                transaction.put(key, value)
    elif contents is not None:
        path.write_bytes(contents)
    with pytest.raises(DataError) as error:
        check_data_sets({split: {"src": str(path), "format": "lmdb"}})
    assert message in str(error.value)
    assert str(error.value).startswith(f"dataset.{split}: ")
    assert str(path) in str(error.value)


def test_folder_without_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset\.train: \S+ contains no \.lmdb file"):
        check_data_sets({"train": {"src": str(tmp_path)}})


def test_usable_data_sets(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "data.lmdb", 2)
    check_data_sets({"train": {"src": str(path)}, "val": {"src": str(tmp_path)}, "test": {"format": "ase_db"}})


# Names.


def test_dotted_names_are_those_of_the_registry() -> None:
    ours = {
        name: model
        for name, model in registry.mapping["model_name_mapping"].items()
        if model.__module__.startswith("fairchem_hdgnn.")
    }
    assert {"hdgnn", "hdgnn_backbone", "hdgnn_energy_head", "hdgnn_force_head"} <= set(ours)
    for name, model in ours.items():
        dotted = with_dotted_names({"model": {"name": name}})["model"]["name"]
        assert dotted == f"fairchem_hdgnn.{model.__name__}"
        assert registry.get_model_class(dotted) is model


def test_other_names_stay() -> None:
    config = {"model": {"name": "schnet"}, "optim": {"name": "hdgnn"}}
    assert with_dotted_names(config) == config


# One line for a user's mistake.


def child_failure(message: object) -> ChildFailedError:
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=1, error_file="")
    failure.error_file_data = {"message": message, "errorCode": 1, "timestamp": 0}
    return ChildFailedError("train", {0: failure})


@pytest.mark.parametrize(
    "error, message",
    [
        (ConfigError("no such key"), "no such key"),
        (child_failure({"message": "DataError: a.lmdb: record 3: has no energy"}), "a.lmdb: record 3: has no energy"),
        (child_failure({"message": "RuntimeError: CUDA"}), None),
        (child_failure("none recorded"), None),
        (RuntimeError("other"), None),
        (
            DataError(
                "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
                '  File "dataset.py", line 1\nfairchem_hdgnn.errors.DataError: a.lmdb: record 3: has no energy\n'
            ),
            "a.lmdb: record 3: has no energy",
        ),
    ],
)
def test_user_message(error: Exception, message: str | None) -> None:
    assert user_message(error) == message


def test_a_file_without_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The superuser may read every file, so a refusal is put in the place of opening it."""
    path = write_lmdb(tmp_path / "data.lmdb", 2)

    def refuse(self: Path, *args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "open", refuse)
    assert cli.main(["inspect", str(path)]) == 2
    assert capsys.readouterr().err == f"fairchem-hdgnn inspect: error: {path}: Permission denied\n"


def test_public_names() -> None:
    for name in fairchem_hdgnn.__all__:
        assert getattr(fairchem_hdgnn, name).__name__ == name
    assert shipped_configs().is_dir()
    with pytest.raises(ImportError, match=r"fairchem_hdgnn.OC20Dataset needs fairchem-core 2, and fairchem-core 1\.10"):
        fairchem_hdgnn.OC20Dataset  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        fairchem_hdgnn.nonsense  # noqa: B018


@pytest.mark.parametrize("interrupted", [True, False])
def test_a_dropped_interrupt_is_remembered(
    interrupted: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python drops Ctrl-C in a hook that forks data workers; the worker then ends the loader."""

    def run(args: object) -> None:
        if interrupted:
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(5)
        raise RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")

    monkeypatch.setattr("fairchem_hdgnn.cli.target_stats.run", run)
    before = signal.getsignal(signal.SIGINT)
    if interrupted:
        assert cli.main(["target-stats", "data"]) == 130
        assert capsys.readouterr().err == "fairchem-hdgnn target-stats: interrupted; no file is half-written\n"
    else:
        with pytest.raises(RuntimeError, match="DataLoader worker"):
            cli.main(["target-stats", "data"])
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_in_generated_code_has_the_same_status(tmp_path: Path) -> None:
    """CPython would end by the signal itself."""
    (tmp_path / "interrupted.py").write_text(
        "from fairchem_hdgnn.cli import main, target_stats\n"
        "target_stats.run = lambda args: exec('raise KeyboardInterrupt')\n"
        "raise SystemExit(main(['target-stats', 'data']))\n"
    )
    command = [sys.executable, "-m", "interrupted"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 130 and "interrupted; no file is half-written" in done.stderr
