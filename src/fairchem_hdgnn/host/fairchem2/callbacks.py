"""What a training under fairchem-core 2 says that fairchem itself does not."""

from __future__ import annotations

import logging
from typing import Any

from fairchem.core.common import distutils
from torchtnt.framework.callback import Callback

from fairchem_hdgnn.models.so3.frame_source import set_step


class ResumeNotice(Callback):
    """Warns when a run goes on from checkpoints: a ``job.timestamp_id`` that was used before makes it do so.

    Its random edge frames go on too, so that the steps are those of a run that was not ended.
    """

    def __init__(self) -> None:
        self.checkpoint_dir = ""

    def set_runner_callbacks(self, save_callback: Any, load_callback: Any, checkpoint_dir: str) -> None:
        """Called by fairchem's runner before anything else."""
        self.checkpoint_dir = checkpoint_dir

    def on_train_start(self, state: Any, unit: Any) -> None:
        """Say where the run goes on, if it does not begin."""
        step = unit.train_progress.num_steps_completed
        set_step(unit.model, step)
        if step and distutils.is_master():
            logging.warning(
                "this run goes on at step %d, from the checkpoints in %s; for a run from the start, give another "
                "job.timestamp_id or leave it out",
                step,
                self.checkpoint_dir,
            )
