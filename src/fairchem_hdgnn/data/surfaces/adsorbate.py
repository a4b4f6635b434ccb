"""Find the adsorbate of a slab: the atoms that do not belong to the lattice by their bonds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fairchem_hdgnn.data.surfaces.bonding import Components, Mask, components
from fairchem_hdgnn.data.surfaces.lattice import Lattice
from fairchem_hdgnn.data.surfaces.sheets import groups_on_sheets
from fairchem_hdgnn.data.surfaces.slab import Structure

APART = 4.5
"""Å between the metal atoms of a framework, which only its molecules hold together."""

APART_RATIO = 1.5
"""The same in sums of covalent radii."""


@dataclass(frozen=True)
class Found:
    """The adsorbate, and reasons for doubt."""

    mask: Mask
    doubts: tuple[str, ...]


def find_adsorbate(structure: Structure) -> Found:
    """The adsorbate of a slab, or the molecules on a cluster.

    - Non-metals whose bonds form a periodic component (graphene, C3N4, silica) are slab, except for groups bound to
      it.
    - Other non-metals are adsorbate, unless their element or molecule (PO4) also occurs between the slab's metals or
      terminates both sides alike. Atoms of such an element that touch two or more metal atoms are lattice.
    - Metals are slab.
    """
    numbers, metal = structure.atoms.numbers, structure.metal
    molecules = components(len(numbers), structure.bonds.among(~metal))
    if not metal.any():
        return Found(*groups_on_sheets(structure, molecules, np.ones_like(metal)))
    lattice = Lattice.of(structure, molecules)
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
    """All atoms of molecules that contain one of the given atoms."""
    return np.isin(molecules.label, molecules.label[atoms])


def _linkers(structure: Structure, molecules: Components) -> Mask:
    """Molecules that connect separate metal atoms into a periodic net, as in a two-dimensional framework."""
    metal, mask = structure.metal, np.zeros(len(structure.metal), dtype=bool)
    between = structure.near.among(metal)
    if ((np.linalg.norm(between.vector, axis=1) < APART) | (between.ratio < APART_RATIO)).any():
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
