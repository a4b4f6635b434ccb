"""A training step as one CUDA graph, replayed on other structures padded to the same numbers of atoms and edges."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gpu_stages.bench import (
    PRECISIONS,
    SYSTEMS,
    Arguments,
    Bench,
    frames_of,
    make_network,
    moved,
    precision,
    random_graph,
    redraw,
    relative,
    rows_of,
    within,
)
from gpu_stages.parity import TOLERANCE, gradients_of, joined

NUM_LAYERS = 4
SIZES, TINY_SIZES = ((70, 40), (64, 33)), ((8, 6), (7, 5))
"""Atoms of each structure, and neighbours of each atom, of the batch that is captured and of another one."""

SPARE = 1.1
"""Atoms and edges that a captured step has room for, relative to its own batch."""

WARM_UPS = 3
"""Steps before the capture, as torch asks for."""


class Batch(NamedTuple):
    """What a captured step reads."""

    numbers: Tensor
    edge_index: Tensor
    edge_vec: Tensor
    system: Tensor
    frames: Tensor


def graphs(bench: Bench) -> list[dict[str, Any]]:
    """Times with and without capture, and whether both give the same energies and gradients."""
    cases = itertools.product(("authors", "escn"), PRECISIONS)
    return rows_of(bench, cases, depth(bench), measure, least_seconds=2.0)


def depth(bench: Bench) -> int:
    """Layers of the measured networks."""
    return 1 if bench.tiny else NUM_LAYERS


def measure(bench: Bench, name: str, mode: str) -> dict[str, Any]:
    """One network in one precision."""
    implementation = "triton" if bench.on_gpu else "fast"
    network = redraw(make_network(bench, name, depth(bench), implementation=implementation)).to(bench.device).train()
    systems, sizes = (2, TINY_SIZES) if bench.tiny else (SYSTEMS, SIZES)
    plain = [random_graph(systems, atoms, neighbors=neighbors) for atoms, neighbors in sizes]
    num_atoms, num_edges = (round(SPARE * size) for size in (len(plain[0][0]), plain[0][1].shape[1]))
    padded = [on_device(bench, *pad(arguments, frames_of(arguments), num_atoms, num_edges)) for arguments in plain]
    step = RepeatedStep(bench, network, systems, mode, padded[0])
    uncaptured_ms = bench.milliseconds(step.run, seconds=0.5)
    if bench.on_gpu:
        step.capture()
    errors = []
    for arguments, batch in zip(plain, padded):
        energies, gradients = step(batch)
        got = energies.clone(), joined(gradients).clone()
        unpadded = on_device(bench, arguments, frames_of(arguments))
        energies, gradients = RepeatedStep(bench, network, systems, mode, unpadded).run()
        errors.append([relative(got[0], energies), relative(got[1], joined(gradients))])
    return {
        "ok": within(TOLERANCE[mode], *(error for pair in errors for error in pair)),
        "errors_of_energies_and_gradient": errors,
        "implementation": implementation,
        "captured": step.graph is not None,
        "edges": num_edges,
        "uncaptured_ms": uncaptured_ms,
        "captured_ms": bench.milliseconds(step.replay, seconds=0.5),
    }


def on_device(bench: Bench, arguments: Arguments, frames: Tensor) -> Batch:
    """As the network takes it."""
    numbers, edge_index, edge_vec, system, _ = moved(arguments, bench.device)
    return Batch(numbers, edge_index, edge_vec, system, frames.to(edge_vec))


def pad(arguments: Arguments, frames: Tensor, num_atoms: int, num_edges: int) -> tuple[Arguments, Tensor]:
    """A batch with so many atoms and edges: a further system has the missing ones, each edge from an atom to itself.

    Raises:
        ValueError: the batch has more atoms or edges, or there would be edges without an atom.
    """
    numbers, edge_index, edge_vec, batch, systems = arguments
    atoms, edges = num_atoms - len(numbers), num_edges - edge_index.shape[1]
    if atoms < 0 or edges < 0 or (atoms == 0 and edges > 0):
        sizes = f"{len(numbers)} atoms and {edge_index.shape[1]} edges"
        raise ValueError(f"{sizes} do not fit into {num_atoms} atoms and {num_edges} edges")
    # Evenly, since a kernel that sums an atom's edges takes as long as the atom that has most.
    own = len(numbers) + torch.arange(edges) % max(1, atoms)
    # Of length 1 Å along y, which the identity leaves there.
    along_y = edge_vec.new_tensor([0.0, 1.0, 0.0]).expand(edges, 3)
    identity = torch.eye(3).to(frames).expand(edges, 3, 3)
    longer = (
        torch.cat([numbers, numbers.new_ones(atoms)]),
        torch.cat([edge_index, torch.stack([own, own])], dim=1),
        torch.cat([edge_vec, along_y]),
        torch.cat([batch, batch.new_full((atoms,), systems)]),
        systems + 1,
    )
    return longer, torch.cat([frames, identity])


class RepeatedStep:
    """Energies and the gradient of their weighted sum, on tensors that stay where they are.

    Args:
        bench: this call.
        network: with parameters on the device.
        systems: structures in each batch, without padding.
        mode: precision.
        batch: the first one; its tensors are copied, and decide the shapes.
    """

    def __init__(self, bench: Bench, network: nn.Module, systems: int, mode: str, batch: Batch) -> None:
        self.bench, self.network, self.systems, self.mode = bench, network, systems, mode
        self.batch = Batch(*(tensor.clone() for tensor in batch))
        self.num_systems = int(batch.system.max()) + 1
        self.graph: Any = None

    def run(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Launch each kernel."""
        numbers, edge_index, edge_vec, system, frames = self.batch
        with precision(self.mode, self.bench.device):
            energies = self.network(numbers, edge_index, edge_vec, system, self.num_systems, frames)["energy"]
        energies = energies[: self.systems]
        return energies, gradients_of(energies, self.network)

    def capture(self) -> None:
        """Record the kernels; anything that waits for the GPU is an error."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self.run()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.results = self.run()

    def replay(self) -> None:
        """On what the tensors hold; without a capture, as :meth:`run`."""
        if self.graph is None:
            self.results = self.run()
        else:
            self.graph.replay()

    def __call__(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
        """On another batch of these shapes."""
        for tensor, values in zip(self.batch, batch):
            tensor.copy_(values)
        self.replay()
        return self.results
