"""Slabs of the EMT metals and of their ordered binary alloys: which there are, built and relaxed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from ase import Atoms
from ase.build import bulk, make_supercell, surface
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.data import atomic_numbers
from scipy.optimize import minimize_scalar

from structures.relaxation import relax

METALS = ("Ag", "Al", "Au", "Cu", "Ni", "Pd", "Pt")
ORDERINGS = {"{0}3{1}": (1, 0, 0, 0), "{0}{1}": (1, 0, 0, 1), "{0}{1}3": (0, 1, 1, 1)}
"""Formula of a binary alloy -> which of the four sites of the fcc cube hold the second metal (L1_2, L1_0, L1_2)."""

SHAPES = {
    "111": ((3, 1), (4, 1), (3, 2)),
    "100": ((2, 1), (3, 1), (2, 2)),
    "211": ((4, 1), (5, 1), (6, 1)),
}
"""Facet -> (layers, repeats along the first in-plane vector), 12 to 32 atoms a slab."""

VACUUM = 10.0
"""Vacuum on either side of the clean slab, Å."""


@dataclass(frozen=True)
class Slab:
    """One slab by name: composition, facet and size."""

    metals: tuple[str, ...]
    formula: str
    facet: str
    layers: int
    repeats: int

    def __str__(self) -> str:
        """``Cu3Pt(111) 3x1``: formula, facet, layers x repeats."""
        return f"{self.formula}({self.facet}) {self.layers}x{self.repeats}"


def all_slabs() -> list[Slab]:
    """Every slab that the data set draws from: pure metals and binary alloys, three facets, three sizes each."""
    bulks: list[tuple[tuple[str, ...], str]] = [((metal,), metal) for metal in METALS]
    for pair in itertools.combinations(METALS, 2):
        bulks += [(pair, ordering.format(*pair)) for ordering in ORDERINGS]
    return [
        Slab(metals, formula, facet, layers, repeats)
        for metals, formula in bulks
        for facet, shapes in SHAPES.items()
        for layers, repeats in shapes
    ]


@cache
def build_bulk(metals: tuple[str, ...], formula: str) -> Atoms:
    """The cubic cell of four atoms at EMT's own lattice constant, to 0.0001 Å: the rest depends on the processor."""
    occupation = (0, 0, 0, 0)
    for ordering, sites in ORDERINGS.items():
        if len(metals) == 2 and ordering.format(*metals) == formula:
            occupation = sites
    cube = bulk(metals[0], "fcc", a=1.0, cubic=True)
    cube.numbers = [atomic_numbers[metals[site]] for site in occupation]

    def energy(lattice_constant: float) -> float:
        scaled = cube.copy()
        scaled.set_cell([lattice_constant] * 3, scale_atoms=True)
        scaled.calc = EMT()
        return scaled.get_potential_energy()

    experimental = [bulk(metal, cubic=True).cell.lengths()[0] for metal in metals]
    best = minimize_scalar(energy, bounds=(0.9 * min(experimental), 1.1 * max(experimental)), method="bounded")
    cube.set_cell([round(best.x, 4)] * 3, scale_atoms=True)
    return cube


def build_slab(slab: Slab) -> Atoms:
    """The bulk-terminated slab, as OC20 starts from it.

    Tags are OC20's: 0 for the lower planes, which are fixed, and 1 for the upper ones, which are free.
    A plane in the middle is free.
    """
    atoms = surface(build_bulk(slab.metals, slab.formula), tuple(int(i) for i in slab.facet), slab.layers)
    if slab.facet == "100":
        atoms = make_supercell(atoms, [[1, 1, 0], [-1, 1, 0], [0, 0, 1]])
    atoms = atoms.repeat((slab.repeats, 1, 1))
    atoms.center(vacuum=VACUUM, axis=2)
    atoms.pbc = True
    atoms.wrap()
    heights = atoms.positions[:, 2]
    free = heights > (heights.min() + heights.max()) / 2 - 0.1
    atoms.set_tags(free.astype(int))
    atoms.set_constraint(FixAtoms(mask=~free))
    return atoms


@lru_cache(maxsize=256)
def relaxed_slab(slab: Slab) -> Atoms:
    """The relaxed clean slab (energy in ``info``), cached for the process; treat as read-only."""
    return relax(build_slab(slab))


def top_layer(atoms: Atoms) -> np.ndarray:
    """Indices of the slab atoms within 1.2 Å of the highest one."""
    slab_heights = np.where(atoms.get_tags() < 2, atoms.positions[:, 2], -np.inf)
    return np.flatnonzero(slab_heights > slab_heights.max() - 1.2)
