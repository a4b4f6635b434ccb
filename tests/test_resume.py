"""An interrupted run goes on as if nothing had happened: same losses, same weights, whatever interrupted it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_runs import TINY_HDGNN, interrupt_at, load, losses, set_keys, train, write_config

from fairchem_hdgnn.host.preemption import PREEMPTED_EXIT_STATUS

NUM_STEPS = 18


@pytest.fixture(autouse=True)
def _outside_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


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
        train_until_preempted(config, step, training)
        assert load(tmp_path, "parts")["step"] == step
    train(config, "parts")
    assert_same_run(tmp_path)


def test_a_step_broken_off_between_its_batches_is_done_again(tmp_path: Path) -> None:
    """Of 5, 5 and 2 batches in an epoch; frames and noise are drawn for each batch, and metrics are under way."""
    model = {**TINY_HDGNN, "regress_forces": True, "vector_name": "displacement"}
    config = write_config(tmp_path, model, batch_size=2, accumulate=5, eval_every=3, checkpoint_every=2)
    settings = yaml.safe_load(config.read_text())
    settings["dataset"]["train"]["transforms"]["noisy_nodes"] = {"probability": 0.5, "standard_deviation": 0.1}
    settings["loss_functions"].append({"displacement": {"fn": "l2mae", "coefficient": 1}})
    displacement = {"level": "atom", "train_on_free_atoms": True, "eval_on_free_atoms": True}
    config.write_text(yaml.safe_dump(set_keys(settings, {"outputs.displacement": displacement})))
    train(config, "whole", "--print-every=4")
    assert sorted(losses(tmp_path, "whole")) == list(range(1, 10))

    # In the first step, which is finished; in a full one, in the last batch of an epoch and of a full step.
    for step, batch, stopped_at in [(1, 2, 1), (5, 3, 4), (6, 2, 6), (8, 5, 8)]:
        train_until_preempted(config, step, True, batch, "--print-every=4")
        assert load(tmp_path, "parts")["step"] == stopped_at
    train(config, "parts", "--print-every=4")
    assert_same_run(tmp_path)


def train_until_preempted(config: Path, step: int, training: bool, batch: int = 1, *flags: str) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        interrupt_at(patch, step, training, batch)
        train(config, "parts", *flags)
    assert stop.value.code == PREEMPTED_EXIT_STATUS


def assert_same_run(folder: Path) -> None:
    for tag in ("train/loss", "train/energy_mae", "val/energy_mae", "train/lr"):
        assert losses(folder, "parts", tag) == losses(folder, "whole", tag), tag
    for name in ("checkpoint.pt", "best_checkpoint.pt"):
        left, right = without_paths(load(folder, "parts", name)), without_paths(load(folder, "whole", name))
        assert_same_state(left, right, name)
