"""Edges from all pairs of atoms and images, on the device of the batch, in float64.

Time grows with atoms squared times images. Memory does not: pairs are looked at in parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fairchem_hdgnn.data.periodicity import Boxes

PAIRS_AT_ONCE = {"cpu": 2**22, "cuda": 2**27}
"""Distances per part."""

TIE = 1e-4
"""Å^2; of neighbours whose squared distances differ by no more from that of the last one within the limit, those of
lower index are kept. Larger than rounding errors of positions in float32, smaller than gaps between a crystal's shells.
"""


class Part(NamedTuple):
    """Systems ``first`` to ``last`` (exclusive), and targets ``start`` to ``stop`` of each."""

    first: int
    last: int
    start: int
    stop: int


def pairs_within(
    boxes: Boxes, sizes: list[list[int]], cutoff: float, max_neighbors: int, tolerance: float | None
) -> tuple[Int64[Tensor, "2 edges"], Int64[Tensor, "edges 3"]]:
    """Pairs of atoms within the cutoff, limited to the nearest of each target.

    Each part synchronises with a GPU once, for the number of edges found.

    Args:
        boxes: the structures.
        sizes: ``boxes.sizes``, on the host.
        cutoff: Å.
        max_neighbors: sources of one target.
        tolerance: Å^2; keep those that are farther by so little than the first one left out. ``None``: keep none.

    Returns:
        Source and target of each edge, targets ascending, and the image of the source in units of the box.
    """
    device = boxes.pos.device
    all_natoms = boxes.sizes[:, 0]
    all_first = all_natoms.cumsum(0) - all_natoms
    found = []
    for part in _parts(sizes, PAIRS_AT_ONCE.get(device.type, PAIRS_AT_ONCE["cuda"])):
        of_part = sizes[part.first : part.last]
        atoms = max(size[0] for size in of_part)
        images = _images([max(size[k] for size in of_part) for k in (1, 2, 3)], device)
        natoms, first = all_natoms[part.first : part.last], all_first[part.first : part.last]
        distance = _distances(boxes, part, first, natoms, atoms, images)
        kept = _nearest(distance, cutoff, max_neighbors, tolerance)
        system, target, column = kept.nonzero().unbind(1)
        source = first[system] + column % atoms
        found.append((torch.stack([source, first[system] + target + part.start]), images[column // atoms]))
    edge_index, cell_offsets = zip(*found)
    return torch.cat(edge_index, dim=1), torch.cat(cell_offsets)


def _parts(sizes: list[list[int]], limit: int) -> Iterator[Part]:
    """Consecutive systems with at most the limit of pairs, padded to the largest; or some targets of one system."""
    first = 0
    while first < len(sizes):
        last, largest = first, [0, 0, 0, 0]
        while last < len(sizes):
            grown = [max(pair) for pair in zip(largest, sizes[last])]
            if last > first and (last + 1 - first) * _count(grown) > limit:
                break
            last, largest = last + 1, grown
        rows = max(1, limit * largest[0] // max(1, _count(largest))) if last == first + 1 else largest[0]
        for start in range(0, max(1, largest[0]), max(1, rows)):
            yield Part(first, last, start, min(start + rows, largest[0]))
        first = last


def _count(size: list[int]) -> int:
    atoms, *reach = size
    return atoms * atoms * math.prod(2 * n + 1 for n in reach)


def _images(reach: list[int], device: torch.device) -> Int64[Tensor, "images 3"]:
    return torch.cartesian_prod(*[torch.arange(-n, n + 1, device=device) for n in reach])


def _distances(
    boxes: Boxes,
    part: Part,
    first: Int64[Tensor, "systems"],
    natoms: Int64[Tensor, "systems"],
    atoms: int,
    images: Int64[Tensor, "images 3"],
) -> Float[Tensor, "systems targets sources"]:
    """Å, from targets to images of sources; infinite if there is no such atom, and from an atom to itself."""
    index = torch.arange(atoms, device=first.device)
    pos = boxes.pos[(first.unsqueeze(1) + index).clamp(max=len(boxes.pos) - 1)]
    cell = boxes.cell[part.first : part.last].unsqueeze(1)
    shifts = (images.to(cell.dtype).unsqueeze(-1) * cell).sum(dim=2)
    sources = (shifts.unsqueeze(2) + pos.unsqueeze(1)).flatten(1, 2)
    targets = pos[:, part.start : part.stop]
    # Products of matrices would lose digits, and most of them in TF32.
    distance = torch.cdist(targets, sources, compute_mode="donot_use_mm_for_euclid_dist")
    there = index < natoms.unsqueeze(1)
    pairs = there[:, part.start : part.stop].unsqueeze(2) & there.repeat(1, len(images)).unsqueeze(1)
    distance.masked_fill_(~pairs, torch.inf)
    own = len(images) // 2 * atoms + part.start
    distance.diagonal(offset=own, dim1=1, dim2=2).fill_(torch.inf)
    return distance


def _nearest(
    distance: Float[Tensor, "systems targets sources"], cutoff: float, max_neighbors: int, tolerance: float | None
) -> Bool[Tensor, "systems targets sources"]:
    """Which pairs to keep."""
    within = distance <= cutoff
    if max_neighbors >= distance.shape[-1]:
        return within
    if tolerance is not None:
        limit = distance.topk(max_neighbors + 1, largest=False).values[..., -1:]
        return within & (distance.square() <= limit.square() + tolerance)
    limit = distance.topk(max_neighbors, largest=False).values[..., -1:].square()
    nearer = distance.square() < limit - TIE
    tied = within & ((distance.square() - limit).abs() <= TIE)
    left = max_neighbors - nearer.sum(dim=-1, keepdim=True)
    return within & nearer | tied & (tied.cumsum(dim=-1) <= left)
