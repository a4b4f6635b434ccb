"""LMDBs of ``hea_adsorption.npz``, real DFT energies with splits as in OC20's.

Adsorption energies (RPBE) of H, O, OH, CO and NO on (111) surfaces of alloys of Ag, Au, Cu, Ir, Pd, Pt and Ru, 46 or 47
atoms a system; OH and five alloys are unseen in training. The file stores all systems one after another: ``ptr``
[n+1], per atom ``numbers``, ``tags``, ``fixed``, ``pos``, ``pos_relaxed``, per system ``cell``, ``y`` (eV), ``sid``,
``split``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.io import write

from fairchem_hdgnn.data.structures.conversion import Conversion, make_lmdb
from fairchem_hdgnn.evaluation.splits import VALIDATION_SPLITS


def convert(source: Path, structures: Path, lmdbs: Path) -> None:
    """One extxyz file and one LMDB for each split, unless they are there."""
    with np.load(source, allow_pickle=False) as arrays:
        data = {key: arrays[key] for key in arrays.files if key != "meta"}
    structures.mkdir(parents=True, exist_ok=True)
    for split in ("train", *VALIDATION_SPLITS):
        if (lmdbs / split).is_dir():
            continue
        systems = np.flatnonzero(data["split"] == split)
        write(structures / f"{split}.extxyz", [structure(data, system) for system in systems])
        make_lmdb(structures / f"{split}.extxyz", lmdbs / split, Conversion("is2re"))


def structure(data: dict[str, np.ndarray], system: np.integer) -> Atoms:
    """One system with tags, fixed atoms, label and relaxed positions."""
    atoms_of = slice(data["ptr"][system], data["ptr"][system + 1])
    atoms = Atoms(data["numbers"][atoms_of], positions=data["pos"][atoms_of], cell=data["cell"][system], pbc=True)
    atoms.set_tags(data["tags"][atoms_of].astype(int))
    atoms.set_constraint(FixAtoms(mask=data["fixed"][atoms_of]))
    atoms.set_array("pos_relaxed", data["pos_relaxed"][atoms_of].astype(float))
    atoms.info = {"sid": str(data["sid"][system]), "y_relaxed": float(data["y"][system])}
    return atoms
