"""Check that the one-cycle learning rate and the averages of weights (EMA) go with the length of the training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fairchem_hdgnn.checks.findings import Finding, error, warning
from fairchem_hdgnn.host.fairchem1.one_cycle import NAME, given_length

TOLERANCE = 1.05
"""A schedule that is longer by less ends close enough to its lowest rate."""

INITIAL_SHARE = 0.2
"""Largest share of the initial weights in the final averages."""


def schedule_findings(optim: Mapping[str, Any], num_steps: int) -> Iterator[Finding]:
    """Compare schedule and averages with the length of the training, and the highest rate with ``lr_initial``.

    Args:
        optim: the section of the config.
        num_steps: optimiser steps of the training; 0 if it is unknown.
    """
    rate, highest = optim.get("lr_initial"), optim.get("max_lr")
    are_numbers = isinstance(rate, (int, float)) and isinstance(highest, (int, float))
    if optim.get("scheduler") == NAME and are_numbers and rate != highest:
        problem = f"{rate} has no effect with {NAME}, which rises to optim.max_lr {highest}"
        yield warning("optim.lr_initial", problem, "set optim.max_lr, and optim.lr_initial to the same")
    yield from _average_findings(optim, num_steps)
    length = given_length(optim)
    if length is None or num_steps == 0:
        return
    key = "total_steps" if optim.get("total_steps") else "steps_per_epoch"
    remedy = f"remove optim.{key}: the schedule then takes the length of the training"
    if length < num_steps:
        problem = f"the one-cycle learning rate ends at step {length:,}, the training at {num_steps:,}"
        yield error(f"optim.{key}", problem, remedy)
    elif length > TOLERANCE * num_steps:
        problem = f"the training ends at step {num_steps:,} of a one-cycle learning rate of {length:,}"
        yield warning(f"optim.{key}", problem, remedy)


def _average_findings(optim: Mapping[str, Any], num_steps: int) -> Iterator[Finding]:
    decay = optim.get("ema_decay")
    if not isinstance(decay, (int, float)) or num_steps == 0 or decay**num_steps <= INITIAL_SHARE:
        return
    share = f"{100 * decay**num_steps:.0f} %"
    problem = f"{decay:g}: after {num_steps:,} steps, {share} of the averages, which are evaluated, are initial weights"
    remedy = f"set it to {1 - 10 / num_steps:.3g}" if num_steps > 10 else "remove it"
    yield warning("optim.ema_decay", problem, f"train longer, or {remedy}")
