"""Slabs with O, as people build them."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.calculators.singlepoint import SinglePointCalculator


def slab(metal: str = "Cu", *, layers: int = 3) -> Atoms:
    """A slab with O, tagged by layers as ``ase.build`` does, atoms off their lattice sites."""
    atoms = fcc111(metal, (2, 2, layers), vacuum=8.0)
    add_adsorbate(atoms, "O", 1.3, "fcc")
    atoms.info.clear()
    atoms.pbc = True
    atoms.rattle(0.05, seed=layers)
    atoms.wrap(eps=0)
    return atoms


def labelled(atoms: Atoms, energy: float = -1.25, *, force: float = 1.0) -> Atoms:
    """``atoms`` with an energy, eV, and random forces of that size, eV/Å."""
    forces = force * np.random.default_rng(0).normal(size=(len(atoms), 3))
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms
