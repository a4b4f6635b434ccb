"""What all layers of a forward pass share: Wigner-D rows of the edges, arranged for batched products."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fairchem_hdgnn.models.nn.edge_blocks import EdgeBlocks, group_edges
from fairchem_hdgnn.models.nn.so2 import num_terms, order_of_term, order_rows
from fairchem_hdgnn.models.so3.layout import num_coefficients
from fairchem_hdgnn.models.so3.wigner import wigner_d

EDGES_PER_BLOCK = 8192
"""Edges that a layer holds at a time."""

EDGES_PER_BLOCK_ON_CPU = 320
"""The same on a CPU, whose cache should hold them."""


@dataclass(frozen=True)
class Rotations:
    """Wigner-D rows with ``|m| <= mmax`` of edges in blocks; zero in empty slots.

    ``turned`` matrices hold, for each term of an SO(2) convolution, what takes coefficients in the global frame to z
    (real terms) or i z (imaginary terms) in the edge frame, with all degrees added up: the rows (m, -m) or
    (-(-m), m) of D. A column belongs to one degree, so nothing is lost. Columns of degrees below m are left out.

    Attributes:
        mmax: largest order of the messages.
        turned_source: turned matrices in slots of ``Geometry.source``.
        turned_target: turned matrices in slots of ``Geometry.target``.
        rows: D in slots of ``Geometry.target``.
    """

    mmax: int
    turned_source: list[Float[Tensor, "_slots _signs _columns"]]
    turned_target: list[Float[Tensor, "slots _signs _columns"]]
    rows: Float[Tensor, "slots rows coefficients"]

    def zonal(self, lmax: int) -> Rotations:
        """The part that matters to features with l = 0 only: order 0 and one column."""
        return Rotations(
            0,
            [self.turned_source[0][..., :1].contiguous()],
            [self.turned_target[0][..., :1].contiguous()],
            self.rows[:, order_rows(lmax, self.mmax, 0)],
        )


@dataclass(frozen=True)
class Geometry:
    """A graph and its edges' rotations.

    Attributes:
        source: edges grouped by their source atom.
        target: edges grouped by their target atom.
        source_slot: for each slot of ``target``, the edge's slot in ``source``.
        rotations: rotations for features of all degrees.
        zonal: rotations for features that have only l = 0.
    """

    source: EdgeBlocks
    target: EdgeBlocks
    source_slot: Int[Tensor, "slots"]
    rotations: Rotations
    zonal: Rotations


def build_geometry(
    edge_index: Int[Tensor, "2 edges"],
    edge_frames: Float[Tensor, "edges 3 3"],
    num_nodes: int,
    lmax: int,
    mmax: int,
    dtype: torch.dtype,
) -> Geometry:
    """Group the edges and build their Wigner-D rows, in the dtype of the frames and then rounded to ``dtype``."""
    edges_per_block = EDGES_PER_BLOCK_ON_CPU if edge_index.device.type == "cpu" else EDGES_PER_BLOCK
    source = group_edges(edge_index[0], num_nodes, edges_per_block)
    target = group_edges(edge_index[1], num_nodes, edges_per_block)
    num_edges = edge_index.shape[1]
    rows = wigner_d(edge_frames[target.edges.clamp(max=num_edges - 1)], lmax, mmax).to(dtype)
    rows.index_fill_(0, (target.edges == num_edges).nonzero().squeeze(-1), 0.0)

    turned = torch.matmul(_turns(lmax, mmax).to(rows), rows)
    # One more slot, of zeros, for "none".
    none = turned.new_zeros(1, *turned.shape[1:])
    at_source = torch.cat([turned, none]).index_select(0, target.slot[source.edges])
    rotations = Rotations(mmax, _by_term(at_source, mmax), _by_term(turned, mmax), rows)
    return Geometry(source, target, source.slot[target.edges], rotations, rotations.zonal(lmax))


def _turns(lmax: int, mmax: int) -> Float[Tensor, "term_signs rows"]:
    """What adds up the rows of an order: for each term and sign, the signed rows of D it takes."""
    turns = torch.zeros(1 + 4 * mmax, len(message_rows(lmax, mmax)))
    turns[0, order_rows(lmax, mmax, 0)] = 1.0
    for order in range(1, mmax + 1):
        plus, minus = order_rows(lmax, mmax, order), order_rows(lmax, mmax, -order)
        real, imaginary = 4 * order - 3, 4 * order - 1
        turns[real, plus] = 1.0
        turns[real + 1, minus] = 1.0
        turns[imaginary, minus] = -1.0
        turns[imaginary + 1, plus] = 1.0
    return turns


def _by_term(turned: Float[Tensor, "slots term_signs coefficients"], mmax: int) -> list[Tensor]:
    parts = turned.split([1] + [2] * (2 * mmax), dim=1)
    starts = [num_coefficients(order_of_term(term) - 1) for term in range(num_terms(mmax))]
    return [part[..., start:].contiguous() for part, start in zip(parts, starts)]


def message_rows(lmax: int, mmax: int) -> list[int]:
    """Positions in storage order of rows listed order by order: m = 0, 1, -1, 2, -2, ..."""
    orders = [0] + [signed for order in range(1, mmax + 1) for signed in (order, -order)]
    return [row for order in orders for row in order_rows(lmax, mmax, order)]
