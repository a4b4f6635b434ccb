"""Check that a one-cycle learning rate has the length of the training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fairchem_hdgnn.checks.findings import Finding, error, warning
from fairchem_hdgnn.host.fairchem1.one_cycle import given_length

TOLERANCE = 1.05
"""A schedule that is longer by less ends close enough to its lowest rate."""


def schedule_findings(optim: Mapping[str, Any], num_steps: int) -> Iterator[Finding]:
    """Compare the length of the schedule with that of the training.

    Args:
        optim: the section of the config.
        num_steps: optimiser steps of the training; 0 if it is unknown.
    """
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
