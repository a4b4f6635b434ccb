"""An interrupted run goes on as if nothing had happened: same losses, same weights, whatever interrupted it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_runs import TINY_HDGNN, interrupt_at, load, losses, set_keys, train, write_config

from fairchem_hdgnn.errors import ConfigError, DataError
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


CYCLE = {"scheduler": "OneCycleLR", "max_lr": 2e-3, "pct_start": 0.25, "cycle_momentum": False}


@pytest.mark.parametrize("optim", [{}, CYCLE], ids=["warm-up", "one cycle"])
def test_an_unchanged_config_resumes_exactly(tmp_path: Path, caplog: pytest.LogCaptureFixture, optim: dict) -> None:
    config = write_config(tmp_path, max_epochs=1, **optim)
    train(config, "same")
    free = {"optim.eval_every": 5, "optim.checkpoint_every": 2, "optim.max_epochs": 2}
    config.write_text(yaml.safe_dump(set_keys(yaml.safe_load(config.read_text()), free)))
    caplog.set_level(logging.INFO)
    train(config, "same", "--print-every=3")
    assert "The run resumes from step 6 exactly" in caplog.text
    assert "not exactly" not in caplog.text and "settings of its checkpoint" not in caplog.text


@pytest.mark.parametrize(
    ("optim", "keys", "changes", "kept"),
    [
        ({}, {"model.energy_scale": 2.0}, "model.energy_scale unset -> 2.0.", ""),
        ({}, {"optim.clip_grad_norm": 5}, "optim.clip_grad_norm 10 -> 5.", ""),
        ({}, {"optim.warmup_steps": 9}, "optim.warmup_steps 4 -> 9.", ""),
        ({}, {"loss_functions": [{"energy": {"fn": "mse", "coefficient": 2}}]},
         "loss_functions.0.energy.coefficient 1 -> 2; loss_functions.0.energy.fn mae -> mse.", ""),
        ({}, {"task": {"strict_load": True}}, "task.strict_load unset -> True.", ""),
        ({}, {"dataset.train.transforms.normalizer.energy.mean": 0.7}, "",
         "dataset.train.transforms.normalizer.energy.mean 0.5 (now 0.7 in the config)."),
        ({}, {"optim.lr_initial": 0.1, "optim.optimizer_params.weight_decay": 0.5}, "",
         "optim.lr_initial 0.002 (now 0.1 in the config); optim.optimizer_params.weight_decay 0.01 (now 0.5 in the"),
        (CYCLE, {"optim.max_lr": 0.1, "model.energy_scale": 2.0}, "model.energy_scale unset -> 2.0.",
         "optim.max_lr 0.002 (now 0.1 in the config)."),
    ],
    ids=["model", "clip", "warm-up", "loss", "task", "normalizer", "rate and decay", "one cycle"],
)  # fmt: skip
def test_changes_of_the_config_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, optim: dict, keys: dict, changes: str, kept: str
) -> None:
    config = write_config(tmp_path, max_epochs=1, **optim)
    train(config, "changed")
    before = load(tmp_path, "changed")
    config.write_text(yaml.safe_dump(set_keys(yaml.safe_load(config.read_text()), keys)))
    caplog.set_level(logging.INFO)
    train(config, "changed")
    assert "from step 6 exactly" not in caplog.text
    assert (f"The run resumes from step 6, but not exactly: {changes}" in caplog.text) == bool(changes)
    assert (f"The run resumes from step 6 with settings of its checkpoint: {kept}" in caplog.text) == bool(kept)
    assert ("--init-from" in caplog.text) == bool(kept)
    assert ("--optim.fine_tuning.normalizer=fresh" in caplog.text) == ("normalizer" in kept)
    # What is said to be kept is kept: the run was at its end.
    after = load(tmp_path, "changed")
    for name in ("optimizer", "scheduler", "normalizers"):
        assert_same_state(after[name], before[name], name)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"scheduler": "Null"}, r"with optim\.scheduler LambdaLR \(the default\), so it has no state for Null; keep"),
        ({"optimizer_params": {}}, "with weight decay above 0, so it has no state for 0; keep"),
    ],
)
def test_settings_without_state_are_refused(tmp_path: Path, keys: dict, message: str) -> None:
    config = write_config(tmp_path, max_epochs=1)
    train(config, "other")
    changes = {f"optim.{name}": value for name, value in keys.items()}
    config.write_text(yaml.safe_dump(set_keys(yaml.safe_load(config.read_text()), changes)))
    with pytest.raises(DataError, match=message):
        train(config, "other")


@pytest.mark.parametrize(("max_epochs", "refused"), [(5, True), (8, False)])
def test_epochs_of_another_length(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, max_epochs: int, refused: bool
) -> None:
    """Two epochs of six steps are six of two steps: what is left may be nothing."""
    config = write_config(tmp_path, max_epochs=2)
    train(config, "longer")
    changes = {"optim.batch_size": 12, "optim.max_epochs": max_epochs}
    config.write_text(yaml.safe_dump(set_keys(yaml.safe_load(config.read_text()), changes)))
    if refused:
        with pytest.raises(ConfigError, match="has 2 of 5 epochs, but its steps count as 6 epochs"):
            train(config, "longer")
    else:
        train(config, "longer")
        assert load(tmp_path, "longer")["step"] == 16
    assert "2 epochs count as 6" in caplog.text
