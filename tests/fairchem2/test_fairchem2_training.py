"""Trainings through stock ``fairchem -c``: alone, resumed, and on two ranks with Noisy Nodes."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from fc2_data import SPLITS
from fc2_data_runs import losses, train, validations
from omegaconf import OmegaConf

from fairchem_hdgnn.host.fairchem2.callbacks import ResumeNotice

RESUMED = "this run resumes from step"
EPOCHS = "optim.max_epochs=4"
MOVED = "data.noisy_nodes={probability: 0.5, standard_deviation: 0.05}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs lie."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def unbroken(oc20: Path, folder: Path) -> str:
    """What a training of 4 epochs of 6 batches prints."""
    return train(folder, oc20, "unbroken", EPOCHS, MOVED)


def test_loss_falls(unbroken: str) -> None:
    values = losses(unbroken)
    assert sorted(values) == list(range(24))
    first, last = (sum(values[step] for step in epoch) / 6 for epoch in (range(6), range(18, 24)))
    assert last < 0.8 * first
    assert RESUMED not in unbroken


def test_four_splits_are_evaluated(unbroken: str) -> None:
    """After each epoch."""
    evaluations = validations(unbroken)
    assert len(evaluations) == 4
    for split in SPLITS[1:]:
        errors = [found[f"val/oc20.{split},relaxed_energy,mae"] for found in evaluations]
        assert errors[-1] < errors[0], split
        assert 0 <= evaluations[-1][f"val/oc20.{split},relaxed_energy,energy_within_threshold"] <= 1


def test_resume(unbroken: str, oc20: Path, folder: Path) -> None:
    """A killed run goes on within an epoch, with a warning, to the losses of the unbroken one: to 1e-5 of them.

    Frames and moved structures are random, and another process reads the records.
    """
    killed = folder / "killed" / "checkpoints"
    shutil.copytree(folder / "unbroken" / "checkpoints", killed)
    for later in ("step_20", "final"):
        shutil.rmtree(killed / later)
    printed = train(folder, oc20, "killed", EPOCHS, MOVED, "optim.num_workers=1")
    assert f"{RESUMED} 15, from the checkpoints in {killed}; to start from scratch" in printed
    expected = {step: loss for step, loss in losses(unbroken).items() if step >= 15}
    assert losses(printed) == pytest.approx(expected, rel=1e-5)


def test_another_model_under_a_used_time_stamp(
    unbroken: str, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """fairchem loads the checkpoint, which fails, so the warning comes before."""
    run = shutil.copytree(folder / "unbroken", tmp_path / "run")
    caplog.set_level(logging.WARNING)
    ResumeNotice().set_runner_callbacks(None, None, str(run / "checkpoints"))
    assert not caplog.messages
    config = OmegaConf.load(run / "canonical_config.yaml")
    config.runner.train_eval_unit.model.backbone.sphere_channels = 6
    OmegaConf.save(config, run / "canonical_config.yaml")
    ResumeNotice().set_runner_callbacks(None, None, str(run / "checkpoints"))
    (line,) = caplog.messages
    assert "final: a checkpoint of another model (backbone.sphere_channels 4 -> 6)" in line
    assert "job.timestamp_id" in line


def test_two_ranks_with_noisy_nodes(oc20: Path, tmp_path: Path) -> None:
    """The shipped config with a second task, on two processes."""
    printed = train(
        tmp_path, oc20, "ranks", "job.scheduler.ranks_per_node=2", "optim.batch_size=2", "optim.max_epochs=8",
        "optim.schedule.warmup_steps=2", config="10k/hdgnn_noisy_nodes.yml",
    )  # fmt: skip
    assert sorted(losses(printed)) == list(range(48))
    # The loss itself is mostly that of the noise, which is drawn anew.
    first, *_, last = validations(printed)
    errors = [sum(found[f"val/oc20.{split},relaxed_energy,mae"] for split in SPLITS[1:]) for found in (first, last)]
    assert errors[1] < errors[0]
    for split in SPLITS[1:]:
        assert last[f"val/oc20.{split},displacement_forces,mae"] > 0
    assert (tmp_path / "ranks" / "checkpoints" / "final" / "inference_ckpt.pt").is_file()
