"""OC20's tags (0 subsurface, 1 surface, 2 adsorbate) and fixed atoms: kept if present, else derived."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian, FixConstraint, FixScaled
from ase.geometry import find_mic
from jaxtyping import Float64, Int64

from fairchem_hdgnn.data.surfaces.adsorbate import find_adsorbate
from fairchem_hdgnn.data.surfaces.bonding import Mask, metals
from fairchem_hdgnn.data.surfaces.slab import Layout, Structure, analyze, exposed, find_layout
from fairchem_hdgnn.errors import DataError

SUBSURFACE, SURFACE, ADSORBATE = 0, 1, 2

STILL, MOVED = 1e-4, 1e-2
"""Å: atoms that move less than the first are fixed, where others move more than the second."""

CENTRE = 1.0
"""Å from the middle of a cluster, where nothing is outwards."""

Tags = Int64[np.ndarray, "atoms"]

Kind = Literal["adsorbed", "slab", "gas", "bulk", "cluster"]
"""Molecule on a slab, clean slab, molecule without a cell or in a box, no vacuum, metal particle in a box."""


@dataclass(frozen=True)
class Tagged:
    """Tags of a structure.

    Attributes:
        tags: of each atom.
        kind: kind of structure.
        origin: a phrase on the origin of the tags.
        doubts: short phrases on why derived tags may be wrong; empty if there is no doubt.
    """

    tags: Tags
    kind: Kind
    origin: str
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fixed:
    """Fixed atoms of a structure.

    Attributes:
        fixed: which atoms may not move in any direction.
        origin: a phrase on the origin of ``fixed``.
        other: names of constraints that are not fixed atoms, sorted.
    """

    fixed: Mask
    origin: str
    other: tuple[str, ...] = ()


def tag_atoms(atoms: Atoms, adsorbate_elements: Collection[str] | None = None, adsorbate: Mask | None = None) -> Tagged:
    """Tags of a structure.

    - All atoms of a molecule, without a cell or alone in a box, are adsorbate.
    - Tags 0, 1, 2 in OC20's sense are kept.
    - Tags as ``ase.build`` sets them (adsorbate 0, layers 1, 2, ... from the top) are translated.
    - Without tags, the adsorbate is found by its bonds. Slab atoms below others are subsurface; if the slab has fixed
      atoms, only those.

    Args:
        atoms: the structure.
        adsorbate_elements: in structures without tags, these elements are the adsorbate, whatever their bonds.
        adsorbate: mask of the adsorbate; then only surface and subsurface are derived, and tags are ignored.

    Raises:
        DataError: the tags are neither OC20's nor ASE's.
    """
    tags = np.asarray(atoms.get_tags(), dtype=np.int64)
    if atoms.cell.rank == 0 and not (metals(atoms).any() and adsorbate is not None):
        doubts: tuple[str, ...] = ()
        if metals(atoms).any():
            doubts = ("metal atoms without a cell, taken as a molecule",)
        return Tagged(np.full(len(atoms), ADSORBATE), "gas", "molecules, all atoms tag 2", doubts)
    if tags.any() and adsorbate is None:
        return _translated(atoms, tags)
    structure = analyze(atoms)
    doubts = structure.layout.doubts
    if adsorbate is not None:
        mask, how = np.asarray(adsorbate, dtype=bool), "adsorbate as given"
    elif adsorbate_elements is not None:
        mask = np.isin(atoms.get_chemical_symbols(), list(adsorbate_elements))
        how = "adsorbate by its elements"
    elif structure.layout.form == "box" and not structure.metal.any():
        return Tagged(np.full(len(atoms), ADSORBATE), "gas", "molecules, all atoms tag 2", doubts)
    elif structure.layout.form == "bulk":
        return Tagged(np.full(len(atoms), SUBSURFACE), "bulk", "derived: bulk, all atoms tag 0", doubts)
    else:
        found = find_adsorbate(structure)
        mask, doubts = found.mask, (*doubts, *found.doubts)
        how = "adsorbate by its bonds" if mask.any() else "no adsorbate"
    if mask.all():
        doubts = () if adsorbate is not None else (*doubts, "all atoms are adsorbate")
        return Tagged(np.full(len(atoms), ADSORBATE), "gas", f"derived: {how}", doubts)
    return _derived(atoms, structure, mask, how, doubts)


def fix_atoms(atoms: Atoms, tagged: Tagged, relaxed: Float64[np.ndarray, "atoms 3"] | None = None) -> Fixed:
    """Fixed atoms of the initial structure of a relaxation.

    - Atoms that constraints fix in all directions are kept. Where there are only other constraints, none is fixed.
    - Without constraints, atoms that do not move while others do are fixed.
    - Otherwise OC20's rule applies, unless one of them moves: the subsurface atoms of a slab are fixed.

    Args:
        atoms: the structure.
        tagged: its tags and kind.
        relaxed: relaxed positions, Å.
    """
    tags, kept = tagged.tags, constrained_atoms(atoms)
    fixed, slab = kept.fixed, tags != ADSORBATE
    if fixed.any() or kept.other or atoms.cell.rank == 0 or not slab.any():
        return kept
    if relaxed is not None:
        moved = np.linalg.norm(find_mic(np.asarray(relaxed) - atoms.positions, atoms.cell, atoms.pbc)[0], axis=1)
        still = slab & (moved < STILL)
        if still.any() and (moved[slab] > MOVED).any():
            return Fixed(still, "derived: atoms that do not move")
        if (moved[tags == SUBSURFACE] > MOVED).any():
            return kept
    if not (tags == SUBSURFACE).any() or (tags == SUBSURFACE).all() or tagged.kind not in ("adsorbed", "slab"):
        return Fixed(fixed, "none")
    return Fixed(tags == SUBSURFACE, "derived: subsurface atoms")


def constrained_atoms(atoms: Atoms) -> Fixed:
    """Fixed atoms of a frame: only those that constraints fix, as forces on the others are labels."""
    fixed = fixed_atoms(atoms)
    return Fixed(fixed, "kept" if fixed.any() else "none", _other_constraints(atoms))


def fixed_atoms(atoms: Atoms) -> Mask:
    """Atoms fixed by ``FixAtoms``, or along all axes by ``FixCartesian`` or ``FixScaled``."""
    fixed = np.zeros(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if _fixes_atoms(constraint):
            fixed[constraint.index] = True
    return fixed


def _fixes_atoms(constraint: FixConstraint) -> bool:
    """Whether it fixes atoms along all axes; the meaning of ``mask`` differs between versions of ASE."""
    if isinstance(constraint, (FixCartesian, FixScaled)):
        return bool(np.all(constraint.todict()["kwargs"]["mask"]))
    return isinstance(constraint, FixAtoms)


def _other_constraints(atoms: Atoms) -> tuple[str, ...]:
    others = [constraint for constraint in atoms.constraints if not _fixes_atoms(constraint)]
    some_axes = (FixCartesian, FixScaled)
    names = {type(each).__name__ + " on some axes" * isinstance(each, some_axes) for each in others}
    return tuple(sorted(names))


def _derived(atoms: Atoms, structure: Structure, mask: Mask, how: str, doubts: tuple[str, ...]) -> Tagged:
    """Tags of a slab or cluster with the given adsorbate."""
    slab, layout = ~mask, structure.layout
    if layout.form == "bulk":
        return Tagged(np.where(mask, ADSORBATE, SUBSURFACE), "bulk", f"derived: {how}, no surface", doubts)
    fixed = fixed_atoms(atoms) & slab
    if layout.form == "box":
        outwards = structure.atoms.positions - structure.atoms.positions[slab].mean(axis=0)
        distance = np.linalg.norm(outwards, axis=1)
        surface = exposed(structure, slab, outwards / np.maximum(distance, 1e-9)[:, None])
        surface &= (distance > CENTRE) | (slab.sum() == 1)
        kind: Kind = "cluster"
    else:
        sides = _sides(layout, mask, fixed)
        surface = np.any([exposed(structure, slab, side * layout.normal) for side in sides], axis=0)
        kind = "adsorbed" if mask.any() else "slab"
        doubts = (*doubts, "adsorbate on both sides") if len(sides) > 1 else doubts
    if fixed.any():
        surface |= slab & ~fixed
    where = "fixed atoms subsurface" if fixed.any() else "surface by what lies above"
    tags = np.select([mask, surface], [ADSORBATE, SURFACE], SUBSURFACE)
    return Tagged(tags, kind, f"derived: {how}, {where}", doubts)


def _sides(layout: Layout, mask: Mask, fixed: Mask) -> list[int]:
    """Which sides of a slab are its surface, 1 along the normal: those with adsorbate, else away from fixed atoms."""
    height, slab = layout.height, ~mask
    middle = (height[slab].min() + height[slab].max()) / 2
    if mask.any():
        return sorted({1 if value > middle else -1 for value in height[mask].tolist()})
    if fixed.any() and not fixed[slab].all():
        return [1 if height[fixed].mean() < height[slab & ~fixed].mean() else -1]
    return [1]


def _translated(atoms: Atoms, tags: Tags) -> Tagged:
    """Existing tags: OC20's, or translated from ASE's layer numbers."""
    layout = find_layout(atoms)
    if _are_layers(atoms, tags, layout):
        tags, origin = np.select([tags == 0, tags == 1], [ADSORBATE, SURFACE], SUBSURFACE), "from ASE's layer numbers"
    elif set(tags.tolist()) <= {SUBSURFACE, SURFACE, ADSORBATE}:
        origin = "kept"
    else:
        raise DataError(
            f"its tags {sorted(set(tags.tolist()))} are neither OC20's (0 subsurface, 1 surface, 2 adsorbate) nor "
            "ASE's layers (0 adsorbate, then 1, 2, ... downwards); set them with atoms.set_tags"
        )
    has_adsorbate = bool((tags == ADSORBATE).any())
    of_box: Kind = "cluster" if metals(atoms).any() else "gas"
    kinds: dict[str, Kind] = {"slab": "adsorbed" if has_adsorbate else "slab", "bulk": "bulk", "box": of_box}
    return Tagged(tags, kinds[layout.form], origin)


def _are_layers(atoms: Atoms, tags: Tags, layout: Layout) -> bool:
    """Whether the tags number layers from the top, with 0 for atoms on top of them."""
    numbers = sorted(set(tags.tolist()))
    layers = [number for number in numbers if number != 0]
    if layers != list(range(1, len(layers) + 1)) or len(numbers) < 2:
        return False
    rise = np.diff([layout.height[tags == number].mean() for number in numbers])
    if not (rise < 0).all() and not (rise > 0).all():
        return False
    if numbers[-1] > ADSORBATE:
        return True
    # Could also be OC20's tags: then the adsorbate, mostly without metals, has tag 2 instead of 0.
    metal = metals(atoms)
    of_zero, of_two = bool(metal[tags == SUBSURFACE].any()), bool(metal[tags == ADSORBATE].any())
    if len(numbers) == 3 and of_zero != of_two:
        return of_two
    return bool(_up(atoms, tags) * rise[0] < 0)


def _up(atoms: Atoms, tags: Tags) -> int:
    """Side of the surface, 1 along the normal, if tags alone do not determine it."""
    structure = analyze(atoms)
    layout, fixed = structure.layout, fixed_atoms(atoms)
    mask = find_adsorbate(structure).mask
    if mask.all():
        mask = tags == ADSORBATE
    return _sides(layout, mask, fixed)[-1]
