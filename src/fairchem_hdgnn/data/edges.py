"""Edges computed once and stored in the records, for models with ``otf_graph: false``."""

from __future__ import annotations

from dataclasses import dataclass

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
    neighbor_list: NeighborList = NeighborList.PAIRS

    def add_to(self, record: Data) -> None:
        """Set ``edge_index`` [2, edges], ``cell_offsets`` [edges, 3], ``edge_cutoff`` (Å) as fairchem 1.10 reads them.

        They are those that the models build in the forward pass. A record without a cell is a molecule and gets no
        ``cell_offsets``.
        """
        record.edge_cutoff = float(self.cutoff)
        molecule = not record.cell.any()
        batch = Batch.from_data_list([record])
        edges = periodic_edges(batch, self.cutoff, self.max_neighbors, True, self.neighbor_list, use_pbc=not molecule)
        record.edge_index = edges.edge_index
        if not molecule:
            record.cell_offsets = edges.cell_offsets
