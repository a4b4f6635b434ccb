"""Measure a user's own structures: what determines the config that ``fairchem-hdgnn recipe`` writes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64
from torch_geometric.data import Batch, Data

from fairchem_hdgnn.checks.records import require_structure, sample
from fairchem_hdgnn.checks.targets import labelled_records
from fairchem_hdgnn.data.compositions import compositions, fit_compositions
from fairchem_hdgnn.data.neighbor_lists import Search, periodic_edges
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.data.statistics import Spread
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.host.noisy_nodes import TARGET, add_displacement

FORCES = ("forces", "force")
"""Attributes of records with forces, eV/Å: those of make-lmdb and of OC20."""

SAMPLE = 50
"""Structures sampled to count neighbours, and to see what the validation records have."""

SMALLEST_DISPLACEMENT = 0.01
"""Å; if no atom moves further, there is no displacement to learn."""

NUM_ELEMENTS = 119
"""Length of a table by atomic number, as fairchem's."""


@dataclass(frozen=True)
class OwnData:
    """Training structures as a recipe sees them.

    Attributes:
        source: LMDB file or folder.
        label: attribute of the records to learn.
        energies: its values.
        numbers: atomic numbers [atoms] of each structure.
        has_cells: whether any structure has a cell.
        forces_key: attribute with forces that every record has; empty if there is none.
        force_scale: root mean square of the components of the forces on free atoms, eV/Å; 0 without forces.
    """

    source: Path
    label: str
    energies: Float64[np.ndarray, "systems"]
    numbers: list[Int64[np.ndarray, "_"]]
    has_cells: bool
    forces_key: str
    force_scale: float

    @property
    def atoms(self) -> float:
        """Mean atoms per structure."""
        return sum(map(len, self.numbers)) / len(self.numbers)

    @cached_property
    def labels(self) -> Spread:
        """Distribution of the label."""
        return Spread.of(self.energies.tolist())

    @cached_property
    def element_energies(self) -> Float64[np.ndarray, "elements"]:
        """Energy per atom of each element that fits the labels best, eV, by atomic number; 0 for other elements.

        Rounded to float32, as fairchem subtracts it.
        """
        elements, counts = compositions(self.numbers)
        table = np.zeros(NUM_ELEMENTS)
        table[elements] = fit_compositions(counts, self.energies).astype(np.float32)
        return table

    @property
    def residuals(self) -> Spread:
        """Distribution of the label minus the sum of ``element_energies``."""
        references = np.array([self.element_energies[numbers].sum() for numbers in self.numbers])
        return Spread.of((self.energies - references).tolist())

    @property
    def rounding(self) -> float:
        """Spacing of float32 numbers, which fairchem keeps labels in, at the largest label, eV."""
        return float(np.spacing(np.float32(np.abs(self.energies).max())))


def repeated(data: OwnData, records: Collection[Data]) -> int:
    """How many of some labelled records have the elements and the label of a training structure."""
    known = {(numbers.tobytes(), energy) for numbers, energy in zip(data.numbers, data.energies.tolist())}
    found = ((record.atomic_numbers.long().numpy().tobytes(), float(record[data.label])) for record in records)
    return sum(each in known for each in found)


def measure(source: Path, label: str | None = None) -> OwnData:
    """Read all training records once.

    Args:
        source: LMDB file or folder.
        label: attribute of the records to learn; by default the first of ``LABELS`` that they have.

    Raises:
        DataError: no records, a record lacks the label or a part of its structure, or a label or a force is not finite.
    """
    name, energies, numbers = "", [], []
    keys, squares, components = list(FORCES), 0.0, 0
    has_cells, molecule = False, None
    for index, (record, found, energy) in enumerate(labelled_records(source, label)):
        name = found
        without_cell = are_molecules([record])
        require_structure(f"{source}, record {index}", record, use_pbc=not without_cell)
        has_cells |= not without_cell
        if without_cell and molecule is None:
            molecule = index, record
        energies.append(energy)
        numbers.append(record.atomic_numbers.long().numpy())
        keys = [key for key in keys if key in record]
        if keys:
            forces = _free_forces(record, keys[0], f"{source}, record {index}")
            squares, components = squares + float((forces**2).sum()), components + forces.size
    if has_cells and molecule is not None:
        # Among periodic structures, it has to say that it is not periodic.
        require_structure(f"{source}, record {molecule[0]}", molecule[1], use_pbc=True)
    scale = (squares / max(components, 1)) ** 0.5 if keys else 0.0
    return OwnData(source, name, np.array(energies), numbers, has_cells, keys[0] if keys else "", scale)


def _free_forces(record: Data, key: str, subject: str) -> Float64[np.ndarray, "atoms 3"]:
    forces = record[key].double().numpy()
    if forces.shape != (len(record.pos), 3) or not np.isfinite(forces).all():
        raise DataError(f"{subject}: {key} are not three finite numbers (eV/Å) for each atom; re-create the LMDB")
    return forces[record.fixed.numpy() == 0] if "fixed" in record else forces


def sampled(source: Path) -> dict[int, Data]:
    """A sample of the records by index, the same in each call."""
    records = Records(source)
    return {index: records[index] for index in sample(len(records), SAMPLE)}


def are_molecules(records: Collection[Data]) -> bool:
    """Whether no record has a cell."""
    return not any("cell" in record and record.cell.any() for record in records)


def has_displacements(records: Collection[Data]) -> bool:
    """Whether records have relaxed positions that differ from the initial ones."""
    if not all("pos_relaxed" in record and "tags" in record and "fixed" in record for record in records):
        return False
    return any(float(add_displacement(record)[TARGET].abs().max()) > SMALLEST_DISPLACEMENT for record in records)


def mean_neighbors(records: Collection[Data], search: Search, *, use_pbc: bool) -> float:
    """Mean edges per atom of structures that are periodic or not."""
    batches = [Batch.from_data_list([record]) for record in records]
    edges = sum(periodic_edges(batch, search, use_pbc=use_pbc).edge_index.shape[1] for batch in batches)
    return edges / sum(len(record.pos) for record in records)
