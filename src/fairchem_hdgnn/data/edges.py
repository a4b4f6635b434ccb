"""Edges computed once and stored in the records, for models with ``otf_graph: false``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch_geometric.data import Batch, Data

from fairchem_hdgnn.data.neighbor_lists import NeighborList, periodic_edges


@dataclass(frozen=True)
class StoredEdges:
    """Which edges records get.

    Attributes:
        cutoff: Å; has to be the model's ``cutoff``.
        max_neighbors: nearest neighbours of each atom that are kept; has to be the model's ``max_neighbors``.
        neighbor_list: who finds them; the edges are the same.
    """

    cutoff: float
    max_neighbors: int
    neighbor_list: NeighborList = NeighborList.FAIRCHEM

    def add_to(self, record: Data) -> None:
        """Set ``edge_index`` [2, edges], ``cell_offsets`` [edges, 3], ``edge_cutoff`` (Å) as fairchem 1.10 reads them.

        They are those that the models build in the forward pass. A record without a cell is a molecule and gets no
        ``cell_offsets``.
        """
        record.edge_cutoff = float(self.cutoff)
        if not record.cell.any():
            record.edge_index = self._of_molecule(record.pos)
            return
        edges = periodic_edges(
            Batch.from_data_list([record]), self.cutoff, self.max_neighbors, True, self.neighbor_list
        )
        record.edge_index, record.cell_offsets = edges.edge_index, edges.cell_offsets

    def _of_molecule(self, pos: Float[Tensor, "atoms 3"]) -> Int[Tensor, "2 edges"]:
        distance = pair_distances(pos).fill_diagonal_(torch.inf)
        nearest, source = distance.topk(min(self.max_neighbors, len(pos)), dim=0, largest=False)
        target = torch.arange(len(pos)).expand_as(source)
        kept = nearest <= self.cutoff
        return torch.stack([source[kept], target[kept]])


def pair_distances(pos: Float[Tensor, "atoms 3"]) -> Float[Tensor, "atoms atoms"]:
    """Distances between all atoms, Å, from differences: products of matrices lose digits, and most of them in TF32."""
    return torch.cdist(pos, pos, compute_mode="donot_use_mm_for_euclid_dist")
