"""Run directories: unique per run, locked by one process, and resumed from."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from fairchem.core.common import distutils

from fairchem_hdgnn.errors import ConfigError

logger = logging.getLogger(__name__)


def new_run_id(identifier: str = "") -> str:
    """A unique run id, e.g. ``2025-03-01-12-30-59-a1b2c3-hdgnn``.

    fairchem rounds its own time stamps to 128 seconds, so two runs started together would share
    ``checkpoints/<run id>``, and the second would resume from the first one's checkpoint. Pass the result as
    ``timestamp_id`` (``--timestamp-id``).
    """
    return _with_identifier(f"{datetime.now():%Y-%m-%d-%H-%M-%S}-{secrets.token_hex(3)}", identifier)


def slurm_run_id(identifier: str = "") -> str:
    """The run id of a Slurm step: the same for all its tasks, and unchanged when its job is requeued."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return _with_identifier(f"job{job}.{os.environ['SLURM_STEP_ID']}", identifier)


def _with_identifier(run_id: str, identifier: str) -> str:
    return f"{run_id}-{identifier}" if identifier else run_id


def make_run_folders(run_dir: Path) -> None:
    """Create the folders in which fairchem stores runs.

    Raises:
        ConfigError: they cannot be created or written to.
    """
    for folder in (run_dir / name for name in ("checkpoints", "results", "logs")):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--run-dir {run_dir}: {folder} cannot be created ({error.strerror})") from error
        if not os.access(folder, os.W_OK):
            raise ConfigError(f"--run-dir {run_dir}: {folder} is not writable; choose another folder")


@contextlib.contextmanager
def exclusive_use(checkpoint_dir: Path) -> Iterator[None]:
    """Lock a run directory for this process; the operating system releases the lock when the process ends.

    Raises:
        ConfigError: another running training has locked it.
    """
    checkpoint_dir.mkdir(parents=True, exist_ok=True)
    with (checkpoint_dir / ".in-use").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ConfigError(
                f"{checkpoint_dir}: another training is writing here ({file.read().strip()}); "
                "stop that one first, or choose another --timestamp-id"
            ) from error
        except OSError:
            logger.warning(
                "%s: this file system has no locks; make sure that no other training uses it.", checkpoint_dir
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def conditions(config: Mapping[str, Any], steps_per_epoch: int) -> dict[str, Any]:
    """Conditions under which a resumed run reproduces the uninterrupted one; ``config`` is the trainer's."""
    return {
        "world size": distutils.get_world_size(),
        "optim.batch_size": config["optim"].get("batch_size", 1),
        "optim.accumulate": config["optim"].get("accumulate", 1),
        "steps per epoch": steps_per_epoch,
        "seed": config["cmd"]["seed"],
    }


def announce(checkpoint: Path, own: Path, step: int, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Log from which step a run resumes, and whether exactly.

    fairchem resumes from ``<run_dir>/checkpoints/<run id>/checkpoint.pt`` whenever that file exists. That is right for
    a requeued job and wrong for a new run with a used id, hence a warning.

    Args:
        checkpoint: the checkpoint that was read.
        own: the checkpoint that this run writes.
        step: step of the checkpoint.
        before: ``conditions`` of the run that wrote the checkpoint.
        now: ``conditions`` of this run.
    """
    if checkpoint.absolute() == own.absolute():
        logger.warning(
            "RESUMING from %s: the run id '%s' is already in use. This is right for an interrupted run; otherwise stop "
            "now and start again with another --timestamp-id.",
            checkpoint,
            own.parent.name,
        )
    before = {"optim.accumulate": 1, **before}
    changes = [f"{name} {before.get(name, 'unknown')} -> {now[name]}" for name in now if before.get(name) != now[name]]
    if changes:
        logger.warning("The run resumes from step %d, but not exactly: %s.", step, "; ".join(changes))
    else:
        logger.info("The run resumes from step %d exactly (on a GPU, up to rounding).", step)
