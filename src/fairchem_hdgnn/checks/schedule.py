"""Check that a one-cycle learning rate has the length of the training and the rate that was meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fairchem_hdgnn.checks.findings import Finding, error, warning
from fairchem_hdgnn.host.fairchem1.one_cycle import NAME, given_length

TOLERANCE = 1.05
"""A schedule that is longer by less ends close enough to its lowest rate."""


def schedule_findings(optim: Mapping[str, Any], num_steps: int) -> Iterator[Finding]:
    """Compare the length of the schedule with that of the training, and its highest rate with ``lr_initial``.

    Args:
        optim: the section of the config.
        num_steps: optimiser steps of the training; 0 if it is unknown.
    """
    rate, highest = optim.get("lr_initial"), optim.get("max_lr")
    are_numbers = isinstance(rate, (int, float)) and isinstance(highest, (int, float))
    if optim.get("scheduler") == NAME and are_numbers and rate != highest:
        problem = f"{rate} has no effect with {NAME}, which rises to optim.max_lr {highest}"
        yield warning("optim.lr_initial", problem, "set optim.max_lr, and optim.lr_initial to the same")
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
