"""One optimiser step: forward and backward pass of each batch, with random numbers, checks and logging."""

from __future__ import annotations

import logging
from functools import partial

import torch
from fairchem.core.common import distutils
from fairchem.core.trainers import OCPTrainer
from torch_geometric.data import Batch

from fairchem_hdgnn.host.fairchem1.accumulation import AccumulatedLoss, means_over
from fairchem_hdgnn.host.stop_conditions import (
    check_free_atoms,
    check_gradients,
    check_loss,
    check_predictions,
    explained_out_of_memory,
)
from fairchem_hdgnn.models.seeds import step_seed
from fairchem_hdgnn.models.so3.frame_source import set_step

logger = logging.getLogger(__name__)


def train_step(trainer: OCPTrainer, batches: list[Batch], first: int) -> None:
    """Update the weights once with all ``batches``, and ``trainer.metrics``; log. Collective.

    fairchem's own ``_backward`` clips the gradient and updates weights and their averages; it receives a loss whose
    backward pass processes all batches.

    Args:
        trainer: :class:`fairchem_hdgnn.host.fairchem1.trainer.Trainer`.
        batches: batches of this step, on this rank; the losses are means over all of them.
        first: number of the first batch since the start of the training, counted from 1.

    Raises:
        PreemptedError: the scheduler is reclaiming the machine; weights are unchanged, metrics are not.
        TrainingError: a prediction, loss or gradient is nan or infinite, or a batch does not fit into memory.
        DataError: a target is nan or infinite, or a batch has no atom to train on.
    """
    trainer.model.train()
    model = trainer._unwrapped_model
    loss = AccumulatedLoss(
        batches, partial(_train_batch, trainer, first), trainer.model, partial(_check_gradients, trainer, batches)
    )
    with (
        explained_out_of_memory(batches[-1], model),
        means_over(batches, trainer.loss_functions, trainer.output_targets, trainer.device),
    ):
        trainer._backward(loss)
    trainer.metrics = trainer.evaluator.update("loss", loss.value, trainer.metrics)
    _log(trainer)


def settle_buckets(trainer: OCPTrainer, batch: Batch, first: int) -> None:
    """Do one backward pass in advance, so that a resumed run sums gradients in the same order. Collective.

    ``DistributedDataParallel`` rebuilds its buckets after a process's first backward pass, and the position of a
    parameter in its bucket determines the order in which three or more ranks are summed.

    Args:
        trainer: as for :func:`train_step`; its weights and gradients are unchanged afterwards.
        batch: a batch of this rank.
        first: its number.
    """
    if distutils.get_world_size() <= 2:
        return
    trainer.model.train()
    batch = batch.clone()
    _draw(trainer, batch, first)
    with explained_out_of_memory(batch, trainer._unwrapped_model):
        with torch.autocast("cuda", enabled=trainer.scaler is not None):
            predictions = trainer._forward(batch)
        torch.stack([prediction.sum() for prediction in predictions.values()]).sum().backward()
    trainer.optimizer.zero_grad()


def _train_batch(trainer: OCPTrainer, first: int, batch: Batch, place: int) -> float:
    trainer.stop_if_preempted()
    check_free_atoms(trainer.output_targets, batch)
    _draw(trainer, batch, first + place)
    with explained_out_of_memory(batch, trainer._unwrapped_model):
        with torch.autocast("cuda", enabled=trainer.scaler is not None):
            predictions = trainer._forward(batch)
            loss = trainer._compute_loss(predictions, batch)
        check_predictions(predictions, batch)
        check_loss(loss, predictions, batch)
        trainer.metrics = trainer._compute_metrics(predictions, batch, trainer.evaluator, trainer.metrics)
        (trainer.scaler.scale(loss) if trainer.scaler else loss).backward()
    return loss.item()


def _check_gradients(trainer: OCPTrainer, batches: list[Batch]) -> None:
    # With float16 the scaler skips updates with overflowed gradients.
    if trainer.scaler is None:
        check_gradients(trainer._unwrapped_model, batches)


def _draw(trainer: OCPTrainer, batch: Batch, number: int) -> None:
    """Make all random numbers of a batch a function of (seed, rank, number), so that there is no state to save."""
    torch.manual_seed(step_seed("batch", trainer.config["cmd"]["seed"] or 0, number))
    set_step(trainer.model, number)
    if trainer.noisy_nodes is not None:
        trainer.noisy_nodes.move(batch)


def _log(trainer: OCPTrainer) -> None:
    values = {name: metric["metric"] for name, metric in trainer.metrics.items()}
    values |= {"lr": trainer.scheduler.get_lr(), "epoch": trainer.epoch, "step": trainer.step}
    if trainer.logger is not None:
        trainer.logger.log(values, step=trainer.step, split="train")
    if distutils.is_master() and trainer.step % trainer.config["cmd"]["print_every"] == 0:
        numbers = ", ".join(f"{name}: {value:.2e}" for name, value in values.items())
        logger.info("%s (%s left)", numbers, trainer.time_left())
        trainer.metrics = {}
