"""The edges of a batch, shared by all layers: sorted by target, with their rotations, and in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fairchem_hdgnn.models.so3.constants import cached_constants
from fairchem_hdgnn.models.so3.layout import degree_index, degrees_and_orders, num_coefficients
from fairchem_hdgnn.models.so3.wigner import dense_rows, wigner_entries

Rows = tuple[tuple[int, int], ...]
"""Rows (l, m) of Wigner-D matrices."""


@dataclass(frozen=True, eq=False)
class Edges:
    """Edges sorted by target, built once per forward pass and shared by all layers.

    Attributes:
        source: atom j of each edge.
        target: atom i of each edge, ascending.
        wigner: the entries of D of each edge's frame (:func:`~fairchem_hdgnn.models.so3.wigner.wigner_entries`).
        num_nodes: number of atoms.
    """

    source: Int[Tensor, "edges"]
    target: Int[Tensor, "edges"]
    wigner: Float[Tensor, "edges orders coefficients"]
    num_nodes: int

    @classmethod
    def from_frames(
        cls,
        source: Int[Tensor, "edges"],
        target: Int[Tensor, "edges"],
        frames: Float[Tensor, "edges 3 3"],
        num_nodes: int,
        lmax: int,
        mmax: int,
    ) -> Edges:
        """Edges with D up to degree ``lmax`` and order ``mmax``; ``target`` ascends."""
        return cls(source, target, wigner_entries(frames, lmax, min(lmax, mmax)), num_nodes)

    def between(self, start: int, end: int) -> Edges:
        """Some consecutive edges."""
        part = slice(start, end)
        return Edges(self.source[part], self.target[part], self.wigner[part], self.num_nodes)

    @property
    def num_edges(self) -> int:
        """Number of edges."""
        return self.source.shape[0]

    @property
    def on_cpu(self) -> bool:
        """Whether the edges are in the CPU's memory."""
        return self.source.device.type == "cpu"

    def blocks(self, edges_per_block: int | None) -> list[EdgeBlock]:
        """All atoms in ranges with about the same number of edges, at most about ``edges_per_block``; or one block.

        Several blocks need a GPU synchronisation.
        """
        count = 1 if edges_per_block is None else max(1, -(-self.num_edges // edges_per_block))
        if count not in self._blocks:
            whole = EdgeBlock(self.source, self.target, self.wigner, 0, self.num_nodes, self.num_nodes)
            self._blocks[count] = [whole] if count == 1 else whole.cut(count)
        return self._blocks[count]

    @cached_property
    def _blocks(self) -> dict[int, list[EdgeBlock]]:
        return {}


class NodesByCount(NamedTuple):
    """Atoms sorted by their number of edges: those with the same number form one batched product.

    Attributes:
        nodes: the atoms.
        edges: the edges, grouped by atom.
        counts: edges of each of the atoms, ascending; on the host, which needs a GPU synchronisation.
    """

    nodes: Int[Tensor, "nodes"]
    edges: Int[Tensor, "edges"]
    counts: list[int]

    @classmethod
    def of(cls, node: Int[Tensor, "edges"], num_nodes: int) -> NodesByCount:
        """From one atom of each edge."""
        counts = torch.bincount(node, minlength=num_nodes)
        nodes = torch.argsort(counts, stable=True)
        rank = torch.empty_like(nodes)
        rank[nodes] = torch.arange(num_nodes, device=node.device)
        return cls(nodes, torch.argsort(rank[node], stable=True), counts[nodes].tolist())


@dataclass(frozen=True, eq=False)
class EdgeBlock:
    """All edges into some consecutive atoms of a batch.

    Attributes:
        source: atom j of each edge, counted in the batch.
        target: atom i of each edge, counted in the batch, ascending.
        wigner: the entries of D.
        first_node: the first of the atoms.
        last_node: the atom after the last one.
        num_batch_nodes: number of atoms in the batch.
    """

    source: Int[Tensor, "edges"]
    target: Int[Tensor, "edges"]
    wigner: Float[Tensor, "edges orders coefficients"]
    first_node: int
    last_node: int
    num_batch_nodes: int

    @property
    def num_nodes(self) -> int:
        """Number of atoms that the edges end at."""
        return self.last_node - self.first_node

    @property
    def on_cpu(self) -> bool:
        """Whether the edges are in the CPU's memory."""
        return self.source.device.type == "cpu"

    @cached_property
    def first_edge(self) -> Int[Tensor, "nodes_plus_one"]:
        """Offset of each atom's first edge, followed by the number of edges."""
        return self.target_offsets[self.first_node : self.last_node + 1]

    @cached_property
    def target_offsets(self) -> Int[Tensor, "batch_nodes_plus_one"]:
        """As :attr:`first_edge`, for all atoms of the batch."""
        nodes = torch.arange(self.num_batch_nodes + 1, device=self.target.device)
        return torch.searchsorted(self.target, nodes)

    @cached_property
    def starts(self) -> list[int]:
        """:attr:`first_edge` on the host; needs a GPU synchronisation."""
        return self.first_edge.tolist()

    def edges_of_nodes(self) -> list[tuple[int, int, int]]:
        """(atom, its first edge, the edge after its last) of each atom that has edges."""
        ranges = zip(range(self.first_node, self.last_node), self.starts, self.starts[1:])
        return [(node, start, end) for node, start, end in ranges if end > start]

    def cut(self, count: int) -> list[EdgeBlock]:
        """At most ``count`` blocks with about the same number of edges."""
        ends = self.starts[1:]
        first_of_block: dict[int, int] = {}
        for node, end in zip(range(self.first_node, self.last_node), ends):
            first_of_block.setdefault(max(0, end - 1) * count // max(1, ends[-1]), node)
        nodes = [*first_of_block.values(), self.last_node]
        blocks = []
        for first, last in zip(nodes, nodes[1:]):
            part = slice(self.starts[first - self.first_node], self.starts[last - self.first_node])
            tensors = (self.source[part], self.target[part], self.wigner[part])
            blocks.append(EdgeBlock(*tensors, first, last, self.num_batch_nodes))
        return blocks

    @cached_property
    def by_source(self) -> tuple[Int[Tensor, "edges"], Int[Tensor, "batch_nodes_plus_one"]]:
        """The edges sorted by source, and the offset of the first edge of each atom of the batch."""
        order = torch.argsort(self.source, stable=True)
        nodes = torch.arange(self.num_batch_nodes + 1, device=self.source.device)
        return order, torch.searchsorted(self.source[order], nodes)

    @cached_property
    def sources_by_count(self) -> NodesByCount:
        """The batch's atoms as sources."""
        return NodesByCount.of(self.source, self.num_batch_nodes)

    @cached_property
    def targets_by_count(self) -> NodesByCount:
        """The batch's atoms as targets."""
        return NodesByCount.of(self.target, self.num_batch_nodes)

    @property
    def alone(self) -> EdgeBlock:
        """This block with targets counted from its first atom, for sums over the block's atoms only."""
        return self if self.num_nodes == self.num_batch_nodes else self._alone

    @cached_property
    def _alone(self) -> EdgeBlock:
        return EdgeBlock(self.source, self.target - self.first_node, self.wigner, 0, self.num_nodes, self.num_nodes)

    def rotation(self, lmax: int, rows: Rows) -> Float[Tensor, "edges rows coefficients"]:
        """Rows of D, columns up to degree ``lmax``; cached for all layers if the block is the whole batch."""
        if self.num_nodes < self.num_batch_nodes:
            return dense_rows(self.wigner, lmax, rows)
        if (lmax, rows) not in self._rotations:
            self._rotations[lmax, rows] = dense_rows(self.wigner, lmax, rows)
        return self._rotations[lmax, rows]

    @cached_property
    def _rotations(self) -> dict[tuple[int, Rows], Tensor]:
        return {}

    def harmonics(self, lmax: int) -> Float[Tensor, "edges coefficients"]:
        """``S(r)``, the edge's spherical harmonics, 'component' normalised: ``D^T Y(e_y)``."""
        axis = self.wigner[:, self.wigner.shape[1] // 2, : num_coefficients(lmax)]
        return axis * _component_scale(lmax, axis.dtype, axis.device)


def rows_up_to(lmax: int, mmax: int) -> Rows:
    """The rows with ``|m| <= mmax`` up to degree ``lmax``, in storage order."""
    return degrees_and_orders(lmax, min(lmax, mmax))


@cached_constants
def _component_scale(lmax: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return (2 * degree_index(lmax) + 1).to(device, dtype).sqrt()
