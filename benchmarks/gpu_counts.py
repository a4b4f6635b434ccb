"""What one further layer asks of a GPU, counted without one: launches, memory traffic, operations, stored activations.

    python benchmarks/gpu_counts.py

The paper's sizes (L = 6, C = 128, H = 512), with and without Triton's kernels. The code runs on the CPU along the
branches that a GPU takes; kernels are counted, not run. Everything but launches grows linearly with edges and atoms: it
is counted on two small graphs with 40 edges an atom, and extrapolated to the 22,400 edges of a batch of 8.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

os.environ["TRITON_INTERPRET"] = "1"
sys.path[:0] = [str(Path(__file__).parents[1] / "src"), str(Path(__file__).parent)]

import torch  # noqa: E402
from gpu_stages.bench import ATOMS, NEIGHBORS, NETWORKS, SYSTEMS  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from fairchem_hdgnn.host.cost import random_graph  # noqa: E402
from fairchem_hdgnn.host.counting import WorkCounter  # noqa: E402
from fairchem_hdgnn.models.arithmetic import sums  # noqa: E402
from fairchem_hdgnn.models.edges import EdgeBlock, Edges  # noqa: E402
from fairchem_hdgnn.models.escn.network import ESCNNetwork  # noqa: E402
from fairchem_hdgnn.models.hdgnn.network import HDGNNNetwork  # noqa: E402
from fairchem_hdgnn.models.kernels import launching  # noqa: E402
from fairchem_hdgnn.models.kernels.launching import NAMESPACE  # noqa: E402
from fairchem_hdgnn.models.ops import packed_matrix  # noqa: E402

SMALL_ATOMS = (4, 8)


class Counts(NamedTuple):
    """Of one layer and training step."""

    launches: float
    traffic_gb: float
    tflop: float
    stored_gb: float

    def minus(self, other: Counts) -> Counts:
        """The difference."""
        return Counts(*(a - b for a, b in zip(self, other)))


def main() -> None:
    """Print a Markdown table."""
    print("| network | precision | implementation | launches | traffic, GB | TFLOP | stored, GB |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    for name in ("authors", "escn"):
        for precision in ("float32", "bfloat16"):
            for implementation in ("fast", "triton"):
                with as_on_a_gpu():
                    found = of_a_layer(name, precision, implementation)
                launches, *others = found
                cells = [name, precision, f"`{implementation}`", f"{launches:.0f}", *(f"{x:.2f}" for x in others)]
                print(f"| {' | '.join(cells)} |", flush=True)


def of_a_layer(name: str, precision: str, implementation: str) -> Counts:
    """Of a further layer on a full batch."""
    few, many = (
        counts(name, 3, precision, implementation, atoms).minus(counts(name, 2, precision, implementation, atoms))
        for atoms in SMALL_ATOMS
    )
    steps = (SYSTEMS * ATOMS - SMALL_ATOMS[0]) / (SMALL_ATOMS[1] - SMALL_ATOMS[0])
    return Counts(few.launches, *(a + steps * (b - a) for a, b in zip(few[1:], many[1:])))


def counts(name: str, num_layers: int, precision: str, implementation: str, atoms: int) -> Counts:
    """Of one training step."""
    network, arguments = make(name, num_layers, implementation), random_graph(atoms, NEIGHBORS)

    def energy() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            return network(*arguments)["energy"].sum()

    # The first step makes constants.
    energy().backward()
    network.zero_grad()
    counter, kernels = WorkCounter(), []
    with mock.patch.object(launching, "launch", lambda kernel, *arguments, **sizes: kernels.append(kernel)):
        with counter:
            loss = energy()
        stored = counter.live_bytes
        with counter:
            loss.backward()
    # An operation of our own is as many launches as it has kernels; that of ``gather`` is torch's index_select.
    launches = len(kernels) + sum(not_by_kernels(operation.name) for operation in counter.operations)
    return Counts(launches, counter.traffic / 1e9, counter.flops / 1e12, stored / 1e9)


def not_by_kernels(name: str) -> bool:
    """Whether an operation is a launch of torch's own."""
    return not name.startswith(f"{NAMESPACE}::") or name == f"{NAMESPACE}::gather"


def make(name: str, num_layers: int, implementation: str) -> nn.Module:
    """A network of the paper's sizes."""
    keys: dict[str, Any] = {**NETWORKS[name], "num_layers": num_layers, "implementation": implementation}
    return (ESCNNetwork if name == "escn" else HDGNNNetwork)({**keys, "activations": "store"})


@contextlib.contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """The branches of a GPU, whose kernels are counted only."""
    with contextlib.ExitStack() as patches:
        for where in (Edges, EdgeBlock):
            patches.enter_context(mock.patch.object(where, "on_cpu", False))
        patches.enter_context(mock.patch.object(packed_matrix, "can_pack", lambda dtype: False))
        patches.enter_context(mock.patch.object(sums, "index_add_repeats", lambda device: False))
        patches.enter_context(mock.patch.object(launching, "launch", lambda *arguments, **sizes: None))
        yield


if __name__ == "__main__":
    main()
