"""Gradient accumulation: an optimiser step over several batches has the gradient of one batch with all structures.

fairchem divides the sum of a loss by the number of rows (structures or atoms) of one batch on all ranks. Averaging the
gradients of batches of different sizes would then be wrong; here each loss is divided by the rows of the whole step.
So the batches of a step are read and counted first, and then processed one after the other.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from fairchem.core.common import distutils
from fairchem.core.modules.loss import DDPLoss
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch_geometric.data import Batch

Losses = Sequence[tuple[str, dict[str, Any]]]
"""fairchem's list of losses: name of the target; ``fn``, ``coefficient``."""


def num_steps(num_batches: int, accumulate: int) -> int:
    """Optimiser steps for this number of batches per rank; the last step takes the remainder."""
    return math.ceil(num_batches / accumulate)


def steps_of_epoch(optim: Mapping[str, Any], num_structures: int, num_ranks: int = 1) -> int:
    """Optimiser steps of an epoch over this number of structures, with the batch size and accumulation of ``optim``."""
    num_batches = math.ceil(num_structures / (optim.get("batch_size", 1) * num_ranks))
    return num_steps(num_batches, optim.get("accumulate", 1))


def grouped(batches: Iterable[Batch], accumulate: int) -> Iterator[list[Batch]]:
    """The batches of each optimiser step; the last step can have fewer."""
    iterator = iter(batches)
    while group := list(islice(iterator, accumulate)):
        yield group


class StepLoss(DDPLoss):
    """A loss of fairchem whose mean can extend over an optimiser step instead of one batch.

    Args:
        name: fairchem's name, e.g. ``mae``.
        reduction: ``mean`` or ``sum`` over structures or atoms; ``None`` for ``mean``.

    Attributes:
        num_rows: structures or atoms in the current step, on all ranks; ``None`` outside of a step.
    """

    def __init__(self, name: str, reduction: str | None) -> None:
        super().__init__(name, reduction)
        self.num_rows: int | None = None

    def mean(self, input: Tensor, loss: Tensor, natoms: Tensor) -> Tensor:
        """This batch's contribution to the mean; its gradients are averaged over ranks and summed over batches.

        Args:
            input: predictions, [rows, ...].
            loss: loss of each row, [rows] or [rows, components].
            natoms: atoms of each structure.
        """
        if self.num_rows is None:
            return super().mean(input, loss, natoms)
        return self.sum(input, loss, natoms) * distutils.get_world_size() / (self.num_rows * math.prod(loss.shape[1:]))


def use_step_losses(losses: Losses, settings: Iterable[Mapping[str, Mapping[str, Any]]]) -> None:
    """Replace each ``fn`` in fairchem's list of losses by a ``StepLoss``.

    Args:
        losses: losses in the order of the settings.
        settings: ``loss_functions`` of the config from which they were made.
    """
    keys = [loss for entry in settings for loss in entry.values()]
    for (_, loss), key in zip(losses, keys):
        loss["fn"] = StepLoss(key["fn"], key.get("reduction"))


@contextlib.contextmanager
def means_over(
    batches: Sequence[Batch], losses: Losses, outputs: Mapping[str, Mapping[str, Any]], device: torch.device
) -> Iterator[None]:
    """In the block, take means of losses over all these batches and those of the other ranks. Collective.

    Args:
        batches: batches of an optimiser step, on this rank.
        losses: losses after ``use_step_losses``.
        outputs: settings of each target: ``level``, ``train_on_free_atoms``.
        device: device for communication between ranks.
    """
    counts = [sum(_num_rows(batch, outputs[target]) for batch in batches) for target, _ in losses]
    totals = distutils.all_reduce(torch.tensor(counts), device=device).tolist()
    for (_, loss), total in zip(losses, totals):
        loss["fn"].num_rows = total
    try:
        yield
    finally:
        for _, loss in losses:
            loss["fn"].num_rows = None


def _num_rows(batch: Batch, output: Mapping[str, Any]) -> int:
    if output["level"] != "atom":
        return batch.natoms.numel()
    return int((batch.fixed == 0).sum() if output["train_on_free_atoms"] else batch.natoms.sum())


class AccumulatedLoss:
    """Stand-in for a loss whose backward pass processes all batches of a step.

    Ranks reduce their gradients in the last batch only.

    Args:
        batches: batches of the step, on this rank.
        backward: runs forward and backward pass of a batch, given with its index in the step, and returns the loss.
        model: the model, wrapped if there are several ranks.
        check: called with all gradients in place, before fairchem clips them.

    Attributes:
        value: sum of the losses, after the backward pass.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        backward: Callable[[Batch, int], float],
        model: nn.Module,
        check: Callable[[], None],
    ) -> None:
        self.value = 0.0
        self._batches, self._backward, self._model, self._check = batches, backward, model, check

    def backward(self) -> None:
        """Add the gradients of all batches to the parameters' gradients."""
        for place, batch in enumerate(self._batches):
            last = place == len(self._batches) - 1
            with contextlib.nullcontext() if last else _on_this_rank(self._model):
                self.value += self._backward(batch, place)
        self._check()


def _on_this_rank(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    return model.no_sync() if isinstance(model, DistributedDataParallel) else contextlib.nullcontext()
