"""Which non-metals of a slab with metals belong to its lattice: oxides, sulphides, carbides, MXenes, phosphates."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from fairchem_hdgnn.data.surfaces.bonding import Components, Mask, components, formula_of, hanging, occurs
from fairchem_hdgnn.data.surfaces.slab import REACH, Structure, above

BURIED_ANGLE = 65.0
"""Degrees: a buried atom has metals within this of the normal, above and below. In the octahedra of rock salt and of
MXenes they are at 55 to 60. At the foot of a step there are none above."""

LATTICE_SHARE = 0.1
"""Buried atoms of an element, per metal atom, from which on it belongs to the lattice."""

TERMINATION_SHARE = 0.5
"""Atoms on each side, per metal atom of the outer layer, that terminate a slab such as an MXene."""

DANGLING_SHARE = 0.3
"""Atoms of the lattice's elements with one metal contact or none, per metal atom of the outer layer: from which on the
slab may have been cut through its bonds."""

SINGLE_BOND = 1.1
"""Sums of covalent radii: an atom bonded so to one of its element below stands on the lattice."""

LAYER_BOND = 1.15
"""Sums of covalent radii, up to which metal atoms at one height are a layer."""

ALONE = 1.0
"""Å, by which a metal atom alone on a slab lies above all other metals."""

LAYER = 0.7
"""Å, thickness of the outer layer of metals."""


@dataclass(frozen=True)
class Lattice:
    """Non-metals of the lattice.

    Attributes:
        structure: the structure.
        molecules: components of the bonds between non-metals.
        adatoms: single metal atoms above all others.
        buried: non-metal atoms between metals.
        side: of each atom, 1 for the upper half and -1 for the lower.
        contacts: how many metal atoms each atom touches.
    """

    structure: Structure
    molecules: Components
    adatoms: Mask
    buried: Mask
    side: Int64[np.ndarray, "atoms"]
    contacts: Int64[np.ndarray, "atoms"]

    @classmethod
    def of(cls, structure: Structure, molecules: Components) -> Lattice:
        """Classify the surroundings of each non-metal."""
        metal, layout = structure.metal, structure.layout
        number = len(metal)
        touching = structure.bonds.where(metal[structure.bonds.second])
        contacts = np.bincount(touching.first, minlength=number)
        adatoms = adatoms_of(structure, (molecules.rank_of_atom >= 2) & ~metal)
        body = metal & ~adatoms
        near = structure.near.where(~metal[structure.near.first] & body[structure.near.second])
        near = near.where(np.linalg.norm(near.vector, axis=1) < REACH)
        buried = ~metal
        for up in (layout.normal, -layout.normal):
            buried &= occurs(near.first[above(near, up, BURIED_ANGLE, number)], number)
        middle = (layout.height[metal].min() + layout.height[metal].max()) / 2
        side = np.where(layout.height > middle, 1, -1)
        return cls(structure, molecules, adatoms, buried, side, contacts)

    def members(self, candidates: Mask) -> tuple[Mask, list[str]]:
        """Which of the candidates belong to the lattice, and reasons for doubt."""
        numbers, metal = self.structure.atoms.numbers, self.structure.metal
        enough = LATTICE_SHARE * metal.sum()
        whole = self._whole_molecules(candidates, enough)
        rest = candidates & ~whole
        elements = {int(n) for n, count in Counter(numbers[self.buried].tolist()).items() if count >= enough}
        terminating = self._terminations(rest)
        elements |= set(numbers[terminating & (numbers != 1)].tolist())
        kept, doubts = whole | terminating, []
        for element in sorted(elements):
            atoms = rest & (numbers == element) & ~terminating
            if not atoms.any():
                continue
            mask, doubt = self._of_element(atoms, rest & ~np.isin(numbers, [1, *elements]))
            kept |= mask
            doubts += doubt
        return kept, doubts

    def _whole_molecules(self, candidates: Mask, enough: float) -> Mask:
        """Molecules such as PO4 that also occur inside the slab."""
        numbers, mask = self.structure.atoms.numbers, np.zeros_like(candidates)
        groups = [atoms for atoms in self.molecules.members() if len(atoms) > 1 and candidates[atoms].all()]
        buried: Counter[str] = Counter()
        for atoms in groups:
            if self.buried[atoms].mean() >= 0.5:
                buried[formula_of(numbers[atoms])] += 1
        for atoms in groups:
            heavy = atoms[numbers[atoms] != 1]
            if self.contacts[atoms].sum() < 3:
                continue
            if buried[formula_of(numbers[atoms])] >= enough:
                mask[atoms] = True
            elif len(heavy) > 1 and buried[formula_of(numbers[heavy])] >= enough:
                mask[heavy] = True
        return mask

    def _terminations(self, candidates: Mask) -> Mask:
        """Single atoms, and OH with its H, that cover the outer metals of both sides alike."""
        numbers, mask = self.structure.atoms.numbers, np.zeros_like(candidates)
        heavy = {1: mask.copy(), -1: mask.copy()}
        light = {1: mask.copy(), -1: mask.copy()}
        for atoms in self.molecules.members():
            heads = atoms[numbers[atoms] != 1]
            if len(heads) == 1 and candidates[atoms].all() and self.contacts[heads[0]] >= 2:
                side = int(self.side[heads[0]])
                heavy[side][heads] = not self.buried[heads[0]]
                light[side][np.setdiff1d(atoms, heads)] = True
        alike = set(numbers[heavy[1]].tolist()) & set(numbers[heavy[-1]].tolist())
        for side in heavy:
            heavy[side] &= np.isin(numbers, list(alike))
        enough = [TERMINATION_SHARE * self._outer_metals(side) for side in (1, -1)]
        if heavy[1].sum() < enough[0] or heavy[-1].sum() < enough[1]:
            return mask
        mask = heavy[1] | heavy[-1]
        if light[1].sum() >= heavy[1].sum() / 2 and light[-1].sum() >= heavy[-1].sum() / 2:
            mask |= light[1] | light[-1]
        return mask

    def _outer_metals(self, side: int) -> int:
        """How many metal atoms the outer layer of a side has."""
        height = side * self.structure.layout.height[self.structure.metal & ~self.adatoms]
        return int((height > height.max() - LAYER).sum())

    def _of_element(self, atoms: Mask, foreign: Mask) -> tuple[Mask, list[str]]:
        """Atoms of one of the lattice's elements that belong to it.

        Args:
            atoms: all candidates of the element.
            foreign: candidates other than H whose element does not occur in the lattice.
        """
        bonds = self.structure.bonds.among(~self.structure.metal)
        number = len(atoms)
        with_foreign = occurs(bonds.first[foreign[bonds.second]], number)
        same = self.structure.atoms.numbers == self.structure.atoms.numbers[atoms][0]
        own = bonds.among(same)
        inside = same & self.buried
        usual = int(np.median(self.contacts[inside])) if inside.any() else 3
        needed = np.where(with_foreign, max(3, usual // 2 + 1), 3)
        with_own = occurs(own.first, number)
        net = (components(number, own).rank_of_atom > 0) & ~hanging(number, own)
        if inside.any() and with_own[inside].mean() > 0.5:
            with_own[:] = False
        outwards = self.side[own.first] * (own.vector @ self.structure.layout.normal)
        on_own = occurs(own.first[(outwards < -0.5) & (own.ratio < SINGLE_BOND)], number)
        on_own &= with_own & (self.contacts < usual)
        lattice = atoms & (net | ((self.contacts >= needed) & ~on_own))
        doubts: list[str] = []
        for atom in np.flatnonzero(atoms & ~lattice):
            # An atom bound to others of its element (O2, OOH) is not a lattice site.
            if self.contacts[atom] < 1 or with_own[atom]:
                continue
            opposite = atoms & (self.side == -self.side[atom]) & ~with_own & (self.contacts == self.contacts[atom])
            known = (opposite | (inside & (self.contacts <= self.contacts[atom]))).any()
            if self.contacts[atom] == 1:
                beside = atoms & (self.side == self.side[atom]) & (self.contacts == 1)
                if opposite.any() and opposite.sum() >= beside.sum():
                    lattice[atom] = True
                    doubts.append("atoms with one metal contact on both sides, taken as slab")
                continue
            if with_foreign[atom] and not known:
                continue
            lattice[atom] = True
            if not known:
                doubts.append("atoms of the lattice's elements between two metals, taken as slab")
        alone = atoms & ~lattice & ~occurs(bonds.first, number)
        for side in (1, -1):
            dangling = alone & (self.contacts <= 1) & (self.side == side)
            if dangling.sum() >= DANGLING_SHARE * self._outer_metals(side):
                doubts.append("a layer of one of the lattice's elements, taken as adsorbate")
        return lattice, doubts


def adatoms_of(structure: Structure, sheets: Mask) -> Mask:
    """Single metal atoms on either side: the metals that they touch and the rest of the slab lie 1 Å or more below."""
    metal, height = structure.metal, structure.layout.height
    bonds = structure.bonds.where(metal[structure.bonds.first])
    rise = bonds.vector @ structure.layout.normal
    mask = np.zeros_like(metal)
    for side in (1, -1):
        # Adatoms as large as K are close to each other without forming a layer.
        beside = (side * rise > -ALONE) & (metal | sheets)[bonds.second] & (bonds.ratio < LAYER_BOND)
        in_plane = np.bincount(bonds.first[(np.abs(rise) < ALONE) & ~metal[bonds.second]], minlength=len(metal))
        alone = metal & ~occurs(bonds.first[beside], len(metal)) & (in_plane < 3)
        rest = (metal & ~alone) | sheets
        if not rest.any():
            continue
        top = (side * height[rest]).max()
        alone &= side * height > top + ALONE
        # As many atoms as in the layer below: a layer of an open lattice.
        if alone.sum() < 0.7 * (side * height[rest] > top - LAYER).sum():
            mask |= alone
    return mask
