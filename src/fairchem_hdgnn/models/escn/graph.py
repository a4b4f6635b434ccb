"""What a forward pass shares between layers."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from fairchem_hdgnn.models.escn.geometry import Geometry


@dataclass(frozen=True)
class Graph:
    """Atoms and edges; either ``geometry`` (fast path) or ``rows`` (plain equations) holds the rotations.

    Attributes:
        atomic_numbers: one per atom.
        edge_index: row 0 the source j, row 1 the target i of each edge.
        basis: distance basis of each edge.
        geometry: the edges in blocks.
        rows: rows ``|m| <= mmax`` of D of each edge.
    """

    atomic_numbers: Int[Tensor, "nodes"]
    edge_index: Int[Tensor, "2 edges"]
    basis: Float[Tensor, "edges centres"]
    geometry: Geometry | None = None
    rows: Float[Tensor, "edges rows coefficients"] | None = None
