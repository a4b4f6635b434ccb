"""Adsorbates of H, C, N and O: their gas-phase geometry, reference energy, and placement on a slab."""

from __future__ import annotations

from functools import cache

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.data import covalent_radii
from scipy.spatial import Delaunay
from scipy.spatial.transform import Rotation

from structures.relaxation import relax
from structures.slabs import top_layer

BINDING_ATOM = {
    "H": ("H", 0),
    "C": ("C", 0),
    "N": ("N", 0),
    "O": ("O", 0),
    "CO": ("CO", 1),
    "NO": ("NO", 0),
    "CN": ("CN", 0),
    "N2": ("N2", 0),
    "O2": ("O2", 0),
    "OH": ("OH", 0),
    "CH": ("CH", 0),
    "NH": ("NH", 0),
    "OH2": ("H2O", 0),
    "CH2": ("CH2_s3B1d", 0),
    "NH2": ("NH2", 0),
    "CH3": ("CH3", 0),
    "CHO": ("HCO", 0),
    "NCH": ("HCN", 1),
}
"""Adsorbate -> (its name in ASE's molecule collection, index of the atom that points to the surface)."""

GAS_SPECIES = ("H2", "H2O", "CO", "N2")

STANDOFF = 1.2
"""An adsorbate starts at this multiple of the sum of covalent radii from the nearest slab atom."""


@cache
def gas_phase(adsorbate: str) -> Atoms:
    """The adsorbate relaxed alone, its binding atom at the origin and the rest of it above (towards +z)."""
    name, binding_atom = BINDING_ATOM[adsorbate]
    start = molecule(name) if len(adsorbate) > 1 else Atoms(name)
    relaxed = relax(start)
    relaxed.positions -= relaxed.positions[binding_atom]
    up = relaxed.positions.sum(axis=0)
    if np.linalg.norm(up) > 0.1:
        relaxed.rotate(up, (0, 0, 1))
    return relaxed


@cache
def atomic_references() -> dict[str, float]:
    """Energy of one H, C, N, O atom as OC20 refers them: from gas-phase H2, H2O, CO and N2, eV."""
    energies = {name: relax(molecule(name)).info["energy"] for name in GAS_SPECIES}
    hydrogen = energies["H2"] / 2
    oxygen = energies["H2O"] - energies["H2"]
    return {"H": hydrogen, "O": oxygen, "C": energies["CO"] - oxygen, "N": energies["N2"] / 2}


def reference_energy(adsorbate: str) -> float:
    """Gas-phase reference of an adsorbate: the sum of its atoms' references, eV."""
    references = atomic_references()
    return sum(references[symbol] for symbol in gas_phase(adsorbate).get_chemical_symbols())


def place(adsorbate: str, slab: Atoms, rng: np.random.Generator) -> Atoms:
    """Slab and adsorbate (tag 2) at a random top, bridge or hollow site, turned and tilted at random.

    The adsorbate stands as low as it can with no atom nearer to a slab atom than ``STANDOFF`` allows.
    """
    molecule_atoms = gas_phase(adsorbate).copy()
    tilt = Rotation.from_euler("xy", rng.normal(scale=10.0, size=2), degrees=True)
    turn = Rotation.from_euler("z", rng.uniform(0.0, 360.0), degrees=True)
    offsets = (turn * tilt).apply(molecule_atoms.positions)
    offsets[:, :2] += random_site(slab, rng)

    tiled = slab.repeat((3, 3, 1))
    tiled.positions -= slab.cell[0] + slab.cell[1]
    distance = STANDOFF * (covalent_radii[molecule_atoms.numbers][:, None] + covalent_radii[tiled.numbers])
    lateral = np.linalg.norm(offsets[:, None, :2] - tiled.positions[:, :2], axis=-1)
    clearance = np.sqrt(np.maximum(distance**2 - lateral**2, 0.0))
    lowest = np.where(lateral < distance, tiled.positions[:, 2] + clearance - offsets[:, None, 2], -np.inf)
    offsets[:, 2] += lowest.max()
    molecule_atoms.positions = offsets
    molecule_atoms.set_tags(2)
    return slab + molecule_atoms


def random_site(slab: Atoms, rng: np.random.Generator) -> np.ndarray:
    """Lateral position (x, y) in Å of a top, bridge or hollow site of the highest layer, each kind as likely."""
    tiled = slab[top_layer(slab)].repeat((3, 3, 1))
    # Four sites of a square have two triangulations: unless rounded, the last bit would choose, and so the processor.
    lateral = np.round(tiled.positions[:, :2] - (slab.cell[0] + slab.cell[1])[:2], 7)
    triangles = Delaunay(lateral).simplices
    centre = np.linalg.solve(slab.cell[:2, :2].T, lateral[triangles].mean(axis=1).T).T
    inside = triangles[((centre > -1e-6) & (centre < 1 - 1e-6)).all(axis=1)]
    corners = lateral[rng.permutation(inside[rng.integers(len(inside))])]
    return corners[: rng.integers(1, 4)].mean(axis=0)
