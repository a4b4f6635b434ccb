"""The length of torch's one-cycle learning rate: that of the training, also if a resumed run has more epochs."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

from fairchem.core.modules.scheduler import LRScheduler
from torch.optim.lr_scheduler import OneCycleLR

from fairchem_hdgnn.host.schedules import rising_fraction

NAME = "OneCycleLR"
LENGTH = ("total_steps", "_schedule_phases")
"""What its state has of the length."""

logger = logging.getLogger(__name__)


def set_length(optim: dict[str, Any], num_steps: int) -> None:
    """Add the missing length of a one-cycle schedule, so that it is in checkpoints too, which fairchem opens.

    A ``pct_start`` with which torch divides by zero is raised by a billionth.

    Args:
        optim: the section of the config, changed in place.
        num_steps: optimiser steps of the training; 0 if it has none.
    """
    if optim.get("scheduler") != NAME:
        return
    if not optim.get("total_steps"):
        if optim.get("steps_per_epoch"):
            optim.setdefault("epochs", optim["max_epochs"])
        else:
            optim["total_steps"] = max(1, num_steps)
    if "pct_start" in optim and (length := given_length(optim)) is not None:
        optim["pct_start"] = rising_fraction(optim["pct_start"], length)


def given_length(optim: Mapping[str, Any]) -> int | None:
    """Steps of the one-cycle schedule, as given in ``optim``; ``None`` for another schedule, or if none are given."""
    if optim.get("scheduler") != NAME:
        return None
    given = [optim["total_steps"]] if optim.get("total_steps") else []
    if not given and optim.get("steps_per_epoch"):
        given = [optim.get("epochs", optim["max_epochs"]), optim["steps_per_epoch"]]
    # torch refuses other values when the schedule is made.
    return math.prod(given) if given and all(isinstance(number, int) for number in given) else None


@contextlib.contextmanager
def keeping_length(scheduler: LRScheduler | None) -> Iterator[None]:
    """Keep the length of a one-cycle schedule while the block loads its state from a checkpoint.

    The schedule then continues at the step of the checkpoint, with the length in the config.
    """
    schedule = getattr(scheduler, "scheduler", None)
    if not isinstance(schedule, OneCycleLR):
        yield
        return
    length = {name: schedule.state_dict()[name] for name in LENGTH}
    yield
    loaded = schedule.state_dict()
    before, now = loaded["total_steps"], length["total_steps"]
    if before != now:
        schedule.load_state_dict({**loaded, **length})
        logger.warning("The one-cycle learning rate now ends at step %d instead of %d.", now, before)
