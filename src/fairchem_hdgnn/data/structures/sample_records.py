"""Convert samples to records: validation, wrapping of atoms, relaxed positions."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Bool, Float64, Int64
from torch_geometric.data import Data

from fairchem_hdgnn.data.coinciding import coinciding_atoms
from fairchem_hdgnn.data.periodicity import flat_cells, make_boxes
from fairchem_hdgnn.data.records import atoms_to_record, inside_cell, same_cell
from fairchem_hdgnn.data.structures.samples import Sample, StructureError, Task


def check_sample(sample: Sample) -> None:
    """Raise ``StructureError`` if a structure cannot become a record."""
    atoms, name = sample.initial, str(sample)
    if len(atoms) == 0:
        raise StructureError(f"{name}: contains no atoms")
    if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
        raise StructureError(f"{name}: positions or cell are not finite")
    if atoms.cell.rank not in (0, 3):
        raise StructureError(
            f"{name}: its cell has {atoms.cell.rank} vectors; add vacuum with atoms.center(vacuum=10, ...)"
        )
    if atoms.cell.rank == 0 and atoms.pbc.any():
        raise StructureError(f"{name}: it is periodic but has no cell; set its cell, or atoms.pbc = False")
    if atoms.cell.rank == 3 and bool(flat_cells(torch.from_numpy(atoms.cell.array)[None])):
        raise StructureError(f"{name}: its cell {atoms.cell.tolist()} has no volume; correct it")
    unknown = np.flatnonzero(atoms.numbers < 1)
    if len(unknown):
        raise StructureError(
            f"{name}: atom {unknown[0]} is {atoms.symbols[unknown[0]]}, which is no element; remove it"
        )
    pair = _coinciding(atoms)
    if pair is not None:
        raise StructureError(f"{name}: atoms {pair[0]} and {pair[1]} coincide; remove one of them")
    relaxed = sample.relaxed
    if relaxed is None:
        return
    if not np.array_equal(atoms.numbers, relaxed.numbers):
        raise StructureError(
            f"{sample.path}: the atoms of its initial and relaxed structure differ, perhaps in order only; pair the "
            "files that belong together, or omit --relaxations"
        )
    if not same_cell(atoms, relaxed):
        raise StructureError(
            f"{sample.path}: its cell changes during the relaxation; records in OC20's format have one fixed cell"
        )


def _coinciding(atoms: Atoms) -> tuple[int, int] | None:
    batch = torch.zeros(len(atoms), dtype=torch.long)
    data = Data(
        pos=torch.from_numpy(atoms.positions),
        cell=torch.from_numpy(atoms.cell.array)[None],
        pbc=torch.from_numpy(atoms.pbc)[None],
        natoms=torch.tensor([len(atoms)]),
        batch=batch,
    )
    return coinciding_atoms(batch, make_boxes(data, 0.0, use_pbc=bool(atoms.cell.rank)))


def unlabelled_record(
    sample: Sample, tags: Int64[np.ndarray, "atoms"], fixed: Bool[np.ndarray, "atoms"], task: Task
) -> Data:
    """The record of a sample that passed :func:`check_sample`, without labels; a frame of S2EF has ``fid``."""
    atoms = sample.initial
    record = atoms_to_record(atoms, sample.id)
    record.pos = torch.tensor(inside_cell(atoms), dtype=torch.float32)
    record.pbc = torch.from_numpy(atoms.pbc.copy())[None]
    record.tags = torch.from_numpy(tags)
    record.fixed = torch.from_numpy(fixed.astype(np.float32))
    if task == "s2ef":
        record.fid = _frame_number(sample)
    return record


def _frame_number(sample: Sample) -> int:
    """``atoms.info["fid"]``, else the index in the file."""
    given = sample.initial.info.get("fid", sample.frame)
    try:
        return int(given)
    except (TypeError, ValueError):
        raise StructureError(f"{sample}: its fid is {given!r}, not a whole number") from None


def relaxed_positions(sample: Sample) -> Float64[np.ndarray, "atoms 3"] | None:
    """Relaxed positions of a sample, Å: from its relaxed structure, or from the array ``pos_relaxed``.

    Raises:
        StructureError: they are not three finite numbers an atom.
    """
    atoms = sample.initial
    positions = atoms.arrays.get("pos_relaxed") if sample.relaxed is None else sample.relaxed.positions
    if positions is None:
        return None
    if positions.shape != (len(atoms), 3) or not np.isfinite(positions).all():
        raise StructureError(f"{sample}: its relaxed positions are not three finite numbers (Å) for each atom")
    return np.asarray(positions, dtype=np.float64)
