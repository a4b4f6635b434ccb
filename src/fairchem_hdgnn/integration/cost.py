"""What a training run will cost, from its configuration alone.

The model is built and run once on a few atoms with the configuration's number of neighbours, under torch's counters.
Arithmetic and memory are proportional to the number of atoms at a fixed number of neighbours, so the small run tells
the large one; nothing is estimated by formulas that could drift from the code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, addmm_flop
from torch.utils.weak import WeakIdKeyDictionary

OPTIMIZER_COPIES = 6
"""Copies of the weights in training: weights, gradients, AdamW's two moments, amsgrad's maximum, EMA."""

BACKWARD_RATIO = 2.0
"""A backward pass has two matrix products for each one of the forward pass."""


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU.

    Attributes:
        name: as people call it.
        float32: peak of float32 matrix products (TF32 where the GPU has it), TFLOP/s, from the vendor's data sheet.
        memory: GB.
    """

    name: str
    float32: float
    memory: int


GPUS = {
    "v100": Gpu("V100", 15.7, 32),
    "a100": Gpu("A100", 156.0, 80),
    "h100": Gpu("H100", 494.7, 80),
}


@dataclass(frozen=True)
class Cost:
    """Cost of a model at a given number of neighbours.

    Attributes:
        parameters: trainable numbers.
        neighbors: edges into each atom.
        forward_flops: of one atom, one multiply-add counted as two.
        edge_flops: part of it that one more edge would add.
        activation_bytes: what the forward pass of one atom leaves for the backward pass.
    """

    parameters: int
    neighbors: int
    forward_flops: float
    edge_flops: float
    activation_bytes: float

    @property
    def training_flops(self) -> float:
        """Forward and backward of one atom."""
        return (1 + BACKWARD_RATIO) * self.forward_flops

    @property
    def weight_bytes(self) -> int:
        """Weights, gradients, optimiser and EMA in float32."""
        return 4 * OPTIMIZER_COPIES * self.parameters


def measure_cost(network: nn.Module, neighbors: int, num_elements: int) -> Cost:
    """Count a network's arithmetic and memory on two small graphs.

    Args:
        network: ``network(atomic_numbers, edge_index, edge_vec, batch, num_systems)``.
        neighbors: edges into each atom.
        num_elements: atomic numbers are drawn below it.
    """
    network.train()
    flops = count_flops(network, 4, neighbors, num_elements) / 4
    more = count_flops(network, 4, neighbors + 1, num_elements) / 4
    small, large = (_kept_bytes(network, atoms, neighbors, num_elements) for atoms in (4, 12))
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return Cost(parameters, neighbors, flops, more - flops, (large - small) / 8)


def count_flops(network: nn.Module, atoms: int, neighbors: int, num_elements: int) -> int:
    """Floating-point operations of the matrix products of one forward pass, by torch's counter."""
    in_place = {torch.ops.aten.addmm_: addmm_flop}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        network(*random_graph(atoms, neighbors, num_elements))
    return counter.get_total_flops()


def _kept_bytes(network: nn.Module, atoms: int, neighbors: int, num_elements: int) -> int:
    """Bytes alive after a forward pass that were not before, weights' gradients aside."""
    arguments = random_graph(atoms, neighbors, num_elements)
    with _LiveBytes() as live:
        output = network(*arguments)
        kept = live.total()
    del output
    return kept


class _LiveBytes(TorchDispatchMode):
    """Follows the storages that operations make, for as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for item in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(item, Tensor):
                storage = item.untyped_storage()
                self._sizes[storage] = storage.nbytes()
        return result

    def total(self) -> int:
        """Bytes of the storages still alive."""
        return sum(self._sizes.values())


def random_graph(atoms: int, neighbors: int, num_elements: int) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """One random system in which every atom has ``neighbors`` edges; arguments of a network in order."""
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(atoms).repeat_interleave(neighbors)
    source = torch.randint(atoms, target.shape, generator=generator)
    edge_vec = torch.randn(len(target), 3, generator=generator)
    numbers = torch.randint(1, num_elements, (atoms,), generator=generator)
    return numbers, torch.stack([source, target]), edge_vec, torch.zeros(atoms, dtype=torch.long), 1
