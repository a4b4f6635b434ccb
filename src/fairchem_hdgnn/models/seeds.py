"""Stateless seeds of the random numbers in training: functions of rank, step, epoch and record."""

from __future__ import annotations

import numpy as np
import torch


def step_seed(purpose: str, seed: int, step: int) -> int:
    """Seed of the random numbers that this rank draws for ``purpose`` in a training step.

    Args:
        purpose: name that separates different draws in the same step.
        seed: of the run or the model, at least 0.
        step: at least 0.

    Returns:
        A number in [0, 2**63) uncorrelated with those of other purposes, seeds, ranks and steps.
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if distributed else 0
    return _seed(purpose, seed, rank, step)


def record_seed(purpose: str, seed: int, epoch: int, record: int) -> int:
    """Seed of the random numbers drawn for ``purpose`` for a record in an epoch, independent of the rank and process.

    Args:
        purpose: name that separates different draws for the same record.
        seed: of the run, at least 0.
        epoch: at least 0.
        record: its index in the data set.

    Returns:
        As :func:`step_seed`.
    """
    return _seed(purpose, seed, epoch, record)


def _seed(purpose: str, *numbers: int) -> int:
    key = [*purpose.encode(), *numbers]
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
