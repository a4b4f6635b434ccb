"""Groups on sheets and slabs of non-metals: on graphene, h-BN, C3N4, M-N-C, silica, silicon."""

from __future__ import annotations

from collections import Counter

import numpy as np

from fairchem_hdgnn.data.surfaces.bonding import Components, Mask, components, formula_of, hanging, occurs
from fairchem_hdgnn.data.surfaces.slab import Structure, above

FLAT = 0.6
"""Å from the middle height within which most atoms of a one-layer sheet lie."""

OUTSIDE = 0.9
"""Å from the middle height of a one-layer sheet: what lies beyond stands on it."""

INSIDE_ANGLE = 70.0
"""Degrees: an atom inside a slab of non-metals has others within this of the normal, above and below."""

LATTICE_SHARE = 0.1
"""Of a slab's atoms: an element found inside in that number is of the slab."""

COVER_SHARE = 0.3
"""Groups of one kind on a side, per exposed atom of the slab, that saturate it."""


def groups_on_sheets(structure: Structure, molecules: Components, within: Mask) -> tuple[Mask, tuple[str, ...]]:
    """Atoms bound to periodic components of non-metals without being part of them.

    Args:
        structure: the structure.
        molecules: components of the bonds between non-metals.
        within: which atoms to consider; those in components that are not periodic are adsorbate.

    Returns:
        Mask of the adsorbate, and reasons for doubt.
    """
    metal = structure.metal
    bonds = structure.bonds.among(~metal)
    mask = within & (molecules.rank_of_atom == 0)
    groups = hanging(len(metal), bonds) & within
    for members in molecules.members():
        if molecules.rank[molecules.label[members[0]]] > 0 and within[members].all():
            groups[members] |= _standing_out(structure, members, groups)
    # The remainder between the bonds of two groups is not a sheet.
    rest = components(len(metal), bonds.among(~groups))
    groups |= within & ~mask & ~groups & (rest.rank_of_atom == 0)
    slab = within & ~mask & ~groups
    terminating, doubts = _terminations(structure, slab, groups, mask)
    groups &= ~terminating
    own = np.isin(structure.atoms.numbers, structure.atoms.numbers[slab])
    if (groups & ~own).sum() == 0 < (groups & own).sum():
        doubts = (*doubts, "groups of the slab's own elements, taken as adsorbate")
    return mask | groups, doubts


def _standing_out(structure: Structure, members: np.ndarray, groups: Mask) -> np.ndarray:
    """In one component: atoms outside a one-layer sheet, or elements that occur only at the surface of a thick slab."""
    core = members[~groups[members]]
    height = structure.layout.height
    if len(core) == 0:
        return np.zeros(len(members), dtype=bool)
    away = np.abs(height[members] - np.median(height[core]))
    if np.mean(np.abs(height[core] - np.median(height[core])) < FLAT) > 0.6:
        return away > OUTSIDE
    numbers = structure.atoms.numbers
    inside = occurs(core, len(numbers))
    near = structure.near.among(inside)
    near = near.where(near.ratio < 2.0)
    for up in (structure.layout.normal, -structure.layout.normal):
        inside &= occurs(near.first[above(near, up, INSIDE_ANGLE, len(numbers))], len(numbers))
    counts = Counter(numbers[inside].tolist())
    own = [number for number, count in counts.items() if count >= LATTICE_SHARE * len(core)]
    return ~np.isin(numbers[members], own) if own else np.zeros(len(members), dtype=bool)


def _terminations(structure: Structure, slab: Mask, groups: Mask, free: Mask) -> tuple[Mask, tuple[str, ...]]:
    """Groups that saturate the slab's bonds: alike on both sides, or on one side while the other has an adsorbate."""
    numbers, height = structure.atoms.numbers, structure.layout.height
    terminating = np.zeros_like(groups)
    if not groups.any() or not slab.any():
        return terminating, ()
    middle = (height[slab].min() + height[slab].max()) / 2
    parts = components(len(numbers), structure.bonds.among(groups))
    kinds: dict[tuple[str, int], list[np.ndarray]] = {}
    for members in parts.members():
        if groups[members].all():
            side = 1 if height[members].mean() > middle else -1
            kinds.setdefault((formula_of(numbers[members]), side), []).append(members)
    outer = max(1, int((height[slab] > height[slab].max() - FLAT).sum()))
    covering = {kind for kind, found in kinds.items() if len(found) >= COVER_SHARE * outer}
    occupied = {side for kind in kinds if kind not in covering for side in [kind[1]]}
    occupied |= {1 if h > middle else -1 for h in height[free]}
    for formula, side in covering:
        if (formula, -side) in covering or (formula == "H" and -side in occupied and side not in occupied):
            for members in kinds[formula, side]:
                terminating[members] = True
    return terminating, ("groups that saturate the slab, taken as slab",) if terminating.any() else ()
