"""Rotations into and out of edge frames where the edges into an atom stand next to each other.

All edges of an atom rotate the same target features, and their messages are summed. Both are one matrix product
per atom, ``[D_1; D_2; ...] x_i`` and ``[D_1^T, D_2^T, ...] [y_1; y_2; ...]``, without a message per edge in the
global frame. On a GPU the same is done with batched products. Callers hold torch to full precision
(:func:`~fairchem_hdgnn.nn.precision.full_precision`), in the backward pass too.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fairchem_hdgnn.errors import ConfigError

_PER_NODE_SIZE = 50_000
"""Features of an atom's edges in the global frame (edges x columns x channels) from which a call per atom costs less
than writing them."""


class Segments:
    """Runs of edges with the same target, edges sorted by target.

    Args:
        target: target atom of each edge, ascending.
        num_nodes: number of atoms.
    """

    def __init__(self, target: Int[Tensor, "edges"], num_nodes: int) -> None:
        self.target, self.num_nodes = target, num_nodes
        counts = torch.bincount(target, minlength=num_nodes)
        self.ends = counts.cumsum(0).tolist()
        self.on_cpu = target.device.type == "cpu"
        self.edges_per_node = target.shape[0] / max(1, num_nodes)

    def chunks(self, edges_per_chunk: int) -> list[tuple[int, int]]:
        """Ranges of atoms with about equally many edges, about ``edges_per_chunk`` at most; all atoms once."""
        if self.num_nodes == 0:
            return []
        total = self.ends[-1]
        count = max(1, -(-total // edges_per_chunk))
        first_of_chunk: dict[int, int] = {}
        for node, end in enumerate(self.ends):
            first_of_chunk.setdefault(max(0, end - 1) * count // max(1, total), node)
        starts = list(first_of_chunk.values())
        return list(zip(starts, [*starts[1:], self.num_nodes]))

    def edge_range(self, nodes: tuple[int, int]) -> tuple[int, int]:
        """First and last-plus-one edge of a range of atoms."""
        return (self.ends[nodes[0] - 1] if nodes[0] else 0), self.ends[nodes[1] - 1]

    def _per_node(self, matrices: Tensor, channels: int) -> bool:
        """Whether one product per atom beats batched products: on a CPU, where each is large."""
        return self.on_cpu and self.edges_per_node * matrices.shape[2] * channels > _PER_NODE_SIZE

    def _runs(self, nodes: tuple[int, int]) -> list[tuple[int, int, int]]:
        """(atom, first edge, end) with edges counted from the range's first; atoms without edges are left out."""
        base = self.edge_range(nodes)[0]
        runs, start = [], base
        for node in range(*nodes):
            if self.ends[node] > start:
                runs.append((node, start - base, self.ends[node] - base))
            start = self.ends[node]
        return runs

    def gather(
        self, matrices: Float[Tensor, "edges rows columns"], x: Float[Tensor, "nodes columns c"], index: Tensor
    ) -> Float[Tensor, "edges rows c"]:
        """``matrices[e] @ x[index[e]]`` for atoms in any order."""
        return torch.bmm(matrices, x.index_select(0, index))

    def spread(
        self, matrices: Float[Tensor, "edges rows columns"], x: Float[Tensor, "nodes columns c"], nodes: tuple[int, int]
    ) -> Float[Tensor, "edges rows c"]:
        """``matrices[e] @ x[target(e)]`` for the edges of a range of atoms."""
        if not self._per_node(matrices, x.shape[2]):
            start, end = self.edge_range(nodes)
            return torch.bmm(matrices, x.index_select(0, self.target[start:end]))
        result = x.new_empty(matrices.shape[0], matrices.shape[1], x.shape[2])
        for node, start, end in self._runs(nodes):
            torch.mm(matrices[start:end].flatten(0, 1), x[node], out=result[start:end].view(-1, x.shape[2]))
        return result

    def collect(
        self,
        matrices: Float[Tensor, "edges rows columns"],
        y: Float[Tensor, "edges rows c"],
        nodes: tuple[int, int],
        out: Float[Tensor, "nodes columns c"],
    ) -> None:
        """Add ``sum_e matrices[e]^T @ y[e]`` over the edges into each atom to ``out``, in place."""
        if not self._per_node(matrices, y.shape[2]):
            start, end = self.edge_range(nodes)
            out.index_add_(0, self.target[start:end], torch.bmm(matrices.mT, y))
            return
        for node, start, end in self._runs(nodes):
            out[node].addmm_(matrices[start:end].flatten(0, 1).T, y[start:end].flatten(0, 1))


class FusedSegments(Segments):
    """The same by the kernels of :mod:`~fairchem_hdgnn.so3.rotation_kernels`, where x is float32.

    Raises:
        ConfigError: the atoms are not on a GPU, and Triton's interpreter is not switched on.
    """

    def __init__(self, target: Int[Tensor, "edges"], num_nodes: int) -> None:
        super().__init__(target, num_nodes)
        if self.on_cpu and os.environ.get("TRITON_INTERPRET") != "1":
            raise ConfigError("implementation: triton runs on GPUs only; on a CPU use 'fast'")
        self._boundaries = torch.tensor([0, *self.ends], device=target.device)

    def gather(self, matrices: Tensor, x: Tensor, index: Tensor) -> Tensor:
        """As :meth:`Segments.gather`."""
        if x.dtype != torch.float32:
            return super().gather(matrices, x, index)
        return _kernels().gather_rotate(matrices, x, index)

    def spread(self, matrices: Tensor, x: Tensor, nodes: tuple[int, int]) -> Tensor:
        """As :meth:`Segments.spread`."""
        start, end = self.edge_range(nodes)
        return self.gather(matrices, x, self.target[start:end])

    def collect(self, matrices: Tensor, y: Tensor, nodes: tuple[int, int], out: Tensor) -> None:
        """As :meth:`Segments.collect`."""
        if y.dtype != torch.float32:
            super().collect(matrices, y, nodes, out)
            return
        ends = self._boundaries[nodes[0] : nodes[1] + 1] - self.edge_range(nodes)[0]
        _kernels().rotate_back_sum(matrices, y, ends, out[nodes[0] : nodes[1]])


def _kernels() -> ModuleType:
    return importlib.import_module("fairchem_hdgnn.so3.rotation_kernels")
