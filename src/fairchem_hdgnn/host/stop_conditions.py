"""Errors that stop a run, with messages that name the structures and the remedies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from fairchem_hdgnn.errors import DataError, TrainingError

REMEDIES = "check these structures, lower optim.lr_initial (with OneCycleLR: optim.max_lr), or set optim.clip_grad_norm"
MEMORY_REMEDIES = (
    "optim.batch_size (with a larger optim.accumulate the training is equivalent), optim.precision: bfloat16, "
    "model.activations: recompute (HDGNN), model.max_neighbors, model.hidden_channels, model.lmax"
)

SHOWN = 20
"""Structures that a message names, at most."""


def system_ids(batch: Batch) -> list[str]:
    """The ``sid`` of each structure in ``batch``, as a string."""
    sids = batch.sid.tolist() if isinstance(batch.sid, Tensor) else batch.sid
    return [str(sid) for sid in sids]


def check_free_atoms(outputs: Mapping[str, Mapping[str, Any]], batch: Batch) -> None:
    """Stop at a batch without free atoms if an output is trained or evaluated on free atoms only.

    Args:
        outputs: target name -> its section of the config.
        batch: the structures.

    Raises:
        DataError: names the structures.
    """
    for name, output in outputs.items():
        if on_free_atoms(output) and not bool((batch.fixed == 0).any()):
            raise DataError(
                f"sid {_enumerate(system_ids(batch))}: all atoms are fixed, but '{name}' is trained on free atoms "
                f"only; remove these structures, raise optim.batch_size, or set outputs.{name}.train_on_free_atoms "
                "and eval_on_free_atoms to false"
            )


def on_free_atoms(output: Mapping[str, Any]) -> bool:
    """Whether an output's loss or metrics leave out fixed atoms."""
    keys = ("train_on_free_atoms", "eval_on_free_atoms")
    return output.get("level", "system") == "atom" and any(output.get(key) for key in keys)


def check_predictions(predictions: Mapping[str, Tensor], batch: Batch) -> None:
    """Stop at a prediction that is nan or infinite; fairchem's loss would replace it by zero and continue.

    Args:
        predictions: target name -> [num_systems, ...] or [num_atoms, ...], the model's outputs.
        batch: the structures.

    Raises:
        TrainingError: names the structures.
    """
    for name, prediction in predictions.items():
        if culprits := _systems_with_non_finite(prediction, batch):
            raise TrainingError(f"prediction of '{name}' is not finite for sid {_enumerate(culprits)}; {REMEDIES}")


def check_loss(loss: Tensor, targets: Iterable[str], batch: Batch) -> None:
    """Stop at a loss that is nan or infinite while the predictions are finite.

    Raises:
        DataError: a target is not finite; names the structures.
        TrainingError: the loss itself overflowed.
    """
    if torch.isfinite(loss):
        return
    for name in targets:
        if culprits := _systems_with_non_finite(batch[name], batch):
            raise DataError(
                f"target '{name}' is not finite for sid {_enumerate(culprits)}; remove them from the data set"
            )
    raise TrainingError(f"loss is {loss.item()} for the batch with sid {_enumerate(system_ids(batch))}; {REMEDIES}")


def check_gradients(model: nn.Module, batches: Sequence[Batch]) -> None:
    """Stop at a gradient that is nan or infinite, before it is clipped, which spreads nan to all parameters.

    Args:
        model: after the backward pass.
        batches: the structures, of this rank.

    Raises:
        TrainingError: names the parameter and the structures.
    """
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    # One reduction over all: checks of each would launch hundreds of kernels and wait for them.
    if not gradients:
        return
    largest = torch.linalg.vector_norm(nn.utils.parameters_to_vector(gradients.values()), torch.inf)
    if torch.isfinite(largest):
        return
    culprit = next(name for name, gradient in gradients.items() if not torch.isfinite(gradient).all())
    sids = _enumerate([sid for batch in batches for sid in system_ids(batch)])
    raise TrainingError(f"gradient of {culprit} is not finite after the batch with sid {sids}; {REMEDIES}")


def check_weights(model: nn.Module) -> None:
    """Refuse weights that are not finite, before they replace a good checkpoint.

    Raises:
        TrainingError: names the parameter.
    """
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise TrainingError(f"weight '{name}' is not finite; {REMEDIES}")


@contextlib.contextmanager
def explained_out_of_memory(batch: Batch, model: nn.Module, remedies: str = MEMORY_REMEDIES) -> Iterator[None]:
    """Turn an out-of-memory error in the block into one that describes the batch and the remedies.

    Args:
        batch: the structures.
        model: its ``max_neighbors`` bounds the number of edges.
        remedies: settings that the user can change, cheapest first.

    Raises:
        TrainingError: the block ran out of memory, on the GPU or the CPU.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        num_atoms = int(batch.natoms.sum())
        max_neighbors = getattr(model, "max_neighbors", None)
        edges = f", at most {num_atoms * max_neighbors} edges" if max_neighbors else ""
        largest = int(batch.natoms.argmax())
        raise TrainingError(
            f"out of memory on a batch of {len(batch.natoms)} structures with {num_atoms} atoms{edges} "
            f"(largest: sid {system_ids(batch)[largest]}, {int(batch.natoms[largest])} atoms). "
            f"Remedies, cheapest first: {remedies}"
        ) from error


@contextlib.contextmanager
def backward_queue_emptied() -> Iterator[None]:
    """Clear autograd's queue if an exception, such as Ctrl-C, ends a backward pass in the block.

    autograd keeps the nodes that the pass has not yet visited in a queue of this thread, which is freed after the
    interpreter; nodes with Python parts (saved-tensor hooks, custom functions) then crash the process.
    """
    # autograd visits younger nodes first, so a pass over this oldest one discards the dead nodes on the way.
    oldest = torch.zeros((), requires_grad=True).clone()
    try:
        yield
    except BaseException:
        oldest.backward()
        raise


def _is_out_of_memory(error: BaseException) -> bool:
    # On the CPU torch raises a plain RuntimeError.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)


def _systems_with_non_finite(values: Tensor, batch: Batch) -> list[str]:
    finite = torch.isfinite(values)
    if finite.all():
        return []
    systems = (~finite.reshape(len(values), -1).all(dim=1)).nonzero().squeeze(1)
    if len(values) != len(batch.natoms):
        systems = batch.batch[systems].unique()
    ids = system_ids(batch)
    return [ids[system] for system in systems.tolist()]


def _enumerate(ids: list[str]) -> str:
    rest = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return ", ".join(ids[:SHOWN]) + rest
