"""fairchem's trainer with a robust training loop: exact resume, atomic checkpoints, preemption, explicit errors."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from fairchem.core.common import distutils
from fairchem.core.modules.exponential_moving_average import ExponentialMovingAverage
from fairchem.core.modules.scaling.util import ensure_fitted
from torch import Tensor
from torch_geometric.data import Batch

from fairchem_hdgnn.data.labels import collect_labels
from fairchem_hdgnn.errors import TrainingError
from fairchem_hdgnn.host.allocator import keep_freed_memory
from fairchem_hdgnn.host.checkpoints import check_fits, read_checkpoint, write_checkpoint
from fairchem_hdgnn.host.fairchem1.accumulation import grouped, num_steps, use_step_losses
from fairchem_hdgnn.host.fairchem1.fine_tuning import FineTuningTrainer, averages_of_all
from fairchem_hdgnn.host.fairchem1.noisy_nodes import teach_transform
from fairchem_hdgnn.host.fairchem1.one_cycle import keeping_length, set_length
from fairchem_hdgnn.host.fairchem1.ranks import check_same_start
from fairchem_hdgnn.host.fairchem1.relaxation import run_relaxations
from fairchem_hdgnn.host.fairchem1.run_directories import (
    announce,
    conditions,
    exclusive_use,
    make_run_folders,
    new_run_id,
)
from fairchem_hdgnn.host.fairchem1.states import prediction_state, training_state_of
from fairchem_hdgnn.host.fairchem1.training_step import settle_buckets, train_step
from fairchem_hdgnn.host.noisy_nodes import NoisyNodes
from fairchem_hdgnn.host.precision import Precision
from fairchem_hdgnn.host.preemption import PreemptedError, PreemptionWatch, job_run_id
from fairchem_hdgnn.host.results import written_whole
from fairchem_hdgnn.host.schedules import Cadence, LossSchedule
from fairchem_hdgnn.host.stop_conditions import backward_queue_emptied, check_weights, explained_out_of_memory


class Trainer(FineTuningTrainer):
    """fairchem's ``ocp`` trainer with its own training loop; its subclass in ``checks``, named in YAMLs, adds checks.

    It reads the same config and writes the same checkpoints (with trainer ``ocp``, so any fairchem tool opens them).
    Differences:

    - A resumed run reproduces the losses of the uninterrupted one (same world size and batch size): checkpoints are
      written after the scheduler's step, and random numbers are a function of (seed, rank, batch). Bit for bit on a
      CPU. On a GPU up to rounding: sums over edges, over atoms and of the invariant branch have a fixed order, but
      backward passes of ``index_select`` (``DegreeLinear``; ``gate.gated`` without kernels) do not.
    - ``checkpoint.pt`` is replaced atomically, and never by weights that are not finite.
    - SIGUSR1 and SIGTERM stop the run between two batches, with a checkpoint and a requeue under Slurm.
    - A nan stops the run with an error that names the structures; fairchem replaces it by zero.
    - ``optim.accumulate`` (gradient accumulation), ``optim.precision`` (``bfloat16``, ``tf32``), ``final_coefficient``
      of a loss, the ``noisy_nodes`` transform; run directories are unique.
    - Relaxations run with any ASE and on several ranks, without side effects on a training.
    """

    step: int
    epoch: float
    primary_metric: str | None
    best_val_metric: float | None
    ema: ExponentialMovingAverage | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As ``OCPTrainer``; raises a ConfigError if ``run_dir`` is not writable."""
        self._watch: PreemptionWatch | None = None
        self._has_advanced = False
        self._relaxing = False
        self.relax_dataset: Any = None
        self._settled = False
        self._evaluated_step = 0
        self._started, self._first_step = 0.0, 0
        self._saved_step: int | None = None
        self.metrics: dict[str, Any] = {}
        if distutils.is_master() and not kwargs.get("is_debug"):
            make_run_folders(Path(kwargs.get("run_dir") or "."))
        # An empty section is None in YAML.
        if "task" in kwargs:
            kwargs["task"] = kwargs["task"] or {}
        self._settings = repr((args, kwargs))
        super().__init__(*args, **kwargs)
        if self.device.type == "cpu":
            keep_freed_memory()

    def _get_timestamp(self, device: torch.device, suffix: str | None) -> str:
        run_id = [job_run_id(self._settings, suffix or "") or new_run_id(suffix or "")]
        distutils.broadcast_object_list(run_id, src=0, device=device)
        return run_id[0]

    def load_datasets(self) -> None:
        """As fairchem, and add the ``noisy_nodes`` transform to the data sets."""
        super().load_datasets()
        for split in ("train", "val", "test", "relax"):
            teach_transform(getattr(self, f"{split}_dataset", None))
        if self.is_debug:
            # fairchem predicts on a test set after the best epoch, but not in a debug run.
            self.test_loader = None

    def load_task(self) -> None:
        """As fairchem, and read the settings of precision and Noisy Nodes."""
        super().load_task()
        self.precision = Precision.from_config(self.config["optim"], amp=self.config["amp"])
        self.noisy_nodes = NoisyNodes.of_config(self.config)

    def load_loss(self) -> None:
        """As fairchem, but losses are averaged over an optimiser step, and their weights follow a schedule."""
        super().load_loss()
        use_step_losses(self.loss_functions, self.config["loss_functions"])
        self.loss_schedule = LossSchedule(self.config["loss_functions"])

    def _compute_loss(self, out: dict[str, Tensor], batch: Batch) -> Tensor:
        self.loss_schedule.apply(self.loss_functions, self.step / self.num_steps if self.num_steps else 1.0)
        return super()._compute_loss(out, batch)

    def load_extras(self) -> None:
        """As fairchem; a one-cycle schedule without a length takes that of the training."""
        set_length(self.config["optim"], self.num_steps)
        super().load_extras()

    @property
    def checkpoint_path(self) -> Path:
        """Path of the checkpoint with the training state."""
        return Path(self.config["cmd"]["checkpoint_dir"]) / "checkpoint.pt"

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the whole training; 0 without training data."""
        return self.config["optim"]["max_epochs"] * self._steps_per_epoch

    @property
    def _accumulate(self) -> int:
        return self.config["optim"].get("accumulate", 1)

    @property
    def _steps_per_epoch(self) -> int:
        return num_steps(len(self.train_loader), self._accumulate) if self.train_loader else 0

    # Training.

    def train(self, disable_eval_tqdm: bool = False) -> None:
        """Train until ``optim.max_epochs``, starting from a loaded checkpoint if there is one.

        Raises:
            TrainingError: a prediction, gradient or weight is nan or infinite, or a batch does not fit into memory.
            ConfigError: another process trains in this run directory, or another rank cannot access it.
            SystemExit: the scheduler preempted the run (status ``PREEMPTED_EXIT_STATUS``).
        """
        self.initialise()
        ensure_fitted(self._unwrapped_model, warn=True)
        self._disable_eval_tqdm = disable_eval_tqdm
        self._start_best_metric()
        check_same_start(self.checkpoint_path, self.step, self.device)
        writes = distutils.is_master() and not self.is_debug
        lock = exclusive_use(self.checkpoint_path.parent) if writes else nullcontext()
        with lock, backward_queue_emptied(), PreemptionWatch() as watch:
            self._watch = watch
            self._started, self._first_step = time.monotonic(), self.step
            try:
                self._run_epochs()
            except PreemptedError:
                watch.give_way(f"{self.checkpoint_path} (step {self.step})")
            except TrainingError as error:
                raise TrainingError(f"step {self.step}: {error}. {self._last_checkpoint()}") from error
        self._watch = None

    def time_left(self) -> str:
        """Hours, minutes and seconds to the end of the training, with evaluations, at the speed of this process."""
        seconds = (time.monotonic() - self._started) / max(1, self.step - self._first_step)
        return str(timedelta(seconds=round(seconds * (self.num_steps - self.step))))

    def _last_checkpoint(self) -> str:
        if self._saved_step is None:
            return "No checkpoint was written yet"
        return f"Last good checkpoint: {self.checkpoint_path} (step {self._saved_step})"

    def _run_epochs(self) -> None:
        steps_per_epoch = self._steps_per_epoch
        cadence = Cadence.of(self.config["optim"], steps_per_epoch)
        if cadence.evaluates_at(self.step) and self._evaluated_step < self.step:
            self._evaluate()
        for epoch in range(self.step // steps_per_epoch, self.config["optim"]["max_epochs"]):
            self.train_sampler.set_epoch_and_start_iteration(epoch, self.step % steps_per_epoch * self._accumulate)
            for batches in grouped(self.train_loader, self._accumulate):
                before = self.step, self.epoch, copy.deepcopy(self.metrics)
                self.step += 1
                self.epoch = self.step / steps_per_epoch
                try:
                    self._train_step(batches)
                except PreemptedError:
                    # The partial step is repeated after resuming.
                    self.step, self.epoch, self.metrics = before
                    self.save()
                    raise
                self._after_step(cadence)

    def _train_step(self, batches: list[Batch]) -> None:
        first = (self.step - 1) * self._accumulate + 1
        if not self._settled:
            settle_buckets(self, batches[0], first)
            self._settled = True
        train_step(self, batches, first)
        if self.scheduler.scheduler_type != "ReduceLROnPlateau":
            self.scheduler.step()
        self._has_advanced = True

    def stop_if_preempted(self) -> None:
        """Check for a preemption signal between two batches. Collective.

        The first step or evaluation is always finished: a job that is signalled at each start must still make progress.

        Raises:
            PreemptedError: the scheduler is reclaiming the machine.
        """
        if self._watch is not None and self._watch.agreed() and self._has_advanced:
            raise PreemptedError

    def _forward(self, batch: Batch) -> dict[str, Tensor]:
        if not self.model.training:
            self.stop_if_preempted()
        collect_labels(batch, self.output_targets)
        # If a relaxation does not fit into memory, fairchem relaxes one half of the batch, then the other.
        halved = self._relaxing and len(batch.natoms) > 1
        explained = nullcontext() if halved else explained_out_of_memory(batch, self._unwrapped_model)
        with self.precision.autocast(self.device), explained:
            predictions = super()._forward(batch)
        return {name: prediction.float() for name, prediction in predictions.items()}

    # Evaluation and checkpoints.

    def _after_step(self, cadence: Cadence) -> None:
        if cadence.saves_at(self.step):
            self.save()
        if cadence.evaluates_at(self.step):
            self._evaluate()

    def _evaluate(self) -> None:
        if self.val_loader is not None:
            metrics = self.validate(split="val", disable_tqdm=self._disable_eval_tqdm)
            self.update_best(self.primary_metric, metrics, disable_eval_tqdm=self._disable_eval_tqdm)
            if self.scheduler.scheduler_type == "ReduceLROnPlateau":
                self.scheduler.step(metrics=metrics[self.primary_metric]["metric"])
        if self.config["task"].get("eval_relaxations", False):
            self.run_relaxations()
        self._evaluated_step = self.step
        self._has_advanced = True
        self.save()

    def run_relaxations(self) -> None:
        """As fairchem; see :func:`fairchem_hdgnn.host.fairchem1.relaxation.run_relaxations`. Collective."""
        # Ranks do different numbers of steps, so they cannot agree on a signal before all are done.
        watch, self._watch, self._relaxing = self._watch, None, True
        try:
            run_relaxations(self, super().run_relaxations, f"step-{self.step}" if watch else "")
        finally:
            self._watch, self._relaxing = watch, False

    def _start_best_metric(self) -> None:
        """Keep the best metric of a resumed run, unless the config now has another primary metric."""
        primary_metric = self.evaluation_metrics.get("primary_metric", self.evaluator.task_primary_metric[self.name])
        if self.primary_metric != primary_metric or self.best_val_metric is None:
            self.primary_metric = primary_metric
            self.best_val_metric = float("inf") if "mae" in str(primary_metric) else -1.0

    def save(
        self, metrics: Any = None, checkpoint_file: str = "checkpoint.pt", training_state: bool = True
    ) -> str | None:
        """Write a checkpoint in fairchem's format, atomically.

        Args:
            metrics: validation metrics to keep with it.
            checkpoint_file: name inside the run's checkpoint folder.
            training_state: whether to save all that resuming needs, or (``best_checkpoint.pt``) only averaged weights.

        Returns:
            Its path on rank 0, ``None`` on the others.

        Raises:
            TrainingError: a weight is nan or infinite; the earlier checkpoint is unchanged.
            DataError: it cannot be written; the earlier checkpoint is unchanged.
        """
        if self.is_debug:
            return None
        check_weights(self._unwrapped_model)
        if training_state:
            self._saved_step = self.step
        if not distutils.is_master():
            return None
        path = self.checkpoint_path.with_name(checkpoint_file)
        state = prediction_state(self, metrics)
        if training_state:
            write_checkpoint({**state, **training_state_of(self)}, path)
            return str(path)
        if self.ema is not None:
            self.ema.store()
            self.ema.copy_to()
        write_checkpoint(state, path)
        if self.ema is not None:
            self.ema.restore()
        return str(path)

    def save_results(
        self, predictions: dict[str, Any], results_file: str | None, keys: Sequence[str] | None = None
    ) -> None:
        """As fairchem, but the file is written atomically.

        Raises:
            DataError: it cannot be written; an earlier file is unchanged.
        """
        if results_file is None:
            return
        command = self.config["cmd"]
        with written_whole(Path(command["results_dir"]), here=distutils.is_master()) as folder:
            self.config["cmd"] = {**command, "results_dir": str(folder)}
            try:
                super().save_results(predictions, results_file, keys)
            finally:
                self.config["cmd"] = command

    def load_checkpoint(
        self, checkpoint_path: str, checkpoint: dict | None = None, inference_only: bool = False
    ) -> None:
        """As fairchem; warns if the resumed run cannot reproduce the uninterrupted one exactly."""
        checkpoint = checkpoint or read_checkpoint(checkpoint_path)
        check_fits(checkpoint, self.model, self.config, checkpoint_path, inference_only=inference_only)
        with keeping_length(self.scheduler):
            super().load_checkpoint(checkpoint_path, checkpoint, inference_only)
        if not inference_only and self.ema is None and self.ema_decay:
            # best_checkpoint.pt has averages in place of the weights, and fairchem then goes on without.
            self.ema = averages_of_all(self.model, self.ema_decay)
        if inference_only or "step" not in checkpoint:
            return
        self._saved_step = self.step
        self._evaluated_step = checkpoint.get("evaluated_step", self.step)
        self.metrics = checkpoint.get("running_metrics", {})
        if distutils.is_master():
            now = conditions(self.config, self._steps_per_epoch)
            announce(checkpoint, Path(checkpoint_path), self.checkpoint_path, self.config, now)
