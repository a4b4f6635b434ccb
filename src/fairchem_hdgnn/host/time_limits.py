"""Time limit of a Slurm job, and how long before it Slurm signals the job."""

from __future__ import annotations

import re
from collections.abc import Mapping

LEAD = 300
"""Seconds; enough for the current step, a checkpoint and the requeue."""

SUBMITIT_LEAD = 90
"""Seconds; submitit's default."""

EARLY = 60
"""Seconds by which Slurm may send a signal early."""

_DAYS = re.compile(r"(\d+)-(\d+)(?::(\d+))?(?::(\d+))?")
_HOURS = re.compile(r"(\d+):(\d+):(\d+)")
_MINUTES = re.compile(r"(\d+)(?::(\d+))?")
_LEAD = re.compile(r"[^@]+@(\d+)")


def seconds(limit: str) -> int | None:
    """Parse ``--time`` like Slurm: ``90``, ``90:00``, ``1:30:00``, ``1-12``, ``1-12:00:00``; ``None`` for ``0``."""
    for form, units in ((_DAYS, (86400, 3600, 60, 1)), (_HOURS, (3600, 60, 1)), (_MINUTES, (60, 1))):
        if match := form.fullmatch(limit):
            return sum(unit * int(number or 0) for unit, number in zip(units, match.groups())) or None
    return None


def lead(limit: str) -> int:
    """Seconds before the limit at which to signal a job: at most a quarter of the limit."""
    total = seconds(limit)
    return LEAD if total is None else min(LEAD, total // 4)


def too_short(options: Mapping[str, str]) -> str | None:
    """Warning for a job that Slurm may signal as soon as it starts; ``None`` for others.

    Args:
        options: options of sbatch; ``time`` and ``signal`` are read.
    """
    total, ahead = seconds(options["time"]), _LEAD.fullmatch(options["signal"])
    if total is None or ahead is None or total >= int(ahead[1]) + EARLY:
        return None
    return (
        f"--time={options['time']} with --signal={options['signal']}: Slurm may signal the job as soon as it starts, "
        f"so it does one step per start; raise --time to {4 * int(ahead[1]) // 60 + 1} minutes, or lower the lead "
        "after @ in --signal"
    )
