"""Structures for the page's drawings: whole molecules in the middle of the cell, initial and relaxed side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from ase.symbols import Symbols
from jaxtyping import Bool, Float64, Int64
from torch_geometric.data import Data

from fairchem_hdgnn.data.periodicity import periodic_directions
from fairchem_hdgnn.data.records import displacement
from fairchem_hdgnn.data.surfaces.bonding import bonded, metals, near_pairs
from fairchem_hdgnn.data.surfaces.slab import VACUUM, widest_gaps
from fairchem_hdgnn.data.surfaces.tagging import ADSORBATE

LONGEST_BOND = 3.5
"""Å."""

Positions = Float64[np.ndarray, "atoms 3"]


@dataclass(frozen=True)
class Drawing:
    """One system.

    Attributes:
        atoms: initial structure, moved by a lattice vector and a translation, tags included.
        relaxed: relaxed positions, Å, on the near side of periodic boundaries; ``None`` where they are not known.
    """

    atoms: Atoms
    relaxed: Positions | None

    def as_json(self) -> dict[str, Any]:
        """Data for the page's script; lengths in Å, with three decimals."""
        found = {
            "symbols": self.atoms.get_chemical_symbols(),
            "tags": self.atoms.get_tags().tolist(),
            "cell": np.round(self.atoms.cell.array, 3).tolist() if self.atoms.pbc.any() else None,
            "initial": self._geometry(self.atoms.positions),
        }
        if self.relaxed is not None:
            length = np.linalg.norm(self.relaxed - self.atoms.positions, axis=1)
            found["relaxed"] = self._geometry(self.relaxed)
            found["moved"] = {"atom": int(length.argmax()), "length": round(float(length.max()), 3)}
        return found

    def _geometry(self, positions: Positions) -> dict[str, Any]:
        return {
            "positions": np.round(positions, 3).tolist(),
            "bonds": drawn_bonds(self.atoms, positions).tolist(),
        }


def drawing(record: Data) -> Drawing:
    """A record of OC20's kind, with the adsorbate in the middle and the edge of the cell in the vacuum."""
    pos = record.pos.double().numpy()
    tags = record.tags.numpy() if "tags" in record else np.zeros(len(pos), dtype=np.int64)
    # A molecule's record has a cell of zeros.
    periodic = (periodic_directions(record)[0] & record.cell[0].any(dim=1)).numpy()
    numbers = record.atomic_numbers.long().numpy()
    atoms = Atoms(numbers, pos, cell=record.cell[0].double().numpy(), pbc=periodic, tags=tags)
    moved = displacement(atoms, record.pos_relaxed.numpy()) if "pos_relaxed" in record else None
    atoms.positions = _centred(atoms)
    return Drawing(atoms, None if moved is None else atoms.positions + moved)


def drawn_bonds(atoms: Atoms, positions: Positions) -> Int64[np.ndarray, "bonds 2"]:
    """Pairs of bonded atoms inside the cell: bonds of the adsorbate, or all bonds if no atom is tagged as adsorbate."""
    inside = Atoms(atoms.numbers, positions)
    bonds = bonded(near_pairs(inside, LONGEST_BOND), metals(inside))
    adsorbate = atoms.get_tags() == ADSORBATE
    shown = adsorbate | ~adsorbate.any()
    kept = (bonds.first < bonds.second) & (shown[bonds.first] | shown[bonds.second])
    return np.stack([bonds.first[kept], bonds.second[kept]], axis=1)


def element_styles(drawings: list[Drawing]) -> dict[str, dict[str, Any]]:
    """Jmol's colour and the covalent radius, Å, of every element that occurs."""
    numbers = sorted({int(number) for each in drawings for number in each.atoms.numbers})
    return {
        str(Symbols([number])): {
            "colour": "#" + "".join(f"{round(255 * part):02x}" for part in jmol_colors[number]),
            "radius": round(float(covalent_radii[number]), 3),
        }
        for number in numbers
    }


def _centred(atoms: Atoms) -> Positions:
    """Positions, Å: along each periodic direction, the vacuum is at the cell's edge or the adsorbate in the middle."""
    if not atoms.pbc.any():
        return atoms.positions
    cell = atoms.cell.complete()
    place = cell.scaled_positions(atoms.positions)
    adsorbate = atoms.get_tags() == ADSORBATE
    heights = 1 / np.linalg.norm(cell.reciprocal().array, axis=1)
    gaps = widest_gaps(Atoms(atoms.numbers, atoms.positions, cell=cell, pbc=atoms.pbc))
    for axis in np.flatnonzero(atoms.pbc):
        gap, above = gaps[axis]
        if gap > VACUUM or not adsorbate.any():
            shift = -(above - gap / 2) / heights[axis]
        else:
            shift = 0.5 - _circular_mean(place[:, axis], adsorbate)
        place[:, axis] = (place[:, axis] + shift) % 1.0
    return cell.cartesian_positions(place)


def _circular_mean(place: Float64[np.ndarray, "atoms"], among: Bool[np.ndarray, "atoms"]) -> float:
    """Mean of some fractional coordinates, where 0 and 1 are equivalent."""
    turns = np.exp(2j * np.pi * place[among]).mean()
    return float(np.angle(turns) / (2 * np.pi))
