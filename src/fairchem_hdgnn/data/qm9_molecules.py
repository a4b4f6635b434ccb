"""All molecules of QM9 in a few flat arrays, the common form of all sources from which records are made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from fairchem_hdgnn.data.qm9_targets import ELEMENTS, TARGETS
from fairchem_hdgnn.errors import DataError

NUM_CHARACTERISED = 130_831
"""Molecules of QM9 that pass the authors' consistency check."""

NUM_UNCHARACTERISED = 3_054
"""Molecules that fail the check; every benchmark leaves them out."""

LABEL_DIGEST = "8542c72ead9ce7e9358fff9433caacd91f9fed207d6fbe109cdb5f60ba05a8d3"
"""Digest of indices, elements and properties of the complete set; the same from each source."""


@dataclass(frozen=True)
class SourceMolecule:
    """One molecule from a source.

    Attributes:
        index: Number of the molecule in GDB-9, from 1.
        symbols: Element symbol of each atom.
        positions: [num_atoms, 3], Å.
        properties: The twelve targets in the order of ``TARGETS``, in the source's units.
    """

    index: int
    symbols: list[str]
    positions: np.ndarray
    properties: list[float]


@dataclass(frozen=True)
class Molecules:
    """Molecules sorted by index; atoms of all molecules are concatenated.

    Attributes:
        index: Number in GDB-9, from 1.
        offsets: Atoms of molecule k are rows ``offsets[k]:offsets[k + 1]``.
        numbers: Atomic number of each atom.
        positions: Å.
        properties: The twelve targets in the order of ``TARGETS``, in the source's units.
    """

    index: Int64[np.ndarray, "molecules"]
    offsets: Int64[np.ndarray, "molecules+1"]
    numbers: UInt8[np.ndarray, "atoms"]
    positions: Float64[np.ndarray, "atoms 3"]
    properties: Float64[np.ndarray, "molecules targets"]

    def __len__(self) -> int:
        """Number of molecules."""
        return len(self.index)

    @property
    def num_atoms(self) -> Int64[np.ndarray, "molecules"]:
        """Number of atoms of each molecule."""
        return np.diff(self.offsets)

    def atoms(self, k: int) -> slice:
        """Rows of ``numbers`` and ``positions`` that belong to molecule ``k``."""
        return slice(int(self.offsets[k]), int(self.offsets[k + 1]))

    def targets(self) -> Float64[np.ndarray, "molecules targets"]:
        """The targets in stored units, atom references subtracted where the target has them."""
        counts = np.stack(
            [
                np.add.reduceat(self.numbers == number, self.offsets[:-1], dtype=np.int64)
                for number in ELEMENTS.values()
            ],
            axis=1,
        )
        values = self.properties.copy()
        for column, target in enumerate(TARGETS.values()):
            if target.atom_reference is not None:
                values[:, column] -= counts @ np.array(list(target.atom_reference.values()))
            values[:, column] *= target.factor
        return values

    def label_digest(self) -> str:
        """SHA-256 of everything but the positions, which one source gives with fewer digits."""
        digest = hashlib.sha256()
        for array in (self.index, self.offsets, self.numbers, self.properties):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def save(self, path: Path, splits: Mapping[str, np.ndarray]) -> None:
        """Write an ``.npz``: the arrays, ``targets`` in stored units with their names and units, rows of each split."""
        with path.open("wb") as file:
            np.savez(
                file,
                **vars(self),
                targets=self.targets(),
                target_names=np.array(list(TARGETS)),
                target_units=np.array([target.unit for target in TARGETS.values()]),
                **splits,  # type: ignore[arg-type]
            )

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Molecules:
        """The molecules of a file that ``save`` wrote, from its arrays.

        Raises:
            DataError: an array is missing.
        """
        if missing := [name for name in cls.__dataclass_fields__ if name not in arrays]:
            raise DataError(f"the file has no '{missing[0]}'; re-create it with prepare-qm9")
        return cls(**{name: arrays[name] for name in cls.__dataclass_fields__})


def collect(source: Iterable[SourceMolecule]) -> Molecules:
    """Gather molecules, sort them by index and check that each is there once and complete.

    Raises:
        DataError: an index occurs twice, an element is not one of QM9's, or a number is not finite.
    """
    numbers, positions, properties, index, sizes = [], [], [], [], []
    for molecule in source:
        try:
            numbers.append(np.array([ELEMENTS[symbol] for symbol in molecule.symbols], dtype=np.uint8))
        except KeyError as error:
            raise DataError(
                f"molecule {molecule.index}: element {error} does not occur in QM9 (H, C, N, O, F)"
            ) from None
        if molecule.positions.shape != (len(molecule.symbols), 3):
            raise DataError(
                f"molecule {molecule.index}: {len(molecule.symbols)} elements but positions of shape "
                f"{molecule.positions.shape}; the source is damaged, download it again"
            )
        index.append(molecule.index)
        sizes.append(len(molecule.symbols))
        positions.append(molecule.positions)
        properties.append(molecule.properties)
    if not index:
        raise DataError("the source contains no molecules; give the archive or folder with dsgdb9nsd_*.xyz")

    order = np.argsort(index, kind="stable")
    sorted_index = np.array(index, dtype=np.int64)[order]
    repeated = sorted_index[1:][sorted_index[1:] == sorted_index[:-1]]
    if len(repeated):
        raise DataError(f"molecule {repeated[0]} occurs twice in the source; remove the copy")
    molecules = Molecules(
        index=sorted_index,
        offsets=np.concatenate([[0], np.cumsum(np.array(sizes, dtype=np.int64)[order])]),
        numbers=np.concatenate([numbers[k] for k in order]),
        positions=np.concatenate([positions[k] for k in order]),
        properties=np.array(properties, dtype=np.float64)[order],
    )
    bad = ~np.isfinite(molecules.properties).all(axis=1)
    bad |= np.logical_or.reduceat(~np.isfinite(molecules.positions).all(axis=1), molecules.offsets[:-1])
    if bad.any():
        raise DataError(f"molecule {molecules.index[bad][0]}: a value is not finite; the source is damaged")
    return molecules
