"""Bonds of a periodic structure, its connected components, and in how many directions each of them is periodic."""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.data import covalent_radii
from ase.symbols import Symbols
from jaxtyping import Bool, Float64, Int64
from torch_geometric.data import Data

from fairchem_hdgnn.data.neighbor_lists import Search, periodic_edges

NON_METALS = (1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 34, 35, 36, 53, 54, 86)
"""Atomic numbers of H, B, C, N, O, F, Si, P, S, Cl, Se, Br, I and noble gases. Ge, As, Sb, Te count as metals."""

BOND = 1.25
"""Longest bond between non-metals, in sums of covalent radii."""

CONTACT = 1.3
"""Longest contact of a metal, in sums of covalent radii."""


Mask = Bool[np.ndarray, "atoms"]


@dataclass(frozen=True)
class Pairs:
    """Pairs of atoms, each in both directions.

    Attributes:
        first: index of one atom.
        second: index of the other.
        shift: cell vectors between the image of the first and that of the second.
        vector: from the first to the second, Å.
        ratio: distance divided by the sum of covalent radii.
    """

    first: Int64[np.ndarray, "pairs"]
    second: Int64[np.ndarray, "pairs"]
    shift: Int64[np.ndarray, "pairs 3"]
    vector: Float64[np.ndarray, "pairs 3"]
    ratio: Float64[np.ndarray, "pairs"]

    def where(self, mask: Bool[np.ndarray, "pairs"]) -> Pairs:
        """A subset of the pairs."""
        return Pairs(self.first[mask], self.second[mask], self.shift[mask], self.vector[mask], self.ratio[mask])

    def among(self, atoms: Mask) -> Pairs:
        """The pairs between two of the given atoms."""
        return self.where(atoms[self.first] & atoms[self.second])


def occurs(indices: Int64[np.ndarray, "some"], number: int) -> Mask:
    """Which of ``number`` atoms are among the indices."""
    mask = np.zeros(number, dtype=bool)
    mask[indices] = True
    return mask


def formula_of(numbers: Int64[np.ndarray, "some"]) -> str:
    """Chemical formula of a group of atoms, from their atomic numbers."""
    return Symbols(numbers).get_chemical_formula()


def metals(atoms: Atoms) -> Mask:
    """Which atoms are metals; see :data:`NON_METALS`."""
    return ~np.isin(atoms.numbers, NON_METALS)


def near_pairs(atoms: Atoms, cutoff: float) -> Pairs:
    """All pairs up to ``cutoff`` Å."""
    structure = Data(
        pos=torch.from_numpy(atoms.positions),
        cell=torch.from_numpy(atoms.cell.array)[None],
        pbc=torch.from_numpy(atoms.pbc),
        natoms=torch.tensor([len(atoms)]),
        batch=torch.zeros(len(atoms), dtype=torch.long),
    )
    edges = periodic_edges(structure, Search(cutoff, sys.maxsize))
    second, first = edges.edge_index.numpy()
    vector, radii = edges.edge_vec.numpy(), covalent_radii[atoms.numbers]
    ratio = np.linalg.norm(vector, axis=1) / (radii[first] + radii[second])
    return Pairs(first, second, edges.cell_offsets.numpy(), vector, ratio)


def bonded(pairs: Pairs, metal: Mask) -> Pairs:
    """Bonds of non-metals and contacts of metals."""
    either = metal[pairs.first] | metal[pairs.second]
    return pairs.where(pairs.ratio < np.where(either, CONTACT, BOND))


@dataclass(frozen=True)
class Components:
    """Connected components.

    Attributes:
        label: component of each atom.
        rank: of each component: in how many directions it is periodic, 0 for a molecule, 2 for a sheet.
    """

    label: Int64[np.ndarray, "atoms"]
    rank: Int64[np.ndarray, "components"]

    @property
    def rank_of_atom(self) -> Int64[np.ndarray, "atoms"]:
        """Rank of each atom's component."""
        return self.rank[self.label]

    def members(self) -> list[np.ndarray]:
        """Indices of the atoms of each component."""
        order = np.argsort(self.label, kind="stable")
        return np.split(order, np.cumsum(np.bincount(self.label, minlength=len(self.rank)))[:-1])


def components(number: int, bonds: Pairs) -> Components:
    """Connected components of ``number`` atoms; an atom without bonds is a separate component.

    A walk along the bonds assigns each atom the image in which it is first reached. A bond that leads to another image
    closes a ring through the cell boundary; the rank is that of all such shifts.
    """
    neighbors = _neighbors(bonds)
    label, image = np.full(number, -1), np.zeros((number, 3), dtype=np.int64)
    count = 0
    for start in range(number):
        if label[start] >= 0:
            continue
        label[start], stack = count, [start]
        while stack:
            atom = stack.pop()
            for other, edge in neighbors[atom]:
                if label[other] < 0:
                    label[other], image[other] = count, image[atom] + bonds.shift[edge]
                    stack.append(other)
        count += 1
    around = image[bonds.first] + bonds.shift - image[bonds.second]
    closing, rank = around.any(axis=1), np.zeros(count, dtype=np.int64)
    for component in np.unique(label[bonds.first[closing]]):
        rank[component] = np.linalg.matrix_rank(around[closing & (label[bonds.first] == component)])
    return Components(label, rank)


def hanging(number: int, bonds: Pairs) -> Mask:
    """Atoms of finite groups that a single bond connects to a periodic component."""
    whole = components(number, bonds)
    mask = np.zeros(number, dtype=bool)
    for edge in _bridges(number, bonds):
        one, other = bonds.first[edge], bonds.second[edge]
        if mask[one] or mask[other] or whole.rank_of_atom[one] == 0:
            continue
        ends = ((bonds.first == one) & (bonds.second == other)) | ((bonds.first == other) & (bonds.second == one))
        parts = components(number, bonds.where(~ends))
        for end in (one, other):
            if parts.rank_of_atom[end] == 0:
                mask |= parts.label == parts.label[end]
    return mask


def _bridges(number: int, bonds: Pairs) -> list[int]:
    """Bonds that are part of no ring, by Tarjan's algorithm."""
    neighbors = _neighbors(bonds)
    order, low = [-1] * number, [0] * number
    found, clock = [], 0
    for root in range(number):
        if order[root] >= 0:
            continue
        order[root] = low[root] = clock
        clock += 1
        stack = [(root, -1, iter(neighbors[root]))]
        while stack:
            atom, entry, rest = stack[-1]
            step = next(rest, None)
            if step is None:
                stack.pop()
                if stack:
                    parent = stack[-1][0]
                    low[parent] = min(low[parent], low[atom])
                    if low[atom] > order[parent]:
                        found.append(entry)
            elif order[step[0]] < 0:
                order[step[0]] = low[step[0]] = clock
                clock += 1
                stack.append((step[0], step[1], iter(neighbors[step[0]])))
            elif entry < 0 or not _same_bond(bonds, entry, step[1]):
                low[atom] = min(low[atom], order[step[0]])
    return found


def _same_bond(bonds: Pairs, edge: int, back: int) -> bool:
    """Whether one is the other in the opposite direction."""
    ends = bonds.first[edge] == bonds.second[back] and bonds.second[edge] == bonds.first[back]
    return bool(ends) and not (bonds.shift[edge] + bonds.shift[back]).any()


def _neighbors(bonds: Pairs) -> dict[int, list[tuple[int, int]]]:
    """Atom -> its neighbours, each with the index of the bond."""
    neighbors: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for edge, (one, other) in enumerate(zip(bonds.first.tolist(), bonds.second.tolist())):
        neighbors[one].append((other, edge))
    return neighbors
