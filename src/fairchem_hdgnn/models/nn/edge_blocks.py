"""Edges grouped by one of their atoms, as dense tables with hardly any padding.

Atoms are sorted by their number of edges and cut into blocks. Within a block the edges form a table [atoms, degree]
whose products with per-atom matrices are batched matrix products, on a CPU as on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """Some atoms and where their edges stand.

    Attributes:
        nodes: the atoms; each atom with edges is in exactly one block.
        slots: the block's part of :attr:`EdgeBlocks.edges`, atom after atom.
        degree: slots for each atom.
    """

    nodes: Int[Tensor, "nodes"]
    slots: slice
    degree: int


@dataclass(frozen=True)
class EdgeBlocks:
    """All edges in the order of their blocks.

    Attributes:
        blocks: the blocks.
        edges: the edge in each slot; the number of edges stands for "none".
        slot: the slot of each edge; the last entry, for "none", is the number of slots.
    """

    blocks: list[Block]
    edges: Int[Tensor, "slots"]
    slot: Int[Tensor, "edges_and_none"]


def group_edges(node: Int[Tensor, "edges"], num_nodes: int, edges_per_block: int) -> EdgeBlocks:
    """Group edges by their atom ``node``, about ``edges_per_block`` edges a block, at least one atom each."""
    num_edges, device = node.shape[0], node.device
    by_node = torch.argsort(node, stable=True)
    degree = torch.bincount(node, minlength=num_nodes)
    start = degree.cumsum(0) - degree
    order = torch.argsort(degree, stable=True)
    blocks, tables, slots = [], [], 0
    for first, last in _cuts(degree[order].tolist(), edges_per_block):
        nodes = order[first:last]
        widest = int(degree[nodes[-1]])
        column = torch.arange(widest, device=device)
        position = (start[nodes].unsqueeze(1) + column).clamp(max=num_edges - 1)
        filled = column < degree[nodes].unsqueeze(1)
        tables.append(torch.where(filled, by_node[position], num_edges).flatten())
        blocks.append(Block(nodes, slice(slots, slots + tables[-1].shape[0]), widest))
        slots += tables[-1].shape[0]
    edges = torch.cat(tables) if tables else by_node
    slot = torch.full((num_edges + 1,), slots, device=device)
    slot[edges] = torch.arange(slots, device=device)
    slot[num_edges] = slots
    return EdgeBlocks(blocks, edges, slot)


def _cuts(degrees: list[int], edges_per_block: int) -> list[tuple[int, int]]:
    """Ranges of atoms, degrees ascending: equal shares of about ``edges_per_block`` slots.

    Atoms without edges are left out. A range also ends where the padding of its first atom would exceed a quarter.
    """
    first = next((k for k, degree in enumerate(degrees) if degree > 0), len(degrees))
    total = sum(degrees)
    share = total / max(1, round(total / edges_per_block))
    ranges = []
    for last in range(first + 1, len(degrees)):
        widest = degrees[last]
        if (last - first + 0.5) * widest > share or widest > 1.25 * degrees[first] + 1:
            ranges.append((first, last))
            first = last
    return [*ranges, (first, len(degrees))] if first < len(degrees) else ranges
