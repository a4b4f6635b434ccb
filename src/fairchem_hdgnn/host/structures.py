"""Refuse structures that no model can handle, by name, in training, prediction and the calculator."""

from __future__ import annotations

from typing import Any

import torch
from ase.symbols import Symbols
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fairchem_hdgnn.data.coinciding import crowded_atoms, first_touching
from fairchem_hdgnn.data.periodicity import Boxes, flat_cells
from fairchem_hdgnn.errors import DataError


def check_structures(data: Any, boxes: Boxes, max_num_elements: int) -> list[list[int]]:
    """Refuse a batch with a structure that has no graph, or a wrong one.

    It synchronises with a GPU once, however many structures there are.

    Returns:
        ``boxes.sizes``, which are copied to the host at the same time.

    Raises:
        DataError: no atoms, an element out of range, a position that is not finite, two atoms that coincide, or
            periodic cell vectors that span no volume; names system and atom.
    """
    numbers = data.atomic_numbers.long()
    empty = data.natoms == 0
    element = (numbers < 1) | (numbers >= max_num_elements)
    position = ~torch.isfinite(data.pos).all(dim=-1)
    flat = flat_cells(boxes.cell)
    crowded = crowded_atoms(boxes, data.batch)
    problems = torch.stack([found.any() for found in (empty, element, position, flat, crowded)])
    *sizes, (problem, *_) = torch.cat([boxes.sizes, problems.any().long().expand(1, 4)]).tolist()
    if not problem:
        return sizes
    if bool(empty.any()):
        raise DataError(f"{_system(data, _first(empty))} has no atoms; remove it")
    if bool((element | position).any()):
        atom = _first(element | position)
        if bool(element[atom]):
            raise DataError(
                f"{_atom(data, atom)} has atomic number {int(numbers[atom])}; the model supports 1 to "
                f"{max_num_elements - 1} (raise 'max_num_elements')"
            )
        raise DataError(f"{_atom(data, atom)} has a position that is not finite: {data.pos[atom].tolist()}")
    if bool(flat.any()):
        _refuse_cell(data, boxes, _first(flat))
    pair = first_touching(data.batch, boxes, crowded)
    if pair is not None:
        _refuse_place(data, *pair)
    return sizes


def check_edges(data: Any, edge_index: Int[Tensor, "2 edges"], edge_vec: Float[Tensor, "edges 3"]) -> None:
    """Refuse edges of zero length, which have no direction.

    Raises:
        DataError: names the system and both atoms.
    """
    zero = (edge_vec == 0).all(dim=-1)
    if bool(zero.any()):
        source, target = edge_index[:, zero][:, 0].tolist()
        _refuse_place(data, target, source)


def _first(found: Bool[Tensor, "n"]) -> int:
    return int(found.nonzero()[0])


def _refuse_cell(data: Any, boxes: Boxes, system: int) -> None:
    along = boxes.periodic[system]
    if bool(along.all()):
        raise DataError(
            f"{_system(data, system)} has a cell without volume: {data.cell[system].tolist()}; correct it, or set its "
            "pbc or the config's 'use_pbc' to false"
        )
    vectors = data.cell[system][along].tolist()
    raise DataError(
        f"{_system(data, system)} is periodic along cell vectors that are zero or parallel: {vectors}; correct them, "
        "or its pbc"
    )


def _refuse_place(data: Any, one: int, other: int) -> None:
    first = int(data.natoms[: int(data.batch[one])].sum())
    one, other = sorted((one - first, other - first))
    raise DataError(f"{_system(data, int(data.batch[first + one]))}: atoms {one} and {other} coincide; remove one")


def _atom(data: Any, atom: int) -> str:
    """``system SID, atom I`` for atom ``atom`` of the batch."""
    system = int(data.batch[atom])
    return f"{_system(data, system)}, atom {atom - int(data.natoms[:system].sum())}"


def _system(data: Any, system: int) -> str:
    sid = getattr(data, "sid", None)
    if sid is None or len(sid) <= system:
        formula = str(Symbols(data.atomic_numbers[data.batch == system].long().tolist()))
        return f"system {formula or f'{system} of the batch'}"
    name = sid[system]
    return f"system {name.item() if isinstance(name, Tensor) else name}"
