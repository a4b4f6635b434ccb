"""Random numbers of training as functions of what is trained on when: there is no state to save, none to restore."""

from __future__ import annotations

import numpy as np
import torch


def step_seed(purpose: str, seed: int, step: int) -> int:
    """Seed of the random numbers that this rank draws for ``purpose`` in a training step.

    Args:
        purpose: keeps apart what is drawn in the same step.
        seed: of the run or the model, at least 0.
        step: at least 0.

    Returns:
        A number in [0, 2**63) without visible relation to those of other purposes, seeds, ranks and steps.
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if distributed else 0
    return _seed(purpose, seed, rank, step)


def record_seed(purpose: str, seed: int, epoch: int, record: int) -> int:
    """Seed of the random numbers drawn for ``purpose`` for a record in an epoch, whatever rank or process reads it.

    Args:
        purpose: keeps apart what is drawn for the same record.
        seed: of the run, at least 0.
        epoch: at least 0.
        record: its place in the data set.

    Returns:
        As :func:`step_seed`.
    """
    return _seed(purpose, seed, epoch, record)


def _seed(purpose: str, *numbers: int) -> int:
    key = [*purpose.encode(), *numbers]
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
