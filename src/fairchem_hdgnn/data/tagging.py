"""OC20's tags (0 subsurface, 1 surface, 2 adsorbate) and fixed atoms: kept where structures have them, else derived."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, constrained_indices
from jaxtyping import Bool, Float64, Int64

from fairchem_hdgnn.errors import DataError

SUBSURFACE, SURFACE, ADSORBATE = 0, 1, 2

ADSORBATE_ELEMENTS = ("H", "C", "N", "O")
"""Elements of OC20's adsorbates."""

Tags = Int64[np.ndarray, "atoms"]


def oc20_tags(atoms: Atoms, adsorbate_elements: Collection[str] = ADSORBATE_ELEMENTS) -> tuple[Tags, str]:
    """Tags of a structure, and one phrase on where they come from.

    - A molecule (no cell) is all adsorbate.
    - Tags 0, 1, 2 in OC20's sense are kept.
    - Tags as ``ase.build`` sets them (adsorbate 0, layers 1, 2, ... from the top) are translated.
    - Without tags, atoms of ``adsorbate_elements`` are the adsorbate; of the others the fixed ones are subsurface, or,
      if none is fixed, those in the lower half of the slab.

    Raises:
        DataError: the tags are neither OC20's nor ASE's, or there is no slab under the adsorbate.
    """
    tags = np.asarray(atoms.get_tags(), dtype=np.int64)
    if atoms.cell.rank == 0:
        return np.full(len(atoms), ADSORBATE), "molecules, all atoms tag 2"
    if tags.any():
        if _are_layers(tags, heights(atoms)):
            return np.select([tags == 0, tags == 1], [ADSORBATE, SURFACE], SUBSURFACE), "from ASE's layer numbers"
        if not set(tags.tolist()) <= {SUBSURFACE, SURFACE, ADSORBATE}:
            raise DataError(
                f"its tags {sorted(set(tags.tolist()))} are neither OC20's (0 subsurface, 1 surface, 2 adsorbate) nor "
                "ASE's layers (0 adsorbate, then 1, 2, ... downwards); set them with atoms.set_tags"
            )
        return tags, "kept"
    adsorbate = np.isin(atoms.get_chemical_symbols(), list(adsorbate_elements))
    if adsorbate.all():
        raise DataError(
            f"it has a cell and no tags, and all its atoms are {', '.join(adsorbate_elements)}: name the elements of "
            "the adsorbate (--adsorbate-elements), or set tags with atoms.set_tags"
        )
    fixed = fixed_atoms(atoms)
    below = fixed if fixed.any() else _lower_half(heights(atoms), ~adsorbate)
    how = "fixed atoms subsurface" if fixed.any() else "lower half subsurface"
    tags = np.select([adsorbate, below], [ADSORBATE, SUBSURFACE], SURFACE)
    return tags, f"derived: {', '.join(adsorbate_elements)} adsorbate, {how}"


def oc20_fixed(atoms: Atoms, tags: Tags) -> tuple[Bool[np.ndarray, "atoms"], str]:
    """Which atoms are fixed, and where that comes from: ``FixAtoms``, else OC20's rule that subsurface atoms are."""
    fixed = fixed_atoms(atoms)
    if fixed.any():
        return fixed, "kept"
    if atoms.cell.rank == 0 or not (tags == SUBSURFACE).any() or (tags == SUBSURFACE).all():
        return fixed, "none"
    return tags == SUBSURFACE, "derived: subsurface atoms"


def fixed_atoms(atoms: Atoms) -> Bool[np.ndarray, "atoms"]:
    """Atoms under a ``FixAtoms`` constraint."""
    fixed = np.zeros(len(atoms), dtype=bool)
    # Without a constraint ASE gives an empty array of floats.
    fixed[constrained_indices(atoms, FixAtoms).astype(int)] = True
    return fixed


def heights(atoms: Atoms) -> Float64[np.ndarray, "atoms"]:
    """Positions along the normal of the first two cell vectors, on the side of the third, Å.

    Where the third is periodic, atoms that lie on both sides of a cell boundary are brought together: the widest gap
    between layers is the vacuum.
    """
    normal = np.cross(atoms.cell[0], atoms.cell[1])
    if normal @ atoms.cell[2] < 0:
        normal = -normal
    normal = normal / np.linalg.norm(normal)
    height, period = atoms.positions @ normal, float(atoms.cell[2] @ normal)
    if not atoms.pbc[2] or period < 1e-6:
        return height
    height %= period
    levels = np.sort(height)
    gaps = np.diff(levels, append=levels[0] + period)
    lowest = levels[(gaps.argmax() + 1) % len(levels)]
    return np.where(height < lowest, height + period, height)


def _are_layers(tags: Tags, height: Float64[np.ndarray, "atoms"]) -> bool:
    """Whether the tags number layers from the top, with 0 for what lies on them."""
    layers = sorted(set(tags.tolist()) - {0})
    if layers != list(range(1, len(layers) + 1)):
        return False
    downwards = [height[tags == layer].mean() for layer in ([0, *layers] if (tags == 0).any() else layers)]
    return len(downwards) > 1 and bool((np.diff(downwards) < 0).all())


def _lower_half(height: Float64[np.ndarray, "atoms"], slab: Bool[np.ndarray, "atoms"]) -> Bool[np.ndarray, "atoms"]:
    # A layer in the middle belongs to the upper half, whatever its rounding.
    return slab & (height < (height[slab].min() + height[slab].max()) / 2 - 0.1)
