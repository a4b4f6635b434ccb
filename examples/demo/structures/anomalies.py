"""Relaxations that OC20 leaves out: dissociated, desorbed, surface changed, intercalated, energy out of range."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

ENERGY_LIMIT = 10.0
"""Adsorption energies beyond +-10 eV are outliers, as in OC20."""

MAX_SURFACE_SHIFT = 1.0
"""A slab atom this far (Å) from its place in the relaxed clean slab means that the surface changed."""


def find_anomaly(initial: Atoms, relaxed: Atoms, clean: Atoms, energy: float) -> str | None:
    """Why a relaxed adsorbate-slab system is to be left out, or ``None``.

    Args:
        initial: Slab and adsorbate before the relaxation, tags 0, 1, 2.
        relaxed: The same after it.
        clean: The relaxed slab without the adsorbate, atoms in the same order.
        energy: Adsorption energy, eV.
    """
    tags = initial.get_tags()
    adsorbate, slab = tags == 2, tags < 2
    touching = bonds(relaxed)
    checks = {
        "outlier": abs(energy) > ENERGY_LIMIT,
        "dissociated": (bonds(initial[adsorbate]) != bonds(relaxed[adsorbate])).any(),
        "desorbed": not bonds(relaxed, scale=1.5)[np.ix_(adsorbate, slab)].any(),
        "intercalated": touching[np.ix_(adsorbate, tags == 0)].any(),
        "surface changed": np.linalg.norm(relaxed.positions[slab] - clean.positions, axis=1).max() > MAX_SURFACE_SHIFT,
    }
    return next((name for name, found in checks.items() if found), None)


def bonds(atoms: Atoms, scale: float = 1.0) -> np.ndarray:
    """Which pairs of atoms touch (bool matrix): nearer than the scaled sum of covalent radii plus OC20's 0.6 Å."""
    radii = scale * covalent_radii[atoms.numbers]
    touching = atoms.get_all_distances(mic=True) < radii[:, None] + radii + 0.6
    np.fill_diagonal(touching, False)
    return touching
