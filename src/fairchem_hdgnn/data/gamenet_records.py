"""Systems of the FG set as OC20's IS2RE records, without labels."""

from __future__ import annotations

import io

import numpy as np
from ase import Atoms
from ase.io.vasp import read_vasp
from torch_geometric.data import Data

from fairchem_hdgnn.data.gamenet_archive import INITIAL, RELAXED, System
from fairchem_hdgnn.data.records import atoms_to_record, inside_cell, relaxed_minimum_image, same_cell
from fairchem_hdgnn.data.surfaces.tagging import ADSORBATE, SUBSURFACE, SURFACE, fixed_atoms
from fairchem_hdgnn.errors import DataError

MOLECULE_ELEMENTS = ("C", "H", "N", "O", "S")
"""All other elements of the set are metals."""


def unlabelled_record(system: System) -> Data:
    """The record of one system.

    Returns:
        ``atomic_numbers``, ``cell`` [1, 3, 3] (Å), ``pos`` (Å, initial, inside the cell), ``pos_relaxed`` (Å, the
        periodic images nearest to ``pos``), ``natoms``, ``fixed`` (atoms fixed in all directions), ``tags`` (0 fixed
        metal, 1 other metal, 2 molecule) and ``sid``, the published name.

    Raises:
        DataError: a structure cannot be read, or the two have different atoms or cells.
    """
    initial, relaxed = _structure(system.initial, system, INITIAL), _structure(system.relaxed, system, RELAXED)
    if not np.array_equal(initial.numbers, relaxed.numbers):
        different = np.flatnonzero(initial.numbers[: len(relaxed)] != relaxed.numbers[: len(initial)])
        atom = int(different[0]) if len(different) else min(len(initial), len(relaxed))
        raise DataError(
            f"{_path(system, RELAXED)}: atom {atom} differs from that of {_path(system, INITIAL)}; get the archive "
            "again"
        )
    if not same_cell(initial, relaxed):
        raise DataError(
            f"{_path(system, RELAXED)}: its cell differs from that of {_path(system, INITIAL)}; get the archive again"
        )
    fixed = fixed_atoms(initial)
    molecule = np.isin(initial.get_chemical_symbols(), MOLECULE_ELEMENTS)
    pos_relaxed = relaxed_minimum_image(initial, relaxed.positions)
    initial.positions = inside_cell(initial)
    initial.set_tags(np.select([molecule, fixed], [ADSORBATE, SUBSURFACE], SURFACE))
    record = atoms_to_record(initial, system.name)
    record.pos_relaxed = pos_relaxed
    return record


def _structure(text: str, system: System, suffix: str) -> Atoms:
    path = _path(system, suffix)
    try:
        atoms = read_vasp(io.StringIO(text))
    except Exception as error:  # ASE's reader fails in many ways
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path}: not a complete structure ({type(error).__name__}: {reason}); get the archive again"
        ) from error
    if not isinstance(atoms, Atoms) or len(atoms) == 0:
        raise DataError(f"{path}: contains no atoms; get the archive again")
    finite = np.isfinite(atoms.positions).all(axis=1)
    if not finite.all():
        raise DataError(f"{path}: atom {int(np.flatnonzero(~finite)[0])} has no finite position; get the archive again")
    if not np.isfinite(atoms.cell.array).all() or atoms.cell.rank != 3 or atoms.cell.volume < 1e-3:
        raise DataError(f"{path}: its cell vectors span no volume; get the archive again")
    return atoms


def _path(system: System, suffix: str) -> str:
    return f"{system.family}/structures/{system.name}{suffix}"
