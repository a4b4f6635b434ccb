"""Periodic directions of a structure, and an equivalent box for every edge search.

The rule, for training, prediction and the calculator. ``use_pbc: true``: a record's own ``pbc`` determines, for each
cell vector, whether the structure is periodic along it; a record without one is periodic along all three, as in OC20.
Cell vectors of non-periodic directions are ignored: they may be zero, or arbitrary. ``use_pbc: false``: no direction is
periodic, whatever ``pbc`` says.

Edge searches need three vectors, and atoms inside the cell. So the vector of a non-periodic direction is replaced by
one perpendicular to the others, so long that no image comes within the cutoff, and atoms are wrapped along the periodic
vectors only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch_geometric.utils import scatter

MARGIN = 1.0
"""Å by which images along a non-periodic direction are farther away than the cutoff."""

ROUNDING = 1e-6
"""Rounding error of a fractional position, a generous bound."""

MIN_HEIGHT = 0.5
"""Å between opposite faces of a cell; no atom fits into a flatter one."""


class Boxes(NamedTuple):
    """Structures in the form that edge searches need.

    Attributes:
        periodic: along which cell vectors the structure is periodic.
        cell: cell vectors in rows, Å; those of non-periodic directions are replaced.
        pos: positions, Å, inside the cell along the periodic vectors.
        images: the cell that each atom was in; 0 along non-periodic directions.
        sizes: atoms of each structure, and for each cell vector how many images away an atom within the cutoff can be.
    """

    periodic: Bool[Tensor, "systems 3"]
    cell: Float[Tensor, "systems 3 3"]
    pos: Float[Tensor, "nodes 3"]
    images: Int[Tensor, "nodes 3"]
    sizes: Int[Tensor, "systems 4"]


def periodic_directions(data: Any) -> Bool[Tensor, "systems 3"]:
    """Along which cell vectors each structure of a fairchem batch is periodic."""
    pbc = getattr(data, "pbc", None)
    if pbc is None:
        return torch.ones(len(data.cell), 3, dtype=torch.bool, device=data.cell.device)
    # fairchem's records have three values each, which a batch concatenates.
    return torch.as_tensor(pbc, device=data.cell.device).bool().reshape(-1, 3)


def make_boxes(data: Any, cutoff: float, *, use_pbc: bool = True) -> Boxes:
    """Boxes of a fairchem batch with ``pos``, ``batch``, ``natoms``, and perhaps ``cell`` and ``pbc``; in float64.

    If a structure has positions that are not finite, or periodic cell vectors that span no volume, the result is
    not finite either; nothing is raised.

    Args:
        data: the batch.
        cutoff: longest edge, Å.
        use_pbc: whether structures are periodic at all.
    """
    pos, systems = data.pos.detach().double(), len(data.natoms)
    if use_pbc:
        cell, periodic = data.cell.detach().double(), periodic_directions(data)
    else:
        cell, periodic = pos.new_zeros(systems, 3, 3), torch.zeros(systems, 3, dtype=torch.bool, device=pos.device)
    box = completed_cells(cell, periodic)
    across = (pos.unsqueeze(1) * box[data.batch]).sum(-1)
    size = scatter(across, data.batch, 0, len(box), "max") - scatter(across, data.batch, 0, len(box), "min")
    box = torch.where(periodic.unsqueeze(-1), box, box * (size + cutoff + MARGIN).unsqueeze(-1))
    place = fractional(pos, box, data.batch)
    images = place.floor() * periodic[data.batch]
    reach = _images_within(cutoff, box, place - images, data.batch) * periodic
    sizes = torch.cat([data.natoms.unsqueeze(1), reach.long()], dim=1)
    return Boxes(periodic, box, pos - lattice_vectors(images, box, data.batch), images.long(), sizes)


def _images_within(
    cutoff: float, cell: Float[Tensor, "systems 3 3"], place: Float[Tensor, "nodes 3"], system: Int[Tensor, "nodes"]
) -> Float[Tensor, "systems 3"]:
    """Along each cell vector, how many cells away an atom within the cutoff of another can be."""
    extent = scatter(place, system, 0, len(cell), "max") - scatter(place, system, 0, len(cell), "min")
    return (cutoff / cell_heights(cell) + extent + ROUNDING).floor()


def lattice_vectors(
    counts: Float[Tensor, "n 3"] | Int[Tensor, "n 3"], cell: Float[Tensor, "systems 3 3"], system: Int[Tensor, "n"]
) -> Float[Tensor, "n 3"]:
    """So many times each vector of the cell of that system, Å; no product of matrices, which TF32 would round."""
    return (counts.to(cell.dtype).unsqueeze(-1) * cell[system]).sum(dim=1)


def fractional(
    pos: Float[Tensor, "n 3"], cell: Float[Tensor, "systems 3 3"], system: Int[Tensor, "n"]
) -> Float[Tensor, "n 3"]:
    """Positions in units of the cell vectors."""
    across = faces(cell)
    reciprocal = across / (cell[:, 0] * across[:, 0]).sum(-1)[:, None, None]
    return (pos.unsqueeze(1) * reciprocal[system]).sum(-1)


def faces(cell: Float[Tensor, "systems 3 3"]) -> Float[Tensor, "systems 3 3"]:
    """For each cell vector, the cross product of the other two."""
    a, b, c = cell.unbind(1)
    return torch.stack([torch.linalg.cross(*pair) for pair in ((b, c), (c, a), (a, b))], dim=1)


def cell_heights(cell: Float[Tensor, "systems 3 3"]) -> Float[Tensor, "systems 3"]:
    """Distance between opposite faces along each cell vector, Å."""
    across = faces(cell)
    return (cell[:, 0] * across[:, 0]).sum(-1, keepdim=True).abs() / across.norm(dim=-1)


def flat_cells(cell: Float[Tensor, "systems 3 3"]) -> Bool[Tensor, "systems"]:
    """Which cells enclose no volume, or are not finite."""
    # Written so that nan is flat, too.
    return ~(cell_heights(cell.double()) > MIN_HEIGHT).all(dim=1)


def completed_cells(
    cell: Float[Tensor, "systems 3 3"], periodic: Bool[Tensor, "systems 3"]
) -> Float[Tensor, "systems 3 3"]:
    """Cells whose non-periodic vectors are replaced by unit vectors, perpendicular to all others.

    Written without branches, which would make a GPU wait: each vector is one of three candidates.
    """
    axes = torch.eye(3, dtype=cell.dtype, device=cell.device)
    rows = [torch.where(periodic[:, k, None], cell[:, k], 0.0) for k in range(3)]
    known = list(periodic.unbind(1))
    for k in range(3):
        one, other = (k + 1) % 3, (k + 2) % 3
        both, any_ = known[one] & known[other], known[one] | known[other]
        single = torch.where(known[one].unsqueeze(-1), rows[one], rows[other])
        # At a right angle to the one known vector: the axis along which it is shortest is far from parallel to it.
        beside = torch.linalg.cross(single, axes.index_select(0, single.abs().argmin(-1)))
        new = torch.where(any_.unsqueeze(-1), beside, axes[k])
        new = torch.where(both.unsqueeze(-1), torch.linalg.cross(rows[one], rows[other]), new)
        new = new / new.norm(dim=-1, keepdim=True)
        rows[k] = torch.where(known[k].unsqueeze(-1), rows[k], new)
        known[k] = torch.ones_like(known[k])
    return torch.stack(rows, dim=1)
