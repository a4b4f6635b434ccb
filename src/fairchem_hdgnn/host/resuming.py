"""Going on from a checkpoint: whether anybody asked for it, and whether the losses will be the same."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairchem.core.common import distutils

logger = logging.getLogger(__name__)


def conditions(config: Mapping[str, Any], steps_per_epoch: int) -> dict[str, Any]:
    """What must be unchanged for a resumed run to repeat the uninterrupted one; ``config`` is the trainer's."""
    return {
        "world size": distutils.get_world_size(),
        "optim.batch_size": config["optim"].get("batch_size", 1),
        "steps per epoch": steps_per_epoch,
        "seed": config["cmd"]["seed"],
    }


def announce(checkpoint: Path, own: Path, step: int, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Log from where a run goes on, and whether exactly.

    fairchem resumes from ``<run_dir>/checkpoints/<run id>/checkpoint.pt`` whenever that file exists. That is right for
    a requeued job and wrong for a new run under a used id, hence a warning.

    Args:
        checkpoint: what was read.
        own: where this run will write.
        step: the run has come to.
        before: ``conditions`` of the run that wrote the checkpoint.
        now: those of this run.
    """
    if checkpoint.absolute() == own.absolute():
        logger.warning(
            "RESUMING from %s: the run id '%s' is already in use. Right for an interrupted run; otherwise stop now and "
            "start again with another --timestamp-id.",
            checkpoint,
            own.parent.name,
        )
    changes = [f"{name} {before.get(name, 'unknown')} -> {now[name]}" for name in now if before.get(name) != now[name]]
    if changes:
        logger.warning("The run goes on from step %d, but not exactly: %s.", step, "; ".join(changes))
    else:
        logger.info("The run goes on from step %d exactly, on a GPU but for rounding.", step)
