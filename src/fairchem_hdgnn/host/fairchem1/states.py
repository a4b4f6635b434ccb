"""What a checkpoint has of a trainer, in fairchem's format: all that prediction needs, and all that resuming needs."""

from __future__ import annotations

from typing import Any

from fairchem.core.trainers import OCPTrainer

from fairchem_hdgnn.host.checkpoints import MODEL_VERSION
from fairchem_hdgnn.host.fairchem1.run_directories import conditions
from fairchem_hdgnn.host.which import versions


def prediction_state(trainer: OCPTrainer, metrics: Any) -> dict[str, Any]:
    """Weights, normalizers, config and versions.

    Args:
        trainer: :class:`fairchem_hdgnn.host.fairchem1.trainer.Trainer`.
        metrics: of the last validation; ``None`` if there was none.
    """
    return {
        "model_version": MODEL_VERSION,
        "state_dict": trainer.model.state_dict(),
        "normalizers": {name: module.state_dict() for name, module in trainer.normalizers.items()},
        "elementrefs": {name: module.state_dict() for name, module in trainer.elementrefs.items()},
        "config": trainer.config,
        "val_metrics": metrics,
        "amp": trainer.scaler.state_dict() if trainer.scaler else None,
        "versions": versions(),
    }


def training_state_of(trainer: OCPTrainer) -> dict[str, Any]:
    """Step, optimizer, schedule, averages and metrics of a trainer as for :func:`prediction_state`."""
    has_scheduler = trainer.scheduler.scheduler_type != "Null"
    return {
        "epoch": trainer.epoch,
        "step": trainer.step,
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.scheduler.scheduler.state_dict() if has_scheduler else None,
        "ema": trainer.ema.state_dict() if trainer.ema else None,
        "best_val_metric": trainer.best_val_metric,
        "primary_metric": trainer.primary_metric,
        "evaluated_step": trainer._evaluated_step,
        "running_metrics": trainer.metrics,
        "conditions": conditions(trainer.config, trainer._steps_per_epoch),
    }
