"""A one-cycle learning rate has the length of the training, also of one that goes on for longer."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_runs import load, losses, set_keys, train, write_config

from fairchem_hdgnn import cli
from fairchem_hdgnn.checks.schedule import schedule_findings
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host.training_record import read_training_record

STEPS = 18
"""Three epochs of six batches."""

CYCLE = {"scheduler": "OneCycleLR", "max_lr": 1e-2, "pct_start": 0.25, "cycle_momentum": False}


def one_cycle(folder: Path, **optim: Any) -> Path:
    """A config with ``safe_lmdb``, which several runs may share."""
    path = write_config(folder, **{**CYCLE, **optim})
    formats = {f"dataset.{split}.format": "safe_lmdb" for split in ("train", "val")}
    path.write_text(yaml.safe_dump(set_keys(yaml.safe_load(path.read_text()), formats)))
    return path


def rate(step: int, total: int) -> float:
    """Rises and falls along cosines: Smith & Topin 2019, as torch has it, with its default factors."""
    peak = CYCLE["pct_start"] * total - 1
    start, end = CYCLE["max_lr"] / 25, CYCLE["max_lr"] / 25 / 1e4
    ends, way = ((start, CYCLE["max_lr"]), step / peak)
    if step > peak:
        ends, way = ((CYCLE["max_lr"], end), (step - peak) / (total - 1 - peak))
    return ends[1] + (ends[0] - ends[1]) * (1 + math.cos(math.pi * way)) / 2


def test_length_is_that_of_the_training(tmp_path: Path) -> None:
    config = one_cycle(tmp_path)
    train(config, "plain")
    rates = losses(tmp_path, "plain", "train/lr")
    assert list(rates) == list(range(1, STEPS + 1))
    # The trainer logs the rate of the step that was just done.
    assert list(rates.values()) == pytest.approx([rate(step, STEPS) for step in range(STEPS)], rel=1e-4)
    assert load(tmp_path, "plain")["config"]["optim"]["total_steps"] == STEPS
    train(config, "accumulated", "--optim.accumulate=2")
    assert load(tmp_path, "accumulated")["scheduler"]["total_steps"] == STEPS / 2


def test_a_single_rising_step(tmp_path: Path) -> None:
    """``pct_start`` times the number of steps is 1, where torch divides by zero: one epoch of small data."""
    train(one_cycle(tmp_path, max_epochs=1, pct_start=1 / 6), "single")
    rates = list(losses(tmp_path, "single", "train/lr").values())
    assert len(rates) == 6 and rates == [rates[0], *sorted(rates[1:], reverse=True)]
    assert rates[0] == pytest.approx(CYCLE["max_lr"] / 25) and rates[1] == pytest.approx(CYCLE["max_lr"], rel=0.1)


def test_the_time_left_falls_to_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    train(one_cycle(tmp_path), "timed")
    left = re.findall(r"step: \S+ \((\d+:\d\d:\d\d) left\)", caplog.text)
    assert len(left) == STEPS and left[-1] == "0:00:00" and max(left) < "0:10:00"


def test_more_epochs_stretch_the_schedule(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = one_cycle(tmp_path)
    train(config, "longer")
    train(config, "longer", "--optim.max_epochs=5")
    assert "The one-cycle learning rate now ends at step 30 instead of 18." in caplog.text
    rates = losses(tmp_path, "longer", "train/lr")
    # The rate of the next step is in the checkpoint.
    assert [rates[step] for step in range(20, 31)] == pytest.approx(
        [rate(step - 1, 30) for step in range(20, 31)], rel=1e-4
    )


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        ({"total_steps": 10}, "optim.total_steps: the one-cycle learning rate ends at step 10, the training at 18"),
        ({"epochs": 2, "steps_per_epoch": 6}, "optim.steps_per_epoch: the one-cycle learning rate ends at step 12"),
    ],
)
def test_a_schedule_that_is_too_short_is_refused(tmp_path: Path, optim: dict[str, Any], message: str) -> None:
    config = one_cycle(tmp_path, **optim)
    with pytest.raises(ConfigError, match=message):
        train(config, "short")
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        assert cli.main(["check", str(config), "--run-dir", str(tmp_path)]) == 1
    assert message in output.getvalue() and "remove optim." in output.getvalue()


@pytest.mark.parametrize(
    ("optim", "fatal"),
    [
        ({**CYCLE, "max_epochs": 3, "total_steps": 17}, [True]),
        ({**CYCLE, "max_epochs": 3, "total_steps": 18}, []),
        ({**CYCLE, "max_epochs": 3, "steps_per_epoch": 6}, []),
        ({**CYCLE, "max_epochs": 3, "total_steps": 20}, [False]),
        ({**CYCLE, "max_epochs": 3}, []),
        ({**CYCLE, "max_epochs": 3, "total_steps": True}, [True]),
        ({**CYCLE, "max_epochs": 3, "total_steps": "10"}, []),
        ({**CYCLE, "max_epochs": 3, "steps_per_epoch": [6]}, []),
        ({"max_epochs": 3, "total_steps": 10}, []),
        ({**CYCLE, "max_epochs": 3, "lr_initial": CYCLE["max_lr"]}, []),
        ({"scheduler": "CyclicLR", "max_epochs": 3, "lr_initial": 0.1, "max_lr": 0.2}, []),
        ({"scheduler": "CosineAnnealingLR", "max_epochs": 3, "total_steps": 10}, []),
    ],
)
def test_findings(optim: dict[str, Any], fatal: list[bool]) -> None:
    assert [finding.fatal for finding in schedule_findings(optim, STEPS)] == fatal
    assert not list(schedule_findings(optim, 0)), "without training data"


def test_a_rate_without_effect_is_told(tmp_path: Path) -> None:
    config = one_cycle(tmp_path, lr_initial=CYCLE["max_lr"])
    message = "optim.lr_initial: 0.1 has no effect with OneCycleLR, which rises to optim.max_lr 0.01; set optim.max_lr"
    for flags, told in [([], False), (["--set", "optim.lr_initial=0.1"], True)]:
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            assert cli.main(["check", str(config), "--run-dir", str(tmp_path), *flags]) == 0
        assert (message in output.getvalue()) == told


def test_a_training_from_the_best_weights_averages_them(tmp_path: Path) -> None:
    """fairchem goes on without averages when a file has none."""
    config = one_cycle(tmp_path)
    train(config, "first")
    best = tmp_path / "checkpoints/first/best_checkpoint.pt"
    train(config, "second", f"--checkpoint={best}")
    found = load(tmp_path, "second")
    assert found["step"] == STEPS and found["ema"]["decay"] == 0.9
    averages = found["ema"]["shadow_params"]
    weights = list(found["state_dict"].values())
    assert len(averages) > 10 and not any(torch.equal(one, other) for one, other in zip(averages, weights) if one.any())
    assert read_training_record(tmp_path / "checkpoints/second/best_checkpoint.pt").averaged


@pytest.mark.parametrize(("decay", "steps", "warned"), [(0.995, 300, True), (0.995, 2000, False), (None, 300, False)])
def test_averages_that_keep_initial_weights(decay: float | None, steps: int, warned: bool) -> None:
    found = list(schedule_findings({"ema_decay": decay}, steps))
    assert bool(found) == warned
    if warned:
        assert str(found[0]) == (
            "optim.ema_decay: 0.995: after 300 steps, 22 % of the averages, which are evaluated, are initial weights; "
            "train longer, or set it to 0.967"
        )
