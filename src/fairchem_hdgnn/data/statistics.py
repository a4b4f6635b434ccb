"""Statistics of a set of records, collected one record at a time: sizes, elements, tags, labels, displacements."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from torch_geometric.data import Data

from fairchem_hdgnn.data.records import record_id
from fairchem_hdgnn.data.surfaces.tagging import ADSORBATE

LABELS = ("y_relaxed", "y_init", "energy", "y")
"""Energies that records are labelled with, eV."""


@dataclass(frozen=True)
class Spread:
    """Distribution of one number over the records."""

    count: int
    mean: float
    std: float
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """The distribution of ``values``; the standard deviation is that of the population."""
        array = np.array(values, dtype=np.float64)
        numbers = (array.mean(), array.std(), np.median(array), array.min(), array.max())
        return cls(len(array), *(float(number) for number in numbers))


@dataclass
class Statistics:
    """Running statistics of records.

    Attributes:
        num_records: how many were added.
        attributes: attribute -> in how many records.
        natoms: atoms in each record.
        elements: element -> in how many records.
        tags: tag -> number of atoms.
        num_fixed: fixed atoms.
        numbers: label -> its values, eV; any other attribute with one number a record likewise.
        largest_force: eV/Å.
        displacements: largest displacement ``pos_relaxed - pos`` in each record, Å.
        adsorbate_displacements: the same over its adsorbate (tag 2) atoms.
        num_edges: stored edges in each record.
        sids: ``sid`` or ``sid_fid`` -> how often.
    """

    num_records: int = 0
    attributes: Counter[str] = field(default_factory=Counter)
    natoms: list[int] = field(default_factory=list)
    elements: Counter[str] = field(default_factory=Counter)
    tags: Counter[int] = field(default_factory=Counter)
    num_fixed: int = 0
    numbers: dict[str, list[float]] = field(default_factory=dict)
    largest_force: float = 0.0
    displacements: list[float] = field(default_factory=list)
    adsorbate_displacements: list[float] = field(default_factory=list)
    num_edges: list[int] = field(default_factory=list)
    sids: Counter[str] = field(default_factory=Counter)

    def add(self, record: Data) -> None:
        """Add a record."""
        self.num_records += 1
        self.attributes.update(record.keys())
        self.natoms.append(int(record.natoms))
        numbers = record.atomic_numbers.int().unique().tolist()
        self.elements.update(symbol_of(number) for number in numbers)
        if "sid" in record:
            self.sids[record_id(record)] += 1
        if "tags" in record:
            values, counts = record.tags.unique(return_counts=True)
            self.tags.update({int(tag): int(count) for tag, count in zip(values, counts)})
        if "fixed" in record:
            self.num_fixed += int((record.fixed != 0).sum())
        for name in record.keys():  # noqa: SIM118 (iterating over a Data gives pairs)
            if name not in ("sid", "fid", "natoms", "edge_cutoff"):
                self._add_number(name, record[name])
        if "forces" in record:
            self.largest_force = max(self.largest_force, float(record.forces.norm(dim=-1).max()))
        if "pos_relaxed" in record and "pos" in record and record.pos_relaxed.shape == record.pos.shape:
            self._add_displacement(record)
        if "edge_index" in record:
            self.num_edges.append(record.edge_index.shape[1])

    @property
    def duplicates(self) -> list[str]:
        """Ids that occur more than once."""
        return [sid for sid, count in self.sids.items() if count > 1]

    def _add_number(self, name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, (int, float, np.number) if name in LABELS else (float, np.floating)):
            self.numbers.setdefault(name, []).append(float(value))

    def _add_displacement(self, record: Data) -> None:
        distance = (record.pos_relaxed - record.pos).norm(dim=-1)
        self.displacements.append(float(distance.max()))
        adsorbate = distance[record.tags == ADSORBATE] if "tags" in record else distance[:0]
        if len(adsorbate):
            self.adsorbate_displacements.append(float(adsorbate.max()))


def is_element(number: int) -> bool:
    """Whether an element has this atomic number."""
    return 0 < number < len(chemical_symbols)


def symbol_of(number: int) -> str:
    """Symbol of the element, or the number if there is none."""
    return chemical_symbols[number] if is_element(number) else str(number)
