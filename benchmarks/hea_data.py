"""LMDBs of ``hea_adsorption.npz``, real DFT energies with splits as in OC20's.

Adsorption energies (RPBE) of H, O, OH, CO and NO on (111) surfaces of alloys of Ag, Au, Cu, Ir, Pd, Pt and Ru, 46 or 47
atoms a system; OH and five alloys are unseen in training. The file stores all systems one after another: ``ptr``
[n+1], per atom ``numbers``, ``tags``, ``fixed``, ``pos``, ``pos_relaxed``, per system ``cell``, ``y`` (eV), ``sid``,
``split``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.io import write

from fairchem_hdgnn.data.structures.conversion import Conversion, make_lmdb
from fairchem_hdgnn.evaluation.splits import VALIDATION_SPLITS


def convert(source: Path, structures: Path, lmdbs: Path) -> None:
    """One extxyz file and one LMDB for each split, unless they are there."""
    data = load(source)
    for split in ("train", *VALIDATION_SPLITS):
        write_split(data, np.flatnonzero(data["split"] == split), structures, lmdbs, split)


def load(source: Path) -> dict[str, np.ndarray]:
    """The arrays of a file."""
    with np.load(source, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files if key != "meta"}


def write_split(data: Mapping[str, np.ndarray], systems: np.ndarray, structures: Path, lmdbs: Path, name: str) -> None:
    """``structures/NAME.extxyz`` and ``lmdbs/NAME`` of these systems, unless the latter is there."""
    if not (lmdbs / name).is_dir():
        structures.mkdir(parents=True, exist_ok=True)
        write(structures / f"{name}.extxyz", [structure(data, system) for system in systems])
        make_lmdb(structures / f"{name}.extxyz", lmdbs / name, Conversion("is2re"))


def structure(data: Mapping[str, np.ndarray], system: np.integer) -> Atoms:
    """One system with tags, fixed atoms, label, and relaxed positions where the file has them."""
    atoms_of = slice(data["ptr"][system], data["ptr"][system + 1])
    atoms = Atoms(data["numbers"][atoms_of], positions=data["pos"][atoms_of], cell=data["cell"][system], pbc=True)
    atoms.set_tags(data["tags"][atoms_of].astype(int))
    atoms.set_constraint(FixAtoms(mask=data["fixed"][atoms_of]))
    if "pos_relaxed" in data:
        atoms.set_array("pos_relaxed", data["pos_relaxed"][atoms_of].astype(float))
    atoms.info = {"sid": str(data["sid"][system]), "y_relaxed": float(data["y"][system])}
    return atoms
