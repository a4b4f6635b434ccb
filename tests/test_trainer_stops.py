"""What ends a run, and what it leaves behind: whole checkpoints and messages that name the culprit."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import preloaded
import pytest
import torch
from fairchem.core.common import distutils
from small_runs import ENVIRONMENT, arguments, fairchem, interrupt_at, load, losses, run_here, train, write_config
from torch_geometric.data import Batch, Data

import fairchem_hdgnn
from fairchem_hdgnn import cli
from fairchem_hdgnn.errors import ConfigError, DataError, TrainingError
from fairchem_hdgnn.host import preemption
from fairchem_hdgnn.host.fairchem1.run_directories import exclusive_use, new_run_id
from fairchem_hdgnn.host.fairchem1.trainer import Trainer
from fairchem_hdgnn.host.preemption import PREEMPTED_EXIT_STATUS, PreemptionWatch, held_back, job_run_id
from fairchem_hdgnn.host.stop_conditions import check_free_atoms

fault = pytest.mark.fault
Outcome = Callable[[object], None]


def spoil(monkeypatch: pytest.MonkeyPatch, name: str, step: int, change: Any) -> None:
    """Let ``Trainer.<name>`` do ``change(trainer, *arguments)`` first, once the run has reached ``step``."""
    original = getattr(Trainer, name)

    def spoiled(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        if self.step == step:
            change(self, *args)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, name, spoiled)


def write_nan(trainer: Trainer, *args: Any) -> None:
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))


@fault("training", "a prediction that is nan")
def test_nan_prediction_stops_and_names_structures_and_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    config = write_config(tmp_path)
    spoil(monkeypatch, "_forward", 9, write_nan)
    with pytest.raises(TrainingError, match=r"step 9: prediction of 'energy' is not finite for sid 10\d\d, ") as stop:
        train(config, "nan")
    assert str(tmp_path / "checkpoints" / "nan" / "checkpoint.pt (step 8)") in str(stop.value)
    assert "lower optim.lr_initial (with OneCycleLR: optim.max_lr)" in str(stop.value)
    assert load(tmp_path, "nan")["step"] == 8
    outcome(f"error: {stop.value}")


@fault("training", "a batch whose atoms are all fixed, with forces of free atoms only")
def test_a_batch_without_free_atoms_is_named(outcome: Outcome) -> None:
    outputs = {"energy": {"level": "system"}, "forces": {"level": "atom", "train_on_free_atoms": True}}
    batch = Batch.from_data_list([Data(pos=torch.zeros(2, 3), fixed=torch.ones(2), sid=sid) for sid in (4, 7)])
    with pytest.raises(DataError, match=r"^sid 4, 7: all atoms are fixed, but 'forces' is trained on free") as stop:
        check_free_atoms(outputs, batch)
    outcome(f"error: {stop.value}")
    batch.fixed[1] = 0
    check_free_atoms(outputs, batch)


PARAMETER = "network.energy_head.sphere.readout.second.bias"


@fault("training", "an infinite gradient")
def test_nan_gradient_stops_before_it_reaches_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    config = write_config(tmp_path)

    def poison(trainer: Trainer, loss: torch.Tensor) -> None:
        trainer._unwrapped_model.get_parameter(PARAMETER).register_hook(lambda gradient: gradient * float("inf"))

    spoil(monkeypatch, "_backward", 5, poison)
    with pytest.raises(
        TrainingError, match=rf"step 5: gradient of {re.escape(PARAMETER)} is not finite after the batch with sid"
    ) as stop:
        train(config, "gradient")
    assert load(tmp_path, "gradient")["step"] == 4
    outcome(f"error: {stop.value}")


@fault("training", "a weight that is nan")
def test_weights_that_are_not_finite_never_replace_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    config = write_config(tmp_path)
    spoil(monkeypatch, "_after_step", 3, write_nan)
    with pytest.raises(TrainingError, match=r"step 3: weight '.*' is not finite") as stop:
        train(config, "weights")
    checkpoint = load(tmp_path, "weights")
    assert checkpoint["step"] == 2
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    outcome(f"error: {stop.value}")


@fault("training", "a target that is nan")
def test_nan_target_names_its_structure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome) -> None:
    config = write_config(tmp_path)
    sids = []

    def break_target(trainer: Trainer, predictions: dict, batch: Batch) -> None:
        batch.energy[2] = float("nan")
        sids.append(batch.sid[2].item())

    spoil(monkeypatch, "_compute_loss", 2, break_target)
    with pytest.raises(DataError) as stop:
        train(config, "target")
    assert f"target 'energy' is not finite for sid {sids[0]};" in str(stop.value)
    outcome(f"error: {stop.value}")


def test_out_of_memory_names_the_batch_and_the_switches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_config(tmp_path)

    def exhaust(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    spoil(monkeypatch, "_compute_loss", 1, exhaust)
    with pytest.raises(
        TrainingError, match=r"4 structures with \d+ atoms, at most \d+ edges .*largest: sid 10\d\d"
    ) as stop:
        train(config, "memory")
    assert "optim.batch_size" in str(stop.value)


KILLED_WHILE_WRITING = """
import os, signal, sys, torch
save = torch.save
def half_saved(state, path, *args, **kwargs):
    save(state, path, *args, **kwargs)
    if state.get("step") == 7:
        with open(path, "r+b") as file:
            file.truncate(os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = half_saved
import fairchem.core._cli as cli
cli.main()
"""


@fault("interruption", "kill -9 while a checkpoint is written")
def test_kill_9_while_writing_leaves_the_previous_checkpoint_whole(tmp_path: Path, outcome: Outcome) -> None:
    config = write_config(tmp_path)
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, *arguments(config, "killed")]
    killed = preloaded.run(command, ENVIRONMENT, tmp_path)
    assert killed.returncode == -signal.SIGKILL
    folder = tmp_path / "checkpoints" / "killed"
    assert len(list(folder.glob(".checkpoint.pt.*.tmp"))) == 1
    assert load(tmp_path, "killed")["step"] == 6

    train(config, "whole")
    train(config, "killed")
    assert losses(tmp_path, "killed") == losses(tmp_path, "whole")
    assert not list(folder.glob(".checkpoint.pt.*.tmp"))
    outcome("the checkpoint before is whole; the run goes on from it to the same losses")


def test_signal_from_before_the_training_is_obeyed_after_one_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither lost nor at once: a job that is warned at every start still gets on."""
    config = write_config(tmp_path)
    for steps in (1, 2):
        with held_back(), pytest.raises(SystemExit) as stop, caplog.at_level(logging.WARNING):
            signal.raise_signal(signal.SIGUSR1)
            train(config, "warned")
        assert stop.value.code == PREEMPTED_EXIT_STATUS
        assert load(tmp_path, "warned")["step"] == steps
    assert caplog.text.count("SIGUSR1 arrived before the training started") == 2


def test_command_holds_the_signal_back_before_its_imports(tmp_path: Path) -> None:
    package = tmp_path / "fairchem_hdgnn"
    package.mkdir()
    (package / "__init__.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGUSR1)")
    (package / "cli.py").write_text(
        "import signal\ndef main(): return 7 if signal.SIGUSR1 in signal.sigpending() else 1"
    )
    source = Path(fairchem_hdgnn.__file__).parents[1] / "fairchem_hdgnn_command.py"
    shutil.copy(source, tmp_path)
    done = subprocess.run([sys.executable, "-m", "fairchem_hdgnn_command", "doctor"], cwd=tmp_path, check=False)
    assert done.returncode == 7


def test_full_disk_leaves_the_previous_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_config(tmp_path)
    save = torch.save

    def full(state: dict, path: Path) -> None:
        if state.get("step") == 4:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(state, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DataError, match=r"checkpoint\.pt: cannot be written \(.*No space left on device\)"):
        train(config, "full")
    assert load(tmp_path, "full")["step"] == 3


@fault("training", "going on from a checkpoint cut short")
def test_truncated_checkpoint_is_refused_by_name(tmp_path: Path, outcome: Outcome) -> None:
    config = write_config(tmp_path, max_epochs=1)
    train(config, "short")
    path = tmp_path / "checkpoints" / "short" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=str(path)) as error:
        train(config, "short")
    outcome(f"error: {error.value}")


def test_other_conditions_are_told_when_resuming(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(write_config(tmp_path, max_epochs=1), "changed")
    other = write_config(tmp_path / "other", batch_size=6, max_epochs=2)
    with caplog.at_level(logging.WARNING):
        train(other, "changed", f"--run-dir={tmp_path}")
    [warning] = [record for record in caplog.records if "RESUMING from" in record.message]
    assert warning.levelno == logging.WARNING
    assert "the run id 'changed' is already in use" in warning.message
    assert "not exactly: optim.batch_size 4 -> 6; steps per epoch 6 -> 4" in caplog.text


def test_run_ids_are_unique_within_a_second() -> None:
    assert len({new_run_id("x") for _ in range(200)}) == 200


def test_trainer_gives_each_run_a_directory_of_its_own(tmp_path: Path) -> None:
    """fairchem's own time stamps have a resolution of 128 s: a second run would resume the first."""
    trainer = Trainer.__new__(Trainer)
    trainer._settings = ""
    assert len({trainer._get_timestamp(torch.device("cpu"), "same") for _ in range(20)}) == 20


def job(monkeypatch: pytest.MonkeyPatch, folder: Path, terminal: bool = False) -> Path:
    """Be the only task of a Slurm job; the file of what scontrol was asked for."""
    calls = folder / "scontrol.txt"
    for name, text in {"scontrol": f'echo "$@" >> {calls}', "squeue": "echo RUNNING"}.items():
        program = folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    monkeypatch.setattr(preemption, "_at_terminal", lambda: terminal)
    return calls


@pytest.mark.parametrize("command", ["fairchem-hdgnn train", "fairchem"])
def test_requeued_job_of_one_task_goes_on_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    config = write_config(tmp_path)
    config.write_text(config.read_text().replace("format: lmdb", "format: safe_lmdb"))
    calls = job(monkeypatch, tmp_path)
    flags = [flag for flag in arguments(config, "") if not flag.startswith("--timestamp-id")]

    def start(*extra: str) -> None:
        if command == "fairchem":
            distutils.setup_env_local()
            run_here([*flags, *extra])
        else:
            assert cli.main(["train", *flags, *extra]) == 0
        distutils.cleanup()

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        interrupt_at(patch, 3)
        start()
    distutils.cleanup()
    assert stop.value.code == PREEMPTED_EXIT_STATUS
    assert calls.read_text() == "requeue 77\n"
    start()
    [folder] = (tmp_path / "checkpoints").iterdir()
    assert re.fullmatch(r"job77\.batch-\w{6}", folder.name)
    assert load(tmp_path, folder.name)["step"] == 18
    start("--seed=4", "--optim.max_epochs=1")
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2, "another training of the job has another folder"


def test_run_ids_of_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert job_run_id({"seed": 0}) is None
    job(monkeypatch, tmp_path)
    first = job_run_id({"seed": 0}, "mine")
    assert first == job_run_id({"seed": 0}, "mine") != job_run_id({"seed": 1}, "mine")
    monkeypatch.setenv("SLURM_STEP_ID", "1")
    assert re.fullmatch(r"job77\.1-\w{6}-mine", job_run_id({"seed": 0}, "mine"))


def test_interactive_job_is_not_requeued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its next training may be another one, so run ids are new ones, and the log says how to resume."""
    calls = job(monkeypatch, tmp_path, terminal=True)
    assert job_run_id({}) is None
    with pytest.raises(SystemExit):
        PreemptionWatch().give_way("checkpoints/run/checkpoint.pt (step 3)")
    assert "Job 77 is interactive, so it is not requeued: to resume, give the same command with --timestamp-id" in (
        caplog.text
    )
    assert not calls.exists()


@fault("training", "two runs in one directory")
def test_two_trainings_cannot_share_a_run_directory(tmp_path: Path, outcome: Outcome) -> None:
    config = write_config(tmp_path)
    with (
        exclusive_use(tmp_path / "checkpoints" / "shared"),
        pytest.raises(ConfigError, match=rf"another training is writing here \(process {os.getpid()} on ") as error,
    ):
        train(config, "shared")
    outcome(f"error: {error.value}")
    train(config, "shared", "--optim.max_epochs=1")


def test_stock_fairchem_goes_on_from_our_checkpoint(tmp_path: Path) -> None:
    train(write_config(tmp_path, max_epochs=1), "both")
    assert load(tmp_path, "both")["config"]["trainer"] == "ocp"
    stock = write_config(tmp_path / "stock", trainer="ocp", max_epochs=2)
    fairchem(stock, "both", f"--run-dir={tmp_path}")
    assert sorted(losses(tmp_path, "both")) == list(range(1, 13))


@pytest.mark.parametrize(
    ("precision", "flags", "message"),
    [
        ("bf16", [], r"optim\.precision: 'bf16' is unknown; did you mean 'bfloat16'"),
        ("bfloat16", ["--amp"], "exclude each other"),
    ],
)
def test_precisions_that_cannot_be(tmp_path: Path, precision: str, flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(write_config(tmp_path, precision=precision), "precision", *flags)


def test_without_slurms_commands_the_checkpoint_is_still_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a container."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(preemption, "_at_terminal", lambda: False)
    with pytest.raises(SystemExit) as stop:
        PreemptionWatch().give_way("checkpoint.pt")
    assert stop.value.code == PREEMPTED_EXIT_STATUS
    assert "checkpoint.pt. Job 7 could not be requeued (scontrol: No such file or directory)" in caplog.text
