"""Copper slabs with CO, the structures used for timing models."""

from __future__ import annotations

from typing import Any

import torch
from ase.build import add_adsorbate, fcc111, molecule
from fairchem.core.datasets import data_list_collater
from fairchem.core.preprocessing import AtomsToGraphs

from fairchem_hdgnn.data.neighbor_lists import NeighborList, Search, periodic_edges

CUTOFF, MAX_NEIGHBORS = 8.0, 40


def slab(repetitions: tuple[int, int, int]) -> Any:
    """A rattled slab with CO as a fairchem record, with OC20's tags."""
    atoms = fcc111("Cu", repetitions, vacuum=10.0)
    add_adsorbate(atoms, molecule("CO"), 2.0, "ontop")
    atoms.rattle(0.05, seed=0)
    atoms.pbc = True
    tags = [1 if atom.symbol == "Cu" and atom.tag < 2 else 2 if atom.symbol != "Cu" else 0 for atom in atoms]
    data = AtomsToGraphs(r_edges=False, r_pbc=True).convert(atoms)
    data.tags, data.sid = torch.tensor(tags), 0
    return data


def batch_with_edges(records: list[Any], neighbor_list: NeighborList) -> Any:
    """A fairchem batch with its edges: 8 Å, 40 neighbours."""
    batch = data_list_collater(records, otf_graph=True)
    edges = periodic_edges(batch, Search(CUTOFF, MAX_NEIGHBORS, True, neighbor_list))
    batch.edge_index, batch.cell_offsets, batch.neighbors = edges.edge_index, edges.cell_offsets, edges.neighbors
    return batch
