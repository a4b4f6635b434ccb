"""Predict the cost of a training run from its config alone.

The network is built with two and with three layers and run for one training step on a few atoms, with the config's
number of neighbours, while every operation is counted. All costs are linear in the number of layers and, at a fixed
number of neighbours, in the number of atoms, so the full cost follows by extrapolation. There are no hand-written
formulas that could drift from the code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass

import torch
from torch import Tensor, nn

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host.counting import Operation, WorkCounter
from fairchem_hdgnn.host.precision import Precision

ATOMS = (8, 16)
"""Sizes of the measured graphs: large enough to be in the same regime as a batch of real systems."""

LAYERS = (2, 3)

OPTIMIZER_COPIES = 6
"""Copies of the weights in training: weights, gradients, AdamW's two moments, amsgrad's maximum, EMA."""


@dataclass(frozen=True)
class Gpu:
    """A GPU type, with peak rates from the vendor's data sheet (SXM boards where there are any, without sparsity).

    Attributes:
        name: its usual name.
        float32: TFLOP/s.
        tf32: TFLOP/s of the tensor cores; ``None`` if the GPU lacks TF32 and uses float32 instead.
        bfloat16: TFLOP/s of the tensor cores; ``None`` if the GPU lacks bfloat16.
        bandwidth: memory bandwidth, TB/s.
        memory: memory, GB.
    """

    name: str
    float32: float
    tf32: float | None
    bfloat16: float | None
    bandwidth: float
    memory: int

    def seconds(self, operations: Iterable[Operation]) -> float:
        """Lower bound of the time for the operations in sequence, each bound by arithmetic or by memory.

        Raises:
            ConfigError: a product in bfloat16 on a GPU without bfloat16.
        """
        return sum(self._seconds(operation) for operation in operations)

    def _seconds(self, operation: Operation) -> float:
        peak: float | None = (self.tf32 if operation.tf32 else None) or self.float32
        if operation.dtype is torch.bfloat16:
            peak = self.bfloat16
        if peak is None:
            raise ConfigError(f"optim.precision: a {self.name} has no bfloat16; set float32, or use --amp (float16)")
        return max(operation.flops / peak, operation.traffic / self.bandwidth) * 1e-12


GPUS = {
    "v100": Gpu("V100", 15.7, None, None, 0.9, 32),
    "a100": Gpu("A100", 19.5, 156.0, 312.0, 2.039, 80),
    "h100": Gpu("H100", 66.9, 494.7, 989.4, 3.35, 80),
    "h200": Gpu("H200", 66.9, 494.7, 989.4, 4.8, 141),
    "l40s": Gpu("L40S", 91.6, 183.0, 362.0, 0.864, 48),
}
"""GPUs that such models are trained on."""


@dataclass(frozen=True)
class Cost:
    """One training step; every number is affine in the number of atoms.

    Attributes:
        parameters: number of trainable parameters.
        forward_flops: FLOPs of the forward pass.
        training_flops: FLOPs of forward and backward pass.
        traffic: bytes that the step reads and writes.
        activation_bytes: memory that the forward pass keeps for the backward pass.
        seconds: lower bound of the time on the GPU.
    """

    parameters: float
    forward_flops: float
    training_flops: float
    traffic: float
    activation_bytes: float
    seconds: float

    @property
    def weight_bytes(self) -> float:
        """Weights, gradients, optimiser and EMA in float32."""
        return 4 * OPTIMIZER_COPIES * self.parameters

    def beyond(self, other: Cost, factor: float) -> Cost:
        """The line through ``other`` (at 0) and this one (at 1), at ``factor``."""
        return Cost(*(b + factor * (a - b) for a, b in zip(astuple(self), astuple(other))))


@dataclass(frozen=True)
class CostLine:
    """Cost as a function of the number of atoms, through two measurements."""

    small: Cost
    large: Cost

    def at(self, atoms: float) -> Cost:
        """Cost of a training step on a batch with this number of atoms."""
        return self.large.beyond(self.small, (atoms - ATOMS[0]) / (ATOMS[1] - ATOMS[0]))


def predict_cost(
    build: Callable[[int], nn.Module], num_layers: int, neighbors: int, gpu: Gpu, precision: Precision
) -> CostLine:
    """Predict the cost of training steps.

    Args:
        build: builds the network with a given number of layers; the network takes
            ``(atomic_numbers, edge_index, edge_vec, batch, num_systems)``.
        num_layers: layers of the real network.
        neighbors: edges into each atom.
        gpu: GPU that it runs on.
        precision: precision of the networks.
    """
    layers = LAYERS if num_layers > LAYERS[-1] else (num_layers,)
    networks = [build(count) for count in layers]
    # The first step of a process also fills caches.
    measure_cost(networks[0], random_graph(ATOMS[0], neighbors), gpu, precision)
    sizes = []
    for size in ATOMS:
        costs = [measure_cost(network, random_graph(size, neighbors), gpu, precision) for network in networks]
        sizes.append(costs[-1].beyond(costs[0], num_layers - layers[0]))
    return CostLine(*sizes)


def measure_cost(network: nn.Module, graph: tuple[Tensor | int, ...], gpu: Gpu, precision: Precision) -> Cost:
    """Run a training step on ``graph`` and count its operations."""
    network.train()
    with WorkCounter() as counter:
        with precision.autocast(torch.device("cpu")):
            output = network(*graph)
        total = torch.stack([value.float().sum() for value in output.values()]).sum()
        del output
        forward_flops, activations = counter.flops, counter.live_bytes
        total.backward()
    network.zero_grad(set_to_none=True)
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return Cost(parameters, forward_flops, counter.flops, counter.traffic, activations, gpu.seconds(counter.operations))


def random_graph(atoms: int, neighbors: int) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """One random system in which every atom has ``neighbors`` edges; arguments of a network in order."""
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(atoms).repeat_interleave(neighbors)
    source = torch.randint(atoms, target.shape, generator=generator)
    edge_vec = 2 * torch.randn(len(target), 3, generator=generator)
    numbers = torch.randint(1, 80, (atoms,), generator=generator)
    return numbers, torch.stack([source, target]), edge_vec, torch.zeros(atoms, dtype=torch.long), 1
