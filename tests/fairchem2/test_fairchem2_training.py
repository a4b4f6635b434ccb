"""Trainings through stock ``fairchem -c``: alone, on two ranks, resumed, with Noisy Nodes."""

from __future__ import annotations

from pathlib import Path

import pytest
from fc2_data import SPLITS
from fc2_data_runs import losses, train, validations

RESUMED = "this run goes on at step"


@pytest.fixture(scope="module")
def unbroken(oc20: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a training of 6 epochs of 6 batches prints, which evaluates at the ends of steps 18 and 36."""
    return train(tmp_path_factory.mktemp("runs"), oc20, "unbroken", "optim.eval_every=18", epochs=6)


def test_loss_falls(unbroken: str) -> None:
    values = losses(unbroken)
    assert sorted(values) == list(range(36))
    first, last = (sum(values[step] for step in epoch) / 6 for epoch in (range(6), range(30, 36)))
    assert last < 0.7 * first
    assert RESUMED not in unbroken


def test_four_splits_are_evaluated(unbroken: str) -> None:
    evaluations = validations(unbroken)
    assert len(evaluations) >= 2
    for split in SPLITS[1:]:
        errors = [found[f"val/oc20.{split},relaxed_energy,mae"] for found in evaluations]
        assert errors[-1] < errors[0], split
        assert 0 <= evaluations[-1][f"val/oc20.{split},relaxed_energy,energy_within_threshold"] <= 1


def test_resume(unbroken: str, oc20: Path, tmp_path: Path) -> None:
    """A run that was ended goes on, with a warning, to the losses of the one that was not: to 1e-5 of them."""
    ended = train(tmp_path, oc20, "twice", "+runner.max_steps=9", "runner.max_epochs=null", epochs=6)
    assert sorted(losses(ended)) == list(range(9))
    assert RESUMED not in ended
    again = train(tmp_path, oc20, "twice", epochs=6)
    assert f"{RESUMED} 9, from the checkpoints in {tmp_path / 'twice' / 'checkpoints'}" in again
    together = {**losses(ended), **losses(again)}
    assert min(losses(again)) == 9
    assert together == pytest.approx(losses(unbroken), rel=1e-5)


def test_two_ranks(unbroken: str, oc20: Path, tmp_path: Path) -> None:
    """Two ranks with half the batch each see what one saw, in the same steps."""
    printed = train(tmp_path, oc20, "ranks", "job.scheduler.ranks_per_node=2", "optim.batch_size=2", epochs=2)
    values = losses(printed)
    assert sorted(values) == list(range(12))
    first, last = (sum(values[step] for step in epoch) / 6 for epoch in (range(6), range(6, 12)))
    assert last < first
    assert len(validations(printed)) == 1
    assert (tmp_path / "ranks" / "checkpoints" / "final" / "inference_ckpt.pt").is_file()
