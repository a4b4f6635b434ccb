"""Edges across periodic boundaries: fairchem's search over all pairs of atoms, or vesin's over cells.

fairchem's takes time and memory in proportion to atoms squared times images, on the device of the batch; vesin's in
proportion to edges, on the CPU. Both keep the same edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import torch
from fairchem.core.common.utils import radius_graph_pbc
from jaxtyping import Int, Int64, Shaped
from torch import Tensor

from fairchem_hdgnn.errors import ConfigError

DEGENERACY_TOLERANCE = 0.01
"""Å^2; without a strict maximum fairchem keeps neighbours so little farther than the first one left out."""


class NeighborList(Enum):
    """Who finds the edges."""

    FAIRCHEM = "fairchem"
    VESIN = "vesin"


class PeriodicEdges(NamedTuple):
    """What fairchem's ``radius_graph_pbc`` returns.

    Attributes:
        edge_index: source and target of each edge; targets ascend.
        cell_offsets: in units of the cell, the image of the source: ``edge_vec = r_source + offset @ cell - r_target``.
        neighbors: edges of each structure.
    """

    edge_index: Int64[Tensor, "2 edges"]
    cell_offsets: Int[Tensor, "edges 3"]
    neighbors: Int64[Tensor, "systems"]


def periodic_edges(
    data: Any, cutoff: float, max_neighbors: int, strictly: bool, neighbor_list: NeighborList
) -> PeriodicEdges:
    """The edges that end at each atom, no longer than ``cutoff``, from its nearest ``max_neighbors`` neighbours.

    Args:
        data: a fairchem batch with ``pos``, ``cell``, ``natoms``.
        cutoff: Å.
        max_neighbors: of each atom.
        strictly: leave out all but ``max_neighbors``; which of several at one distance stay is arbitrary. Otherwise
            those within ``DEGENERACY_TOLERANCE`` (of squared distances) stay as well.
        neighbor_list: who finds them.

    Raises:
        ConfigError: vesin is asked for and not installed.
    """
    if neighbor_list is NeighborList.FAIRCHEM:
        edge_index, cell_offsets, neighbors = radius_graph_pbc(
            data, cutoff, max_neighbors, enforce_max_neighbors_strictly=strictly
        )
        return PeriodicEdges(edge_index.long(), cell_offsets.long(), neighbors.long())
    positions = data.pos.detach().cpu().double()
    cells = data.cell.detach().cpu().double()
    pbc = getattr(data, "pbc", None)
    periodic = [[True] * 3] * len(cells) if pbc is None else pbc.reshape(-1, 3).tolist()
    search = _vesin(cutoff)
    parts, first = [], 0
    for cell, along, count in zip(cells, periodic, data.natoms.tolist()):
        found = search.compute(positions[first : first + count].numpy(), cell.numpy(), along, quantities="ijSd")
        parts.append(_nearest(found, max_neighbors, strictly, first))
        first += count
    edge_index, offsets = (np.concatenate(arrays, axis=-1) for arrays in zip(*parts))
    device = data.pos.device
    return PeriodicEdges(
        torch.from_numpy(edge_index).to(device),
        torch.from_numpy(offsets.T.copy()).to(device),
        torch.tensor([part[0].shape[1] for part in parts], device=device),
    )


def _vesin(cutoff: float) -> Any:
    try:
        import vesin  # noqa: PLC0415 - optional
    except ModuleNotFoundError:
        raise ConfigError("neighbor_list: vesin needs the package vesin: pip install vesin") from None
    return vesin.NeighborList(cutoff=cutoff, full_list=True, n_threads=torch.get_num_threads())


def _nearest(
    found: Sequence[Shaped[np.ndarray, "pairs ..."]], max_neighbors: int, strictly: bool, first: int
) -> tuple[Int64[np.ndarray, "2 edges"], Int64[np.ndarray, "3 edges"]]:
    """Edges and cell offsets of the nearest neighbours among all pairs, sorted by target and distance."""
    target, source, offsets, distance = found
    order = np.lexsort((distance, target))
    target, source, offsets, distance = target[order], source[order], offsets[order], distance[order]
    _, starts, counts = np.unique(target, return_index=True, return_counts=True)
    if strictly:
        kept = np.arange(len(target)) - np.repeat(starts, counts) < max_neighbors
    else:
        crowded = counts > max_neighbors
        limit = np.full(len(counts), np.inf)
        limit[crowded] = distance[starts[crowded] + max_neighbors] ** 2 + DEGENERACY_TOLERANCE
        kept = distance**2 <= np.repeat(limit, counts)
    edge_index = np.stack([source[kept], target[kept]]).astype(np.int64) + first
    return edge_index, offsets[kept].T.astype(np.int64)
