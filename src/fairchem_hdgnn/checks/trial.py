"""Try one step of training and one of evaluation on real records, then restore the trainer's state."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from fairchem.core.common import distutils
from fairchem.core.trainers import OCPTrainer
from torch_geometric.data import Batch
from tqdm import tqdm

from fairchem_hdgnn.checks.records import sample
from fairchem_hdgnn.checks.stages import naming
from fairchem_hdgnn.errors import ConfigError

NOISY_NODES_REMEDY = "training records need tags and pos_relaxed; re-create the LMDB, or remove the transform"

CANDIDATES = 16
"""Records from which the smallest are chosen, to keep the step short."""


def try_steps(trainer: OCPTrainer) -> None:
    """Try one step of training and one of evaluation with a trainer that is ready to train. Collective.

    The batch has the smallest of some sampled records, two if the batch size allows. Weights, averages, optimiser,
    scheduler and random state are restored.

    Args:
        trainer: the trainer, with model, data sets, optimiser and scheduler loaded.

    Raises:
        ConfigError: a step failed; one line that names the keys to check.
        UserError: a structure is invalid, by the same checks as in training.
    """
    disable = not distutils.is_master()
    with _unchanged(trainer), tqdm(total=2, desc="Trial", unit="step", delay=3, leave=False, disable=disable) as bar:
        if trainer.train_dataset is not None:
            batch = _small_batch(trainer, trainer.train_dataset, trainer.config["optim"].get("batch_size", 1))
            _train(trainer, batch)
        bar.update()
        if trainer.val_dataset is not None:
            _evaluate(trainer, _small_batch(trainer, trainer.val_dataset, 1))
        elif trainer.scheduler.scheduler_type == "ReduceLROnPlateau":
            raise ConfigError("optim.scheduler: ReduceLROnPlateau needs a validation set (dataset.val)")


def _train(trainer: OCPTrainer, batch: Batch) -> None:
    trainer.model.train()
    if (noisy_nodes := getattr(trainer, "noisy_nodes", None)) is not None:
        with naming("dataset.train.transforms.noisy_nodes", NOISY_NODES_REMEDY):
            noisy_nodes.move(batch)
    with torch.autocast("cuda", enabled=trainer.scaler is not None):
        with naming("model, outputs", "the model cannot predict these records"):
            predictions = trainer._forward(batch)
        with naming("loss_functions, outputs", "the losses do not match predictions and labels"):
            loss = trainer._compute_loss(predictions, batch)
    with naming("evaluation_metrics", "the metrics do not match predictions and labels"):
        trainer._compute_metrics(predictions, batch, trainer.evaluator, {})
    name = trainer.config["optim"].get("optimizer", "AdamW")
    with naming(f"optim.optimizer {name}", "choose another, or correct optim.optimizer_params"):
        trainer._backward(trainer.scaler.scale(loss) if trainer.scaler else loss)
    unused = [name for name, weight in trainer.model.named_parameters() if weight.requires_grad and weight.grad is None]
    if unused:
        raise ConfigError(
            f"loss_functions: no loss depends on {len(unused)} weights of the model, first {unused[0]}; "
            "give each output a loss, or turn off outputs without one (model.regress_forces: false)"
        )
    if trainer.scheduler.scheduler_type not in ("Null", "ReduceLROnPlateau"):
        with naming(f"optim.scheduler {trainer.scheduler.scheduler_type}", "correct its arguments in optim"):
            trainer.scheduler.step()


@torch.no_grad()
def _evaluate(trainer: OCPTrainer, batch: Batch) -> None:
    trainer.model.eval()
    with naming("dataset.val, model", "the model cannot predict these records"):
        predictions = trainer._forward(batch)
    with naming("dataset.val, loss_functions, evaluation_metrics", "they do not match predictions and labels"):
        trainer._compute_loss(predictions, batch)
        metrics = trainer._compute_metrics(predictions, batch, trainer.evaluator, {})
    primary = trainer.evaluation_metrics.get("primary_metric", trainer.evaluator.task_primary_metric[trainer.name])
    if primary is None:
        raise ConfigError(
            "evaluation_metrics.primary_metric: missing; set it to the metric that selects the best epoch"
        )
    if primary not in metrics:
        raise ConfigError(
            f"evaluation_metrics.primary_metric: {primary!r} is not computed; choose from {', '.join(sorted(metrics))}"
        )


def _small_batch(trainer: OCPTrainer, dataset: Any, batch_size: int) -> Batch:
    records = [dataset[index] for index in sample(len(dataset), CANDIDATES)]
    smallest = sorted(records, key=lambda record: int(record.natoms))[: 2 if batch_size > 1 else 1]
    with naming("dataset", "these records cannot be batched"):
        return trainer.collater(smallest).to(trainer.device)


@contextmanager
def _unchanged(trainer: OCPTrainer) -> Iterator[None]:
    """Restore what a step changes; log nothing; bypass DDP, which must not see a step that other ranks do not do."""
    parts = [trainer.optimizer, trainer.ema, trainer.scaler]
    if trainer.scheduler.scheduler_type != "Null":
        parts.append(trainer.scheduler.scheduler)
    parts = [part for part in parts if part is not None]
    model, logger, was_training = trainer.model, trainer.logger, trainer.model.training
    trainer.model, trainer.logger = trainer._unwrapped_model, None
    weights = copy.deepcopy(trainer.model.state_dict())
    states = [copy.deepcopy(part.state_dict()) for part in parts]
    devices = [trainer.device] if trainer.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        trainer.model.load_state_dict(weights)
        trainer.model.zero_grad(set_to_none=True)
        for part, state in zip(parts, states):
            part.load_state_dict(state)
        trainer.model, trainer.logger = model, logger
        trainer.model.train(was_training)
