"""Edges across periodic boundaries: from all pairs of atoms, or by vesin from cells.

All pairs take time in proportion to atoms squared times images, on the device of the batch; vesin takes time in
proportion to edges, on the CPU. Both keep the edges that fairchem's own builder keeps, except that of equally distant
neighbours at ``max_neighbors`` they may keep different ones: train and predict with the same. What is periodic, and how
structures that are not periodic in all directions are searched, is defined in
:mod:`~fairchem_hdgnn.data.periodicity`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from fairchem_hdgnn.data.pair_search import pairs_within
from fairchem_hdgnn.data.periodicity import Boxes, lattice_vectors, make_boxes
from fairchem_hdgnn.errors import ConfigError

DEGENERACY_TOLERANCE = 0.01
"""Å^2; without a strict maximum fairchem also keeps neighbours within this of the first one that is dropped."""

CUTOFF_MARGIN = 1e-6
"""Å by which vesin searches farther than the cutoff."""


class NeighborList(Enum):
    """``pairs``: a search over all pairs of atoms. ``vesin``: in linear time, for large structures on a CPU. Of equally
    distant neighbours at ``max_neighbors``, the two may keep different ones, so train and predict with the same."""

    PAIRS = "pairs"
    VESIN = "vesin"

    @classmethod
    def _missing_(cls, value: object) -> NeighborList | None:
        """``fairchem`` is release 0.1's name of the search over all pairs."""
        return cls.PAIRS if value == "fairchem" else None


class PeriodicEdges(NamedTuple):
    """Edges of a batch.

    Attributes:
        edge_index: source and target of each edge; targets ascend.
        cell_offsets: in units of the cell, the image of the source: ``edge_vec = r_source + offset @ cell - r_target``,
            with positions as they were given.
        neighbors: edges of each structure.
        edge_vec: from target to source, Å; float64, from positions inside the cell, which are exact.
    """

    edge_index: Int64[Tensor, "2 edges"]
    cell_offsets: Int64[Tensor, "edges 3"]
    neighbors: Int64[Tensor, "systems"]
    edge_vec: Float[Tensor, "edges 3"]


class Search(NamedTuple):
    """Which edges to find.

    Attributes:
        cutoff: Å.
        max_neighbors: of each atom, the nearest ones.
        strictly: leave out all but ``max_neighbors``; which of several at one distance stay is arbitrary. Otherwise
            those within ``DEGENERACY_TOLERANCE`` (of squared distances) stay as well.
        neighbor_list: who finds them.
    """

    cutoff: float
    max_neighbors: int
    strictly: bool = True
    neighbor_list: NeighborList = NeighborList.PAIRS


def periodic_edges(data: Any, search: Search, *, use_pbc: bool = True) -> PeriodicEdges:
    """The edges that end at each atom of a fairchem batch, whose atoms may lie outside of the cell.

    Args:
        data: with ``pos``, ``cell``, ``natoms``, ``batch``, and perhaps ``pbc``.
        search: which edges.
        use_pbc: as in :func:`~fairchem_hdgnn.data.periodicity.make_boxes`.
    """
    boxes = make_boxes(data, search.cutoff, use_pbc=use_pbc)
    return find_edges(boxes, boxes.sizes.tolist(), data.batch, search)


def find_edges(boxes: Boxes, sizes: list[list[int]], system: Int64[Tensor, "nodes"], search: Search) -> PeriodicEdges:
    """The edges that end at each atom, no longer than the cutoff, from its nearest neighbours.

    Args:
        boxes: the structures; made for this cutoff.
        sizes: ``boxes.sizes``, on the host.
        system: structure of each atom.
        search: which edges.

    Raises:
        ConfigError: vesin is asked for and not installed.
    """
    if search.neighbor_list is NeighborList.VESIN:
        edge_index, offsets = _by_vesin(boxes, [atoms for atoms, *_ in sizes], search)
    else:
        tolerance = None if search.strictly else DEGENERACY_TOLERANCE
        edge_index, offsets = pairs_within(boxes, sizes, search.cutoff, search.max_neighbors, tolerance)
    source, target = edge_index
    edge_vec = boxes.pos[source] - boxes.pos[target] + lattice_vectors(offsets, boxes.cell, system[target])
    offsets = offsets - boxes.images[source] + boxes.images[target]
    neighbors = torch.zeros_like(boxes.sizes[:, 0]).index_add_(0, system[target], torch.ones_like(target))
    return PeriodicEdges(edge_index, offsets, neighbors, edge_vec)


def _by_vesin(
    boxes: Boxes, natoms: list[int], wanted: Search
) -> tuple[Int64[Tensor, "2 edges"], Int64[Tensor, "edges 3"]]:
    """Edges and cell offsets."""
    positions, cells, periodic = boxes.pos.cpu(), boxes.cell.cpu().numpy(), boxes.periodic.tolist()
    # vesin leaves out neighbours exactly at its cutoff.
    search = _vesin(wanted.cutoff + CUTOFF_MARGIN)
    parts, first = [], 0
    for cell, along, count in zip(cells, periodic, natoms):
        found = search.compute(positions[first : first + count].numpy(), cell, along, quantities="ijSd")
        within = found[-1] <= wanted.cutoff
        parts.append(_nearest([each[within] for each in found], wanted.max_neighbors, wanted.strictly, first))
        first += count
    edge_index, offsets = (np.concatenate(arrays, axis=-1) for arrays in zip(*parts))
    device = boxes.pos.device
    return torch.from_numpy(edge_index).to(device), torch.from_numpy(offsets.T.copy()).to(device)


def _vesin(cutoff: float) -> Any:
    try:
        import vesin  # noqa: PLC0415 - optional
    except ModuleNotFoundError:
        raise ConfigError("neighbor_list: the package vesin is not installed: pip install 'vesin>=0.6'") from None
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
