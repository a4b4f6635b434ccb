"""What a training under fairchem-core 2 says, and what goes on after a resume, that fairchem leaves out."""

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
    """Warns when a run goes on from checkpoints: a ``job.timestamp_id`` that was used before makes it do so.

    Its random edge frames and Noisy Nodes go on too, so that the steps are those of a run that was not ended.
    """

    def __init__(self) -> None:
        self.checkpoint_dir = ""

    def set_runner_callbacks(self, save_callback: Any, load_callback: Any, checkpoint_dir: str) -> None:
        """Called by fairchem's runner first of all, and so before a checkpoint of another model ends the run."""
        self.checkpoint_dir = checkpoint_dir
        checkpoint = get_most_recent_viable_checkpoint_path(checkpoint_dir) if Path(checkpoint_dir).is_dir() else None
        changes = changed_keys(Path(checkpoint)) if checkpoint else []
        if changes and distutils.is_master():
            logging.warning(
                "%s: a checkpoint of another model (%s), from which this run goes on since its job.timestamp_id was "
                "used before; give another one or leave it out",
                checkpoint,
                "; ".join(changes),
            )

    def on_train_start(self, state: Any, unit: Any) -> None:
        """Say where the run goes on, if it does not begin."""
        step = unit.train_progress.num_steps_completed
        set_step(unit.model, step)
        set_epoch(state, unit)
        if step and distutils.is_master():
            logging.warning(
                "this run goes on at step %d, from the checkpoints in %s; for a run from the start, give another "
                "job.timestamp_id or leave it out",
                step,
                self.checkpoint_dir,
            )

    def on_train_epoch_start(self, state: Any, unit: Any) -> None:
        """Called before an epoch's processes that load data start, but not in one that is gone on with."""
        set_epoch(state, unit)


def changed_keys(checkpoint: Path) -> list[str]:
    """Keys of the model in which a run's configuration differs from that of one of its checkpoints.

    Args:
        checkpoint: ``RUN/checkpoints/step_...``, as fairchem writes it.

    Returns:
        Such as ``backbone.lmax 2 -> 3``; nothing where a configuration is not to be read.
    """
    try:
        before, now = (
            dict(_flat(OmegaConf.to_container(OmegaConf.select(OmegaConf.load(path), MODEL), resolve=True)))
            for path in (checkpoint / CHECKPOINTS_CONFIG, checkpoint.parents[1] / RUNS_CONFIG)
        )
    except (OSError, ValueError):
        return []
    # A fine-tuning's checkpoints have the configuration of the model that it made.
    if before.get("_target_") != now.get("_target_"):
        return []
    keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    return [f"{key} {before.get(key)} -> {now.get(key)}" for key in keys]


def set_epoch(state: Any, unit: Any) -> None:
    """Let the training data have the random numbers of the epoch."""
    for dataset in _datasets(state.train_state.dataloader.dataset):
        dataset.epoch = unit.train_progress.num_epochs_completed


def _flat(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(section, dict):
        yield prefix.rstrip("."), section
        return
    for key, value in section.items():
        yield from _flat(value, f"{prefix}{key}.")


def _datasets(dataset: Any) -> Iterator[OC20Dataset]:
    """Ours in what fairchem makes of the splits: a list of subsets."""
    if isinstance(dataset, OC20Dataset):
        yield dataset
    elif hasattr(dataset, "datasets"):
        for part in dataset.datasets:
            yield from _datasets(part)
    elif hasattr(dataset, "dataset"):
        yield from _datasets(dataset.dataset)
