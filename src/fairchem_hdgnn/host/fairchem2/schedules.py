"""Learning rates as under fairchem-core 1.10, for ``cosine_lr_scheduler_fn`` of fairchem-core 2's unit."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from fairchem_hdgnn.host.schedules import rising_fraction


def milestones(
    optimizer: Optimizer,
    n_iters_per_epoch: int,
    *,
    warmup_steps: int,
    warmup_factor: float,
    lr_milestones: Sequence[int],
    lr_gamma: float,
) -> LambdaLR:
    """A linear warm-up, then a factor at each milestone, like the ``scheduler: LambdaLR`` of 1.10.

    Args:
        optimizer: the optimizer.
        n_iters_per_epoch: not used; fairchem passes it.
        warmup_steps: steps until the full learning rate; 0: from the start.
        warmup_factor: factor at the first step.
        lr_milestones: steps at which the rate is multiplied by ``lr_gamma``, ascending.
        lr_gamma: the factor.
    """
    steps = sorted(lr_milestones)

    def factor(step: int) -> float:
        if step <= warmup_steps and warmup_steps > 0:
            return warmup_factor + (1.0 - warmup_factor) * step / warmup_steps
        return lr_gamma ** bisect.bisect(steps, step)

    return LambdaLR(optimizer, factor)


def one_cycle(
    optimizer: Optimizer, n_iters_per_epoch: int, *, max_lr: float, epochs: int, pct_start: float
) -> OneCycleLR:
    """One cycle over the whole training, like the ``scheduler: OneCycleLR`` of 1.10 with constant momentum.

    Args:
        optimizer: the optimizer.
        n_iters_per_epoch: steps of an epoch; fairchem passes it.
        max_lr: the maximum rate.
        epochs: epochs of the whole training.
        pct_start: fraction of the training in which the rate rises.
    """
    # One more than the training has, because fairchem steps the schedule after the last step too.
    steps = epochs * n_iters_per_epoch + 1
    rising = rising_fraction(pct_start, steps)
    return OneCycleLR(optimizer, max_lr, total_steps=steps, pct_start=rising, cycle_momentum=False)
