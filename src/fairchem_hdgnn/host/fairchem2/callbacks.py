"""Messages about resuming, and the state that fairchem-core 2 does not restore when a training resumes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fairchem.core.common import distutils
from fairchem.core.components.train.train_runner import get_most_recent_viable_checkpoint_path
from omegaconf import OmegaConf
from torchtnt.framework.callback import Callback

from fairchem_hdgnn.host.fairchem2.dataset import OC20Dataset
from fairchem_hdgnn.models.so3.frame_source import set_step

MODEL = "runner.train_eval_unit.model"
CHECKPOINTS_CONFIG = "resume.yaml"
RUNS_CONFIG = "canonical_config.yaml"


class ResumeNotice(Callback):
    """Warn when a run resumes from checkpoints because its ``job.timestamp_id`` was used before.

    The random numbers of edge frames and Noisy Nodes continue too, so that a resumed run does the same steps.
    """

    def __init__(self) -> None:
        self.checkpoint_dir = ""

    def set_runner_callbacks(self, save_callback: Any, load_callback: Any, checkpoint_dir: str) -> None:
        """Warn about a checkpoint of another model; fairchem's runner calls this before that ends the run."""
        self.checkpoint_dir = checkpoint_dir
        checkpoint = get_most_recent_viable_checkpoint_path(checkpoint_dir) if Path(checkpoint_dir).is_dir() else None
        changes = changed_keys(Path(checkpoint)) if checkpoint else []
        if changes and distutils.is_master():
            logging.warning(
                "%s: a checkpoint of another model (%s), from which this run resumes because its job.timestamp_id was "
                "used before; choose another one or omit it",
                checkpoint,
                "; ".join(changes),
            )

    def on_train_start(self, state: Any, unit: Any) -> None:
        """Log the step from which the run resumes, if it does."""
        step = unit.train_progress.num_steps_completed
        set_step(unit.model, step)
        set_epoch(state, unit)
        if step and distutils.is_master():
            logging.warning(
                "this run resumes from step %d, from the checkpoints in %s; to start from scratch, choose another "
                "job.timestamp_id or omit it",
                step,
                self.checkpoint_dir,
            )

    def on_train_epoch_start(self, state: Any, unit: Any) -> None:
        """Set the epoch before its data-loader processes start; not called for an epoch that is resumed."""
        set_epoch(state, unit)


def changed_keys(checkpoint: Path) -> list[str]:
    """Keys of the model that differ between a run's config and that of one of its checkpoints.

    Args:
        checkpoint: ``RUN/checkpoints/step_...``, as fairchem writes it.

    Returns:
        For example ``backbone.lmax 2 -> 3``; empty if a config cannot be read.
    """
    try:
        before, now = (
            dict(_flat(OmegaConf.to_container(OmegaConf.select(OmegaConf.load(path), MODEL), resolve=True)))
            for path in (checkpoint / CHECKPOINTS_CONFIG, checkpoint.parents[1] / RUNS_CONFIG)
        )
    except (OSError, ValueError):
        return []
    # A fine-tuning's checkpoints have the config of the resulting model.
    if before.get("_target_") != now.get("_target_"):
        return []
    keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    return [f"{key} {before.get(key)} -> {now.get(key)}" for key in keys]


def set_epoch(state: Any, unit: Any) -> None:
    """Set the epoch of the training data, on which their random numbers depend."""
    for dataset in _datasets(state.train_state.dataloader.dataset):
        dataset.epoch = unit.train_progress.num_epochs_completed


def _flat(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(section, dict):
        yield prefix.rstrip("."), section
        return
    for key, value in section.items():
        yield from _flat(value, f"{prefix}{key}.")


def _datasets(dataset: Any) -> Iterator[OC20Dataset]:
    """The data sets of this package inside fairchem's list of subsets."""
    if isinstance(dataset, OC20Dataset):
        yield dataset
    elif hasattr(dataset, "datasets"):
        for part in dataset.datasets:
            yield from _datasets(part)
    elif hasattr(dataset, "dataset"):
        yield from _datasets(dataset.dataset)
