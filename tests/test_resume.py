"""An interrupted run goes on as if nothing had happened: same losses, same weights, whatever interrupted it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import load, losses, train, write_config

from fairchem_hdgnn.host.preemption import PREEMPTED_EXIT_STATUS
from fairchem_hdgnn.host.trainer import Trainer

NUM_STEPS = 18


@pytest.fixture(autouse=True)
def _outside_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, training: bool = True) -> None:
    """Send this process a SIGTERM in the middle of the forward pass of ``step``, or of the evaluation after it."""
    forward = Trainer._forward

    def interrupted(self: Trainer, batch: Any) -> Any:
        if self.step == step and self.model.training is training:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, batch)

    monkeypatch.setattr(Trainer, "_forward", interrupted)


def assert_same_state(left: Any, right: Any, where: str = "") -> None:
    """Equal to the last bit, through dictionaries and lists."""
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same_state(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for index, (one, other) in enumerate(zip(left, right)):
            assert_same_state(one, other, f"{where}[{index}]")
    else:
        assert left == right, where


def without_paths(checkpoint: dict) -> dict:
    return {key: value for key, value in checkpoint.items() if key != "config"}


SETTINGS = {
    "hdgnn, EMA, warm-up": {},
    "plateau, sparse checkpoints": {
        "scheduler": "ReduceLROnPlateau",
        "mode": "min",
        "factor": 0.5,
        "patience": 0,
        "threshold": 1.0,
        "eval_every": 4,
        "checkpoint_every": 5,
    },
}


@pytest.mark.parametrize("optim", SETTINGS.values(), ids=SETTINGS.keys())
def test_losses_and_state_equal_those_of_the_uninterrupted_run(tmp_path: Path, optim: dict) -> None:
    config = write_config(tmp_path, **optim)
    train(config, "whole")
    whole = losses(tmp_path, "whole")
    assert sorted(whole) == list(range(1, NUM_STEPS + 1))

    for step, training in [(8, True), (12, False), (15, True)]:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
            interrupt_at(patch, step, training)
            train(config, "parts")
        assert stop.value.code == PREEMPTED_EXIT_STATUS
        assert load(tmp_path, "parts")["step"] == step
    train(config, "parts")

    assert losses(tmp_path, "parts") == whole
    assert losses(tmp_path, "parts", "val/energy_mae") == losses(tmp_path, "whole", "val/energy_mae")
    assert losses(tmp_path, "parts", "train/lr") == losses(tmp_path, "whole", "train/lr")
    for name in ("checkpoint.pt", "best_checkpoint.pt"):
        left, right = without_paths(load(tmp_path, "parts", name)), without_paths(load(tmp_path, "whole", name))
        assert_same_state(left, right, name)
