"""The demonstration: what it plans and trains, how it ends and goes on, and what it says when that fails."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from processes import session_members

from fairchem_hdgnn.errors import UserError
from fairchem_hdgnn.host.fairchem1.config_files import read_config
from run import PROGRAM, main
from running.interruption import child, ended_in_one_line
from running.outline import outline
from running.plan import MIN_EPOCHS, Plan, best_threads, epochs_that_fit, read_plan
from running.training import CONFIG, Training
from structures.archive import read_archive, write_archive
from structures.build import unpack_data

ROOT = Path(__file__).parents[1]
PLAN = Plan(threads=1, epochs=10, step_seconds=0.3, predict_seconds=0.01, start_seconds=5.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest of the structures that come with it: four to train on and two in each validation split."""
    folder = tmp_path_factory.mktemp("demo")
    whole = read_archive()
    splits = {
        split: sorted(systems, key=lambda system: len(system.start))[: 4 if split == "train" else 2]
        for split, systems in whole.splits.items()
    }
    write_archive(folder / "small.npz", replace(whole, splits=splits))
    unpack_data(folder / "data", folder / "small.npz")
    return folder / "data"


@pytest.fixture
def folder(data: Path, tmp_path: Path) -> Path:
    shutil.copytree(data, tmp_path / "data")
    return tmp_path


def planned(folder: Path, plan: Plan) -> Training:
    """A training whose plan was made before."""
    training = Training(folder)
    plan.write(training.checkpoint.with_name("plan.json"))
    return training


def test_plan_is_measured_once(folder: Path) -> None:
    plan = Training(folder).plan
    assert plan.threads == torch.get_num_threads()
    assert plan.epochs == Training(folder).optim["max_epochs"]
    assert plan.step_seconds > plan.predict_seconds > 0
    assert plan.start_seconds > 0
    assert Training(folder).is_planned
    assert Training(folder).plan == plan


def start_demo(folder: Path, log: Path) -> subprocess.Popen:
    with log.open("w") as printed:
        return subprocess.Popen(
            [sys.executable, str(ROOT / PROGRAM), "--out", str(folder)],
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_for_step(training: Training, step: int) -> None:
    deadline = time.monotonic() + 120
    pattern = re.compile(r"step: (\S+)")
    while time.monotonic() < deadline:
        printed = training.log.read_text() if training.log.is_file() else ""
        if any(float(found) >= step for found in pattern.findall(printed)):
            return
        time.sleep(0.1)
    raise AssertionError(f"no step {step} in {training.log}")


@pytest.mark.parametrize(
    "interruptions",
    [
        pytest.param([(signal.SIGINT, os.killpg)], id="once"),
        pytest.param([(signal.SIGTERM, os.kill), (signal.SIGINT, os.killpg)], id="twice", marks=pytest.mark.heavy),
    ],
)
def test_whole_way_with_interruptions(
    folder: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    interruptions: list[tuple[signal.Signals, Callable[[int, int], None]]],
) -> None:
    """By Ctrl-C, which reaches all processes, and by SIGTERM to the demonstration alone; nothing is done twice."""
    plan = replace(PLAN, epochs=50)
    training = planned(folder, plan)
    steps = [0]
    for signum, send in interruptions:
        demo = start_demo(folder, folder / "printed")
        wait_for_step(training, steps[-1] + 5)
        assert len(session_members(demo.pid)) > 1
        send(demo.pid, signum)
        assert demo.wait(60) == 128 + signum
        assert session_members(demo.pid) == []
        printed = (folder / "printed").read_text()
        assert f"{PROGRAM}: ended by {signum.name}; run the same command to continue\n" in printed
        assert "Traceback" not in printed + training.log.read_text()
        steps.append(training.steps_done)
        assert steps[-2] + 5 <= steps[-1] < 50

    main(["--out", str(folder)])
    printed, errors = capsys.readouterr()
    assert f"resumes after step {steps[-1]}" in printed
    assert f"training: {2 * steps[-1]:3}%|" in errors
    for step in steps[1:]:
        assert f"The run resumes from step {step} exactly" in training.log.read_text()
    assert training.steps_done == 50
    assert read_plan(training.checkpoint.with_name("plan.json")) == plan
    assert "12 structures, there already, made otherwise" in printed
    assert "median baseline" in printed
    for path in ("submission.npz", "results/parity.png", "results/evaluation.html", "train.log"):
        assert (folder / path).stat().st_size > 0

    trained_at = training.checkpoint.stat().st_mtime_ns
    monkeypatch.setattr("run.score", lambda training: "scored")
    main(["--out", str(folder)])
    assert "best_checkpoint.pt is there already" in capsys.readouterr().out
    assert training.checkpoint.stat().st_mtime_ns == trained_at


def test_fewer_epochs_are_announced_and_can_be_typed(folder: Path) -> None:
    training = planned(folder, replace(PLAN, epochs=5, step_seconds=9.0))
    typed = shlex.split(training.typed)
    assert typed[:2] == ["OMP_NUM_THREADS=1", "GOMP_SPINCOUNT=1000"]
    assert typed[2:6] == ["fairchem", "--mode", "train", "--cpu"]
    shortened = read_config(str(training.config), [word for word in typed if word.startswith("--optim.")])["optim"]
    assert shortened["max_epochs"] == 5
    data, line, scoring = outline(training, "there already")
    assert re.match(r" *data +done +12 structures, there already", data)
    assert re.match(
        r" *training +50 s +5 of 10 epochs, since all would take 1\.5 min .*9\.00 s a step on 1 thread", line
    )
    assert re.match(r" *scoring +\d+ s +8 structures", scoring)


@pytest.mark.parametrize(
    ("epoch_seconds", "epochs"),
    [(1.0, 10), (30.0, 10), (33.4, 9), (1000.0, MIN_EPOCHS)],
    ids=["fast", "just", "slower", "hopeless"],
)
def test_epochs_that_fit(epoch_seconds: float, epochs: int) -> None:
    assert epochs_that_fit(epoch_seconds, 10, budget=301.0) == epochs


@pytest.mark.parametrize(
    ("step_seconds", "threads"),
    [({1: 0.5, 2: 0.3}, 2), ({1: 0.33, 2: 4.3}, 1), ({1: 0.5, 2: 0.48}, 1), ({2: 0.5}, 2)],
    ids=["two cores", "one core taken", "no gain", "chosen by the user"],
)
def test_best_threads(step_seconds: dict[int, float], threads: int) -> None:
    assert best_threads(step_seconds) == threads


def test_damaged_plan_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    PLAN.write(path)
    assert read_plan(path) == PLAN
    for damaged in ("", "[]", '{"threads": 1}'):
        path.write_text(damaged)
        assert read_plan(path) is None


def test_signal_ends_the_child_too(capsys: pytest.CaptureFixture) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with (
        pytest.raises(SystemExit) as stop,
        ended_in_one_line("program", "go on"),
        child(["sleep", "60"]) as process,
    ):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert stop.value.code == 143
    assert process.returncode == -signal.SIGTERM
    assert capsys.readouterr().err == "program: ended by SIGTERM; go on\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c_is_not_the_childs_business() -> None:
    blocked = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with child([sys.executable, "-c", blocked], stdout=subprocess.PIPE) as process:
        assert process.communicate()[0] == "True\n"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_other_data_or_seed_are_another_run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "data").mkdir()
    (other / "data" / "manifest.json").write_text('{"sizes": {"train": 8}}')
    assert Training(other).run_id != Training(folder).run_id
    assert Training(folder, seed=1).run_id != Training(folder).run_id
    assert Training(folder).run_id == Training(folder).run_id
    assert not Training(other).finished


def test_failed_training_names_reason_and_log(folder: Path) -> None:
    training = planned(folder, PLAN)
    (folder / "data" / "train" / "data.lmdb").unlink()
    with pytest.raises(UserError, match=r"status \d+: .*train/data\.lmdb.*train\.log"):
        training.run()
    assert not training.finished


def test_damaged_manifest_is_named(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "data" / "manifest.json").write_text(json.dumps({"sizes": 3}))
    with pytest.raises(SystemExit) as stop:
        main(["--out", str(folder)])
    assert stop.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"{PROGRAM}: error: ")
    assert "manifest.json is damaged" in errors
    assert len(errors.splitlines()) == 1


def test_command_names_the_shipped_config(folder: Path) -> None:
    command = planned(folder, PLAN).command
    assert command[:3] == ["fairchem", "--mode", "train"]
    assert command[command.index("--config-yml") + 1].endswith(CONFIG)
