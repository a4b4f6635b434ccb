"""The edges of a batch as every layer sees them: sorted by target, with their rotations, and in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fairchem_hdgnn.so3.layout import degree_index, degrees_and_orders, num_coefficients
from fairchem_hdgnn.so3.wigner import dense_rows, wigner_entries

Rows = tuple[tuple[int, int], ...]
"""Rows (l, m) of Wigner-D matrices."""


@dataclass(frozen=True, eq=False)
class Edges:
    """Edges sorted by target, built once in a forward pass and shared by all layers.

    Attributes:
        source: atom j of each edge.
        target: atom i of each edge, ascending.
        wigner: the entries of D of each edge's frame (:func:`~fairchem_hdgnn.so3.wigner.wigner_entries`).
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
    def on_cpu(self) -> bool:
        """Whether the edges are in the CPU's memory."""
        return self.source.device.type == "cpu"

    @cached_property
    def first_edge(self) -> Int[Tensor, "nodes_plus_one"]:
        """Where the edges into each atom start, and at last their number."""
        return torch.searchsorted(self.target, torch.arange(self.num_nodes + 1, device=self.target.device))

    @cached_property
    def starts(self) -> list[int]:
        """:attr:`first_edge` on the host; a GPU is waited for."""
        return self.first_edge.tolist()

    def blocks(self, edges_per_block: int | None) -> list[EdgeBlock]:
        """All atoms in ranges with about equally many edges, about ``edges_per_block`` at most; or one block."""
        count = 1 if edges_per_block is None else max(1, -(-self.num_edges // edges_per_block))
        if count not in self._blocks:
            self._blocks[count] = self._cut(count)
        return self._blocks[count]

    @property
    def num_edges(self) -> int:
        """Number of edges."""
        return self.source.shape[0]

    @cached_property
    def _blocks(self) -> dict[int, list[EdgeBlock]]:
        return {}

    def _cut(self, count: int) -> list[EdgeBlock]:
        if count == 1:
            return [EdgeBlock(self, 0, self.num_nodes, 0, self.num_edges)]
        first_of_block: dict[int, int] = {}
        for node in range(self.num_nodes):
            last_edge = max(0, self.starts[node + 1] - 1)
            first_of_block.setdefault(last_edge * count // self.num_edges, node)
        nodes = [*first_of_block.values(), self.num_nodes]
        ranges = zip(nodes, nodes[1:])
        return [EdgeBlock(self, first, last, self.starts[first], self.starts[last]) for first, last in ranges]


@dataclass(frozen=True, eq=False)
class EdgeBlock:
    """All edges into the atoms ``first_node`` to ``last_node`` (exclusive).

    Attributes:
        edges: the whole that this is a part of.
        first_node: first atom.
        last_node: the atom after the last one.
        start: first edge.
        end: the edge after the last one.
    """

    edges: Edges
    first_node: int
    last_node: int
    start: int
    end: int

    @property
    def num_nodes(self) -> int:
        """Number of atoms."""
        return self.last_node - self.first_node

    @cached_property
    def source(self) -> Int[Tensor, "edges"]:
        """Atom j of each edge, counted in the whole batch."""
        return self.edges.source[self.start : self.end]

    @cached_property
    def target(self) -> Int[Tensor, "edges"]:
        """Atom i of each edge, counted in the whole batch."""
        return self.edges.target[self.start : self.end]

    @property
    def wigner(self) -> Float[Tensor, "edges orders coefficients"]:
        """The entries of D."""
        return self.edges.wigner[self.start : self.end]

    @cached_property
    def first_edge(self) -> Int[Tensor, "nodes_plus_one"]:
        """Where the edges into each of the atoms start, counted in the block, and at last their number."""
        return self.edges.first_edge[self.first_node : self.last_node + 1] - self.start

    @cached_property
    def by_source(self) -> tuple[Int[Tensor, "edges"], Int[Tensor, "all_nodes_plus_one"]]:
        """The block's edges in the order of their sources, and where those of each atom of the batch start."""
        order = torch.argsort(self.source, stable=True)
        atoms = torch.arange(self.edges.num_nodes + 1, device=self.source.device)
        return order, torch.searchsorted(self.source[order], atoms)

    @cached_property
    def alone(self) -> EdgeBlock:
        """The same with targets counted from the block's first atom, for sums that only its atoms get."""
        if self.num_nodes == self.edges.num_nodes:
            return self
        edges = Edges(self.source, self.target - self.first_node, self.wigner, self.num_nodes)
        return EdgeBlock(edges, 0, self.num_nodes, 0, edges.num_edges)

    def rotation(self, lmax: int, rows: Rows) -> Float[Tensor, "edges rows coefficients"]:
        """Rows of D, columns up to degree ``lmax``; kept for all layers where the block is the whole batch."""
        if self.num_nodes < self.edges.num_nodes:
            return dense_rows(self.wigner, lmax, rows)
        if (lmax, rows) not in self._rotations:
            self._rotations[lmax, rows] = dense_rows(self.wigner, lmax, rows)
        return self._rotations[lmax, rows]

    @cached_property
    def _rotations(self) -> dict[tuple[int, Rows], Tensor]:
        return {}

    def edges_of_nodes(self) -> list[tuple[int, int, int]]:
        """(atom, its first edge, the edge after its last), edges counted in the block; atoms without edges left out."""
        starts = self.edges.starts
        nodes = range(self.first_node, self.last_node)
        return [(n, starts[n] - self.start, starts[n + 1] - self.start) for n in nodes if starts[n + 1] > starts[n]]

    def harmonics(self, lmax: int) -> Float[Tensor, "edges coefficients"]:
        """``S(r)``, the edge's spherical harmonics, 'component' normalised: ``D^T Y(e_y)``."""
        axis = self.wigner[:, self.wigner.shape[1] // 2, : num_coefficients(lmax)]
        return axis * _component_scale(lmax, axis.dtype, axis.device)


def rows_up_to(lmax: int, mmax: int) -> Rows:
    """The rows with ``|m| <= mmax`` up to degree ``lmax``, in storage order."""
    return degrees_and_orders(lmax, min(lmax, mmax))


@lru_cache(maxsize=64)
def _component_scale(lmax: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return (2 * degree_index(lmax) + 1).to(device, dtype).sqrt()
