"""Where a structure has vacuum, the normal of a slab, and which of its atoms are exposed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from jaxtyping import Bool, Float64

from fairchem_hdgnn.data.surfaces.bonding import CONTACT, Mask, Pairs, bonded, components, metals, near_pairs, occurs

VACUUM = 5.0
"""Å: a wider gap in the heights of the atoms is vacuum."""

WIDE_VACUUM = 7.0
"""Å: longer than any bond."""

REACH = 6.0
"""Å, within which pairs of atoms are looked at."""

WIDE_REACH = 1.6
"""The same in sums of covalent radii, where that is more."""

EXPOSED_ANGLE = 50.0
"""Degrees from the outward normal within which no slab atom lies above an exposed one. The nearest are at 35 under
close-packed layers and at 45 in fcc(100), whose second layers are subsurface; at 55 in bcc(100) and at 60 in fcc(110),
where OC20 counts the second layer to the surface."""

Heights = Float64[np.ndarray, "atoms"]


@dataclass(frozen=True)
class Layout:
    """Orientation of a structure in its cell.

    Attributes:
        form: ``slab``; ``bulk`` without vacuum; ``box`` with vacuum all around, or without a cell.
        normal: unit vector across the vacuum, or the widest gap, in the direction of a cell vector; zeros in a box.
        height: along ``normal``, Å, continuous across the cell boundary.
        doubts: reasons for doubt.
    """

    form: Literal["slab", "bulk", "box"]
    normal: Float64[np.ndarray, "3"]
    height: Heights
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Structure:
    """Atoms with everything that tags are derived from.

    Attributes:
        atoms: with a complete cell, and periodic only along existing cell vectors.
        metal: which atoms are metals.
        layout: where the vacuum is.
        near: all pairs up to about 6 Å, none across the vacuum.
        bonds: those of them that are bonds or contacts.
    """

    atoms: Atoms
    metal: Mask
    layout: Layout
    near: Pairs
    bonds: Pairs


def analyze(atoms: Atoms) -> Structure:
    """Find the pairs, bonds and vacuum of a structure."""
    whole, doubts = _with_cell(atoms)
    metal = metals(whole)
    widest = float(covalent_radii[whole.numbers].max())
    near = near_pairs(whole, max(REACH, 2 * WIDE_REACH * widest))
    bonds = bonded(near, metal)
    layout = _layout(whole, metal, bonds, doubts)
    if layout.form == "slab":
        rise = layout.height[near.second] - layout.height[near.first]
        near = near.where(np.abs(near.vector @ layout.normal - rise) < 1e-2)
        bonds = bonded(near, metal)
    return Structure(whole, metal, layout, near, bonds)


def find_layout(atoms: Atoms) -> Layout:
    """Find only the vacuum."""
    whole, doubts = _with_cell(atoms)
    metal = metals(whole)
    gaps = widest_gaps(whole)
    wide = [axis for axis in range(3) if gaps[axis][0] > VACUUM]
    # No bond spans a gap this wide, so bonds need not be searched.
    if metal.any() and len(wide) == 1 and gaps[wide[0]][0] > WIDE_VACUUM:
        return Layout("slab", _normal(whole, wide[0]), _unwrapped(whole, wide[0], gaps[wide[0]][1]), doubts)
    bonds = bonded(near_pairs(whole, 2 * CONTACT * float(covalent_radii[whole.numbers].max())), metal)
    return _layout(whole, metal, bonds, doubts)


def exposed(structure: Structure, slab: Mask, up: Float64[np.ndarray, "*any 3"]) -> Mask:
    """Slab atoms with no other slab atom in the cone above them.

    Args:
        structure: the structure.
        slab: its atoms that are not adsorbate.
        up: unit vector outwards: one for all atoms, or one per atom.
    """
    pairs = structure.near.among(slab)
    return slab & ~occurs(pairs.first[above(pairs, up, EXPOSED_ANGLE, len(slab))], len(slab))


def above(pairs: Pairs, up: Float64[np.ndarray, "*any 3"], degrees: float, number: int) -> Bool[np.ndarray, "pairs"]:
    """Pairs whose second atom lies within the cone of that half-angle over the first."""
    outward = np.broadcast_to(up, (number, 3))[pairs.first]
    length = np.linalg.norm(pairs.vector, axis=1)
    return np.einsum("px,px->p", pairs.vector, outward) > np.cos(np.radians(degrees)) * length


def _with_cell(atoms: Atoms) -> tuple[Atoms, tuple[str, ...]]:
    """The same atoms with three cell vectors; if no boundaries are given, those that the cell suggests."""
    vectors = atoms.cell.array.any(axis=1)
    whole = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell.complete(), pbc=atoms.pbc & vectors)
    if atoms.cell.rank < 3 or atoms.pbc.any():
        return whole, ()
    periodic = whole.copy()
    periodic.pbc = True
    # If the file does not state boundaries, the cell still shows a slab.
    if sum(gap > VACUUM for gap, _ in widest_gaps(periodic)) == 1 and len(atoms) > 1:
        return periodic, ("no periodic boundaries, taken as those of a slab",)
    return whole, ()


def _layout(atoms: Atoms, metal: Mask, bonds: Pairs, doubts: tuple[str, ...]) -> Layout:
    nothing = np.zeros(3), np.zeros(len(atoms))
    parts = components(len(atoms), bonds)
    molecular = (parts.rank_of_atom == 0) & ~metal
    gaps = widest_gaps(atoms)
    empty = _vacuum(atoms, bonds, gaps)
    if molecular.all() and (any(empty) or parts.rank.size == 1):
        several = ("several molecules in one cell",) if parts.rank.size > 1 else ()
        return Layout("box", *nothing, several)
    free = (components(len(atoms), bonds.among(~metal)).rank_of_atom == 0) & ~metal
    if not any(empty) and free.any() and not free.all():
        rest = atoms[~free]
        gaps = widest_gaps(rest)
        empty = _vacuum(rest, None, gaps)
        doubts = (*doubts, "vacuum narrower than 5 Å") if any(empty) else doubts
    if not any(empty):
        widest = max(range(3), key=lambda axis: gaps[axis][0])
        height = _unwrapped(atoms, widest, gaps[widest][1])
        return Layout("bulk", _normal(atoms, widest), height, (*doubts, "no vacuum"))
    if all(empty) and parts.rank.max() == 0:
        return Layout("box", *nothing, doubts)
    if sum(empty) > 1:
        doubts = (*doubts, "vacuum along more than one cell vector")
    thickness = [np.ptp(_unwrapped(atoms, axis, gaps[axis][1])) for axis in range(3)]
    axis = max((axis for axis in range(3) if empty[axis]), key=lambda axis: (gaps[axis][0], -thickness[axis]))
    normal = _normal(atoms, axis)
    return Layout("slab", normal, _unwrapped(atoms, axis, gaps[axis][1]), doubts)


def _vacuum(atoms: Atoms, bonds: Pairs | None, gaps: list[tuple[float, float]]) -> list[bool]:
    """Which cell vectors cross vacuum, where there are no bonds."""
    empty = []
    for axis, (gap, _) in enumerate(gaps):
        rise = 0.0 if bonds is None or not len(bonds.first) else np.abs(bonds.vector @ _normal(atoms, axis)).max()
        empty.append(bool(gap > VACUUM and gap > rise))
    return empty


def _normal(atoms: Atoms, axis: int) -> Float64[np.ndarray, "3"]:
    """Unit vector across the other two cell vectors, towards this one."""
    normal = np.cross(atoms.cell[axis - 2], atoms.cell[axis - 1])
    normal = normal * np.sign(normal @ atoms.cell[axis])
    return normal / np.linalg.norm(normal)


def widest_gaps(atoms: Atoms) -> list[tuple[float, float]]:
    """Widest gap in the heights along each cell vector, Å, and the lowest height over it; infinite if not periodic."""
    found = []
    for axis in range(3):
        height = atoms.positions @ _normal(atoms, axis)
        if not atoms.pbc[axis]:
            found.append((np.inf, float(height.min())))
            continue
        period = float(atoms.cell[axis] @ _normal(atoms, axis))
        levels = np.sort(height % period)
        gaps = np.diff(levels, append=levels[0] + period)
        widest = int(gaps.argmax())
        found.append((float(gaps[widest]), float(levels[(widest + 1) % len(levels)])))
    return found


def _unwrapped(atoms: Atoms, axis: int, lowest: float) -> Heights:
    normal = _normal(atoms, axis)
    height = atoms.positions @ normal
    if not atoms.pbc[axis]:
        return height
    period = float(atoms.cell[axis] @ normal)
    return lowest + (height - lowest + 1e-6) % period - 1e-6
