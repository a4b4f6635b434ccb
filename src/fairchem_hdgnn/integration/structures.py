"""Structures that no model can answer for: refused by name, in training, prediction and the calculator alike."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch_geometric.utils import to_dense_batch

from fairchem_hdgnn.errors import DataError

TOUCHING = 0.01
"""Å; between closer atoms fairchem's periodic graph has no edge, as if they did not see one another."""

MIN_HEIGHT = 0.5
"""Å between opposite faces of a cell; no atom fits into a flatter one."""


def check_structures(data: Any, max_num_elements: int, *, periodic: bool) -> None:
    """Refuse a batch with a structure that has no graph, or a wrong one.

    Raises:
        DataError: no atoms, an element out of range, a position that is not finite, two atoms on the same place, or
            a flat cell; names system and atom.
    """
    _check_atoms(data, data.atomic_numbers.long(), max_num_elements)
    if periodic:
        flat = flat_cells(data.cell)
        if bool(flat.any()):
            raise DataError(
                f"{_system(data, int(flat.nonzero()[0]))} has a cell without volume: "
                f"{data.cell[int(flat.nonzero()[0])].tolist()}; correct it, or set 'use_pbc: false'"
            )
        _check_places(data)


def check_edges(data: Any, edge_index: Int[Tensor, "2 edges"], edge_vec: Float[Tensor, "edges 3"]) -> None:
    """Refuse edges of no length, which have no direction.

    Raises:
        DataError: names the system and both atoms.
    """
    zero = (edge_vec == 0).all(dim=-1)
    if bool(zero.any()):
        source, target = edge_index[:, zero][:, 0].tolist()
        _refuse_place(data, target, source)


def flat_cells(cell: Float[Tensor, "systems 3 3"]) -> Bool[Tensor, "systems"]:
    """Which cells enclose no volume, or are not finite."""
    a, b, c = cell.double().unbind(dim=1)
    faces = torch.stack([torch.linalg.cross(*pair).norm(dim=-1) for pair in ((a, b), (b, c), (c, a))])
    volume = (torch.linalg.cross(a, b) * c).sum(dim=-1).abs()
    # Written so that nan is flat, too.
    return ~(volume > MIN_HEIGHT * faces.amax(dim=0))


def _check_atoms(data: Any, atomic_numbers: Int[Tensor, "nodes"], max_num_elements: int) -> None:
    if bool((data.natoms == 0).any()):
        raise DataError(f"{_system(data, int((data.natoms == 0).nonzero()[0]))} has no atoms; remove it")
    outside = (atomic_numbers < 1) | (atomic_numbers >= max_num_elements)
    broken = ~torch.isfinite(data.pos).all(dim=-1)
    if not bool((outside | broken).any()):
        return
    atom = int((outside | broken).nonzero()[0])
    if bool(outside[atom]):
        raise DataError(
            f"{_atom(data, atom)} has atomic number {int(atomic_numbers[atom])}; the model knows 1 to "
            f"{max_num_elements - 1} (raise 'max_num_elements')"
        )
    raise DataError(f"{_atom(data, atom)} has a position that is not finite: {data.pos[atom].tolist()}")


def _check_places(data: Any) -> None:
    """All pairs of each system, each to its nearest image."""
    cell = data.cell.to(data.pos)
    fractional = (data.pos.unsqueeze(1) @ torch.linalg.inv(cell)[data.batch]).squeeze(1)
    places, present = to_dense_batch(fractional, data.batch)
    difference = places.unsqueeze(2) - places.unsqueeze(1)
    distance = ((difference - difference.round()) @ cell.unsqueeze(1)).norm(dim=-1)
    later = torch.ones_like(distance[0], dtype=torch.bool).triu(diagonal=1)
    close = (distance < TOUCHING) & later & present.unsqueeze(1) & present.unsqueeze(2)
    if bool(close.any()):
        system, one, other = close.nonzero()[0].tolist()
        first = int(data.natoms[:system].sum())
        _refuse_place(data, first + one, first + other)


def _refuse_place(data: Any, one: int, other: int) -> None:
    first = int(data.natoms[: int(data.batch[one])].sum())
    one, other = sorted((one - first, other - first))
    raise DataError(
        f"{_system(data, int(data.batch[first + one]))}: atoms {one} and {other} stand on the same place; remove one"
    )


def _atom(data: Any, atom: int) -> str:
    """``system SID, atom I`` for atom ``atom`` of the batch."""
    system = int(data.batch[atom])
    return f"{_system(data, system)}, atom {atom - int(data.natoms[:system].sum())}"


def _system(data: Any, system: int) -> str:
    sid = getattr(data, "sid", None)
    name = sid[system] if sid is not None and len(sid) > system else f"{system} of the batch"
    return f"system {name.item() if isinstance(name, Tensor) else name}"
