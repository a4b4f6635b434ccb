"""Names of run directories: unique for a new run, the same again for a run that goes on."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from fairchem_hdgnn.errors import ConfigError

logger = logging.getLogger(__name__)


def new_run_id(identifier: str = "") -> str:
    """A run id that no other run has, e.g. ``2025-03-01-12-30-59-a1b2c3-hdgnn``.

    fairchem rounds its own time stamps to 128 seconds, so two runs started together would share
    ``checkpoints/<run id>`` and the second would go on from the first one's checkpoint. Pass the result as
    ``timestamp_id`` (``--timestamp-id``).
    """
    return _with_identifier(f"{datetime.now():%Y-%m-%d-%H-%M-%S}-{secrets.token_hex(3)}", identifier)


def slurm_run_id(identifier: str = "") -> str:
    """The run id of a Slurm step: the same for all its tasks, and the same again when its job is requeued."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return _with_identifier(f"job{job}.{os.environ['SLURM_STEP_ID']}", identifier)


def _with_identifier(run_id: str, identifier: str) -> str:
    return f"{run_id}-{identifier}" if identifier else run_id


@contextlib.contextmanager
def exclusive_use(checkpoint_dir: Path) -> Iterator[None]:
    """Hold a run directory for this process alone; the operating system lets go when the process ends, however.

    Raises:
        ConfigError: another running training holds it.
    """
    checkpoint_dir.mkdir(parents=True, exist_ok=True)
    with (checkpoint_dir / ".in-use").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ConfigError(
                f"{checkpoint_dir}: another training writes here now ({file.read().strip()}); "
                "end that one first, or choose another --timestamp-id"
            ) from error
        except OSError:
            logger.warning("%s: this file system has no locks; see that no other training uses it.", checkpoint_dir)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
