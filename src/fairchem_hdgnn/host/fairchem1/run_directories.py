"""Run directories: unique per run, locked by one process, and resumed from."""

from __future__ import annotations

import contextlib
import fcntl
import inspect
import logging
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from fairchem.core.common import distutils
from torch.optim import lr_scheduler

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host.fairchem1.config_forms import checkpoint_config, with_numbers

COMPARED = ("model", "outputs", "loss_functions", "task", "optim")
"""Sections that a resumed run compares with those in its checkpoint, besides the settings of the training data."""

FREE = {
    *{f"optim.{name}" for name in ("batch_size", "accumulate", "effective_batch_size", "eval_batch_size")},
    *{f"optim.{name}" for name in ("num_workers", "eval_every", "checkpoint_every", "scheduler_params")},
    *{f"optim.{name}" for name in ("max_epochs", "total_steps", "epochs", "steps_per_epoch", "fine_tuning.init_from")},
}
"""Keys that are not compared: they are in ``conditions``, have no effect on the steps, or are the training's length."""

FREE_DATA = {"src", "format", "metadata_path", "fitted"}
"""Keys of data sets and transforms that may differ; fairchem adds the last one itself."""

MODULES = {"normalizer": "normalizers", "element_references": "elementrefs"}
"""Transform -> its state in a checkpoint, which replaces the numbers in the config."""

STEPS = "steps per epoch"

MOST_LISTED = 12

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
        STEPS: steps_per_epoch,
        "seed": config["cmd"]["seed"],
    }


def announce(
    checkpoint: Mapping[str, Any], path: Path, own: Path, config: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Log from which step a run resumes, and whether exactly.

    fairchem resumes from ``<run_dir>/checkpoints/<run id>/checkpoint.pt`` whenever that file exists. That is right for
    a requeued job and wrong for a new run with a used id, hence a warning.

    Args:
        checkpoint: contents of ``path``.
        path: the checkpoint that was read.
        own: the checkpoint that this run writes.
        config: the trainer's.
        now: ``conditions`` of this run.
    """
    if path.absolute() == own.absolute():
        logger.warning(
            "RESUMING from %s: the run id '%s' is already in use. This is right for an interrupted run; otherwise stop "
            "now and start again with another --timestamp-id.",
            path,
            own.parent.name,
        )
    step, before = checkpoint["step"], {"optim.accumulate": 1, **checkpoint.get("conditions", {})}
    changes = [f"{name} {before.get(name, 'unknown')} -> {now[name]}" for name in now if before.get(name) != now[name]]
    if before.get(STEPS, now[STEPS]) != now[STEPS]:
        changes.append(f"{step / before[STEPS]:.3g} epochs count as {step / now[STEPS]:.3g}")
    old, new = _settings(checkpoint_config(checkpoint)), _settings(config)
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key) and not _is_free(key, new)]
    kept = [key for key in differing if _is_kept(key, old, new, checkpoint)]
    changes += [f"{key} {old.get(key, 'unset')} -> {new.get(key, 'unset')}" for key in differing if key not in kept]
    if changes:
        logger.warning("The run resumes from step %d, but not exactly: %s.", step, _listed(changes))
    elif not kept:
        logger.info("The run resumes from step %d exactly (on a GPU, up to rounding).", step)
    if kept:
        values = [f"{key} {old.get(key, 'unset')} (now {new.get(key, 'unset')} in the config)" for key in kept]
        of_data = any(key.startswith("dataset.") for key in kept)
        logger.warning(
            "The run resumes from step %d with settings of its checkpoint: %s. To change them, start a new training "
            "from these weights: --init-from %s%s and another --timestamp-id.",
            step,
            _listed(values),
            path,
            ", --optim.fine_tuning.normalizer=fresh" if of_data else "",
        )


def _listed(parts: list[str]) -> str:
    rest = f"; and {len(parts) - MOST_LISTED} more" if len(parts) > MOST_LISTED else ""
    return "; ".join(parts[:MOST_LISTED]) + rest


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The compared settings of a trainer's config by dotted key; one that is none counts as absent."""
    found = {key: value for name in COMPARED for key, value in _flat(name, with_numbers(config.get(name)))}
    found.update(_flat("dataset.train", with_numbers(config.get("dataset"))))
    return {key: value for key, value in found.items() if value is not None}


def _is_free(key: str, new: Mapping[str, Any]) -> bool:
    if key == "optim.eval_every" and new.get("optim.scheduler") == "ReduceLROnPlateau":
        # It steps at evaluations.
        return False
    return key in FREE or key.rpartition(".")[2] in FREE_DATA


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    parts: Any = ()
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list) and any(isinstance(part, Mapping) for part in value):
        parts = enumerate(value)
    else:
        yield name, value
    for key, part in parts:
        yield from _flat(f"{name}.{key}", part)


def _is_kept(key: str, old: Mapping[str, Any], new: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> bool:
    """Whether the state in the checkpoint decides, not the config: of optimizer, scheduler, EMA and normalizers."""
    section, name, part = [*key.removeprefix("dataset.train.").split("."), "", ""][:3]
    if section == "transforms" and name in MODULES:
        return part in ("fit", "file") or part in checkpoint.get(MODULES[name], {})
    if section != "optim":
        return False
    if name == "ema_decay":
        return key in old and key in new
    if name in ("lr_initial", "optimizer_params", "weight_decay") or part in ("layer_decay", "learning_rates"):
        return True
    if name in ("pct_start", "three_phase") and old.get("optim.total_steps") != new.get("optim.total_steps"):
        # A one-cycle schedule is made anew if the training has another length.
        return False
    # The default schedule is a function of the config.
    schedule = getattr(lr_scheduler, str(new.get("optim.scheduler")), None)
    return schedule is not None and name in inspect.signature(schedule).parameters
