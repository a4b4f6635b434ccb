"""Which atoms of a slab are the adsorbate: those that its bonds do not make part of the lattice."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from ase.symbols import Symbols
from jaxtyping import Bool, Int64

from fairchem_hdgnn.data.bonding import Components, components, hanging
from fairchem_hdgnn.data.sheets import groups_on_sheets
from fairchem_hdgnn.data.slab import REACH, Structure, above

BURIED_ANGLE = 55.0
"""Degrees: a buried atom has metals within this of the normal, above and below. At the foot of a step none is above."""

LATTICE_SHARE = 0.1
"""Buried atoms of an element, per metal atom, from which on it belongs to the lattice."""

TERMINATION_SHARE = 0.5
"""Atoms on each side, per metal atom of the outer layer, that terminate a slab such as an MXene."""

ALONE = 1.0
"""Å, by which a metal atom alone on a slab lies above all other metals."""

Mask = Bool[np.ndarray, "atoms"]


@dataclass(frozen=True)
class Found:
    """The adsorbate, and why that may be wrong."""

    mask: Mask
    doubts: tuple[str, ...]


def find_adsorbate(structure: Structure) -> Found:
    """The adsorbate of a slab, or the molecules on a cluster.

    - Non-metals in periodic components of their own bonds (graphene, C3N4, silica) are slab, but for the groups on
      them.
    - Other non-metals are adsorbate, unless their element or molecule (PO4) is also found between the slab's metals,
      or terminates both sides alike. Of such an element, atoms with two or more metal contacts are lattice.
    - Metals are slab.
    """
    numbers, metal = structure.atoms.numbers, structure.metal
    molecules = components(len(numbers), structure.bonds.among(~metal))
    if not metal.any():
        return Found(*groups_on_sheets(structure, molecules, np.ones_like(metal)))
    lattice = _Lattice.of(structure, molecules)
    sheets = (molecules.rank_of_atom >= 2) & ~metal & ~_any_of(molecules, lattice.buried)
    linkers = _linkers(structure, molecules) if not sheets.any() else np.zeros_like(metal)
    adsorbate = ~metal & ~sheets & ~linkers
    doubts: list[str] = []
    if sheets.any():
        groups, on_sheets = groups_on_sheets(structure, molecules, sheets)
        adsorbate |= groups
        doubts += on_sheets
    if structure.layout.form == "slab":
        kept, doubt = lattice.members(adsorbate)
        adsorbate &= ~kept
        doubts += doubt
        if lattice.adatoms.any():
            doubts.append("metal atoms alone on top, taken as slab")
        if (adsorbate & lattice.buried).any():
            doubts.append("adsorbate atoms inside the slab")
    if adsorbate.sum() > (~adsorbate).sum():
        doubts.append("more adsorbate than slab")
    return Found(adsorbate, tuple(dict.fromkeys(doubts)))


def _any_of(molecules: Components, atoms: Mask) -> Mask:
    """All atoms of molecules that hold one of the given atoms."""
    return np.isin(molecules.label, molecules.label[atoms])


def _linkers(structure: Structure, molecules: Components) -> Mask:
    """Molecules that join metal atoms, themselves apart, into a periodic net, as in a two-dimensional framework."""
    metal, mask = structure.metal, np.zeros(len(structure.metal), dtype=bool)
    if components(len(metal), structure.bonds.among(metal)).rank_of_atom[metal].any():
        return mask
    if components(len(metal), structure.bonds).rank.max() < 2:
        return mask
    ligands = structure.bonds.where(~metal[structure.bonds.first] & metal[structure.bonds.second])
    for members in molecules.members():
        inside = np.isin(ligands.first, members)
        ends = {
            (atom, *np.round(end, 1))
            for atom, end in zip(
                ligands.second[inside].tolist(),
                structure.atoms.positions[ligands.first[inside]] + ligands.vector[inside],
            )
        }
        mask[members] = len(ends) > 1 and not metal[members].any()
    return mask


@dataclass(frozen=True)
class _Lattice:
    """Non-metals of the lattice.

    Attributes:
        structure: the structure.
        molecules: components of the bonds between non-metals.
        adatoms: metal atoms alone above all others.
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
    def of(cls, structure: Structure, molecules: Components) -> _Lattice:
        metal, layout = structure.metal, structure.layout
        number = len(metal)
        touching = structure.bonds.where(metal[structure.bonds.second])
        contacts = np.bincount(touching.first, minlength=number)
        adatoms = _adatoms(structure, (molecules.rank_of_atom >= 2) & ~metal)
        body = metal & ~adatoms
        near = structure.near.where(~metal[structure.near.first] & body[structure.near.second])
        near = near.where(np.linalg.norm(near.vector, axis=1) < REACH)
        buried = ~metal
        for up in (layout.normal, -layout.normal):
            buried &= _occurs(near.first[above(near, up, BURIED_ANGLE, number)], number)
        middle = (layout.height[metal].min() + layout.height[metal].max()) / 2
        side = np.where(layout.height > middle, 1, -1)
        return cls(structure, molecules, adatoms, buried, side, contacts)

    def members(self, candidates: Mask) -> tuple[Mask, list[str]]:
        """Which of the candidates belong to the lattice, and doubts."""
        numbers, metal = self.structure.atoms.numbers, self.structure.metal
        enough = LATTICE_SHARE * metal.sum()
        whole = self._whole_molecules(candidates, enough)
        rest = candidates & ~whole
        elements = {int(n) for n, count in Counter(numbers[self.buried & rest].tolist()).items() if count >= enough}
        terminating = self._terminations(rest)
        elements |= set(numbers[terminating & (numbers != 1)].tolist())
        kept, doubts = whole | terminating, []
        for element in elements:
            atoms = rest & (numbers == element) & ~terminating
            mask, doubt = self._of_element(atoms, rest & ~np.isin(numbers, [1, *elements]))
            kept |= mask
            doubts += doubt
        return kept, doubts

    def _whole_molecules(self, candidates: Mask, enough: float) -> Mask:
        """Molecules such as PO4 whose like is buried in the slab."""
        members = [atoms for atoms in self.molecules.members() if len(atoms) > 1 and candidates[atoms].all()]
        formulas = [Symbols(self.structure.atoms.numbers[atoms]).get_chemical_formula() for atoms in members]
        buried = Counter(formula for atoms, formula in zip(members, formulas) if self.buried[atoms].mean() >= 0.5)
        mask = np.zeros_like(candidates)
        for atoms, formula in zip(members, formulas):
            mask[atoms] = buried[formula] >= enough and self.contacts[atoms].sum() >= 3
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
        return int((height > height.max() - 0.7).sum())

    def _of_element(self, atoms: Mask, foreign: Mask) -> tuple[Mask, list[str]]:
        """Atoms of one of the lattice's elements that belong to it.

        Args:
            atoms: all candidates of the element.
            foreign: candidates other than H that are no element of the lattice.
        """
        bonds = self.structure.bonds.among(~self.structure.metal)
        number = len(atoms)
        with_foreign = _occurs(bonds.first[foreign[bonds.second]], number)
        own = bonds.among(atoms)
        inside = atoms & self.buried
        usual = int(np.median(self.contacts[inside])) if inside.any() else 3
        needed = np.where(with_foreign, max(3, usual // 2 + 1), 3)
        with_own = _occurs(own.first, number)
        net = (components(number, own).rank_of_atom > 0) & ~hanging(number, own)
        if inside.any() and with_own[inside].mean() > 0.5:
            with_own[:] = False
        lattice = atoms & (net | (self.contacts >= needed))
        doubts: list[str] = []
        for atom in np.flatnonzero(atoms & ~lattice):
            # An atom in a group with others of its element (O2, OOH) is no site of the lattice.
            if self.contacts[atom] < 1 or with_own[atom]:
                continue
            opposite = atoms & (self.side == -self.side[atom]) & ~with_own & (self.contacts == self.contacts[atom])
            known = (opposite | (inside & (self.contacts <= self.contacts[atom]))).any()
            if self.contacts[atom] == 1:
                same = atoms & (self.side == self.side[atom]) & (self.contacts == 1)
                known = bool(opposite.any()) and opposite.sum() >= same.sum()
                if known:
                    lattice[atom] = True
                    doubts.append("atoms with one metal contact on both sides, taken as slab")
                continue
            if with_foreign[atom] and not known:
                continue
            lattice[atom] = True
            if not known:
                doubts.append("atoms of the lattice's elements between two metals, taken as slab")
        return lattice, doubts


def _adatoms(structure: Structure, sheets: Mask) -> Mask:
    """Metal atoms alone on either side: all metals that they touch, and the rest of the slab, lie 1 Å below."""
    metal, height = structure.metal, structure.layout.height
    bonds = structure.bonds.where(metal[structure.bonds.first])
    rise = bonds.vector @ structure.layout.normal
    mask = np.zeros_like(metal)
    for side in (1, -1):
        beside = (side * rise > -ALONE) & (metal | sheets)[bonds.second]
        in_plane = np.bincount(bonds.first[(np.abs(rise) < ALONE) & ~metal[bonds.second]], minlength=len(metal))
        alone = metal & ~_occurs(bonds.first[beside], len(metal)) & (in_plane < 3)
        rest = (metal & ~alone) | sheets
        if rest.any():
            mask |= alone & (side * height > (side * height[rest]).max() + ALONE)
    return mask


def _occurs(indices: Int64[np.ndarray, "some"], number: int) -> Mask:
    mask = np.zeros(number, dtype=bool)
    mask[indices] = True
    return mask
