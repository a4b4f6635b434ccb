"""Find atoms that coincide, in linear time."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from fairchem_hdgnn.data.periodicity import Boxes, cell_heights, fractional

TOUCHING = 0.01
"""Å; between closer atoms fairchem's periodic graph has no edge, as if they did not interact."""


def coinciding_atoms(batch: Int[Tensor, "nodes"], boxes: Boxes) -> tuple[int, int] | None:
    """The first two atoms that are closer than ``TOUCHING``, if any.

    Args:
        batch: structure of each atom.
        boxes: of the structures.
    """
    return first_touching(batch, boxes, crowded_atoms(boxes, batch))


def crowded_atoms(boxes: Boxes, system: Int[Tensor, "nodes"]) -> Bool[Tensor, "nodes"]:
    """Atoms that may coincide with another: all that do, and few others.

    Space is divided into bins with twice the width ``TOUCHING``. Two coinciding atoms are in the same bin, possibly
    after shifting the bins by half their width along some directions. Sorting puts atoms of one bin next to each other.
    """
    count = (cell_heights(boxes.cell) / (2 * TOUCHING)).floor().clamp(min=1)[system]
    place = fractional(boxes.pos, boxes.cell, system) * count
    halves = 0.5 * torch.cartesian_prod(*[torch.arange(2, device=place.device)] * 3)
    bins = (place + halves.unsqueeze(1)).floor().remainder(count).long()
    width = count.long()
    keys = ((system * width[:, 0] + bins[..., 0]) * width[:, 1] + bins[..., 1]) * width[:, 2] + bins[..., 2]
    ordered, order = keys.sort(dim=1)
    same = ordered[:, 1:] == ordered[:, :-1]
    crowded = torch.zeros_like(system, dtype=torch.bool)
    for neighbours in (order[:, 1:], order[:, :-1]):
        crowded = crowded | torch.zeros_like(keys, dtype=torch.bool).scatter_(1, neighbours, same).any(dim=0)
    return crowded


def first_touching(batch: Int[Tensor, "nodes"], boxes: Boxes, crowded: Bool[Tensor, "nodes"]) -> tuple[int, int] | None:
    """The first two of these atoms that coincide, by minimum image of all pairs."""
    atoms = crowded.nonzero().squeeze(-1)
    for system in batch[atoms].unique().tolist():
        some = atoms[batch[atoms] == system]
        place = fractional(boxes.pos[some], boxes.cell, batch[some])
        difference = place.unsqueeze(1) - place.unsqueeze(0)
        cell = boxes.cell[system]
        distance = ((difference - difference.round()).unsqueeze(-1) * cell).sum(-2).norm(dim=-1)
        close = (distance < TOUCHING).triu(diagonal=1)
        if bool(close.any()):
            one, other = close.nonzero()[0].tolist()
            return int(some[one]), int(some[other])
    return None
