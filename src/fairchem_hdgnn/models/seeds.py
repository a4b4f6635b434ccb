"""Random numbers of training as functions of (seed, rank, step): there is no state to save, none to restore."""

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
    key = [*purpose.encode(), seed, rank, step]
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
