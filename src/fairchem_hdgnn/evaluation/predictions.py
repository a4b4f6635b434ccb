"""Predictions of a model for one split, with the data needed to score and group them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from ase.symbols import Symbols
from jaxtyping import Float32, Float64, Int, Int64, Shaped

from fairchem_hdgnn.data.npz import write_npz
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.evaluation.origin import Origin

PER_ATOM = ("forces", "target_forces", "forces_std")
STANDARD_DEVIATIONS = ("energy_std", "forces_std")
"""Arrays in an ensemble's files in addition to those of fairchem's ``predict``."""


@dataclass(frozen=True)
class Predictions:
    """Predictions for the systems of one split. Entry ``i`` of every per-system array is the same system.

    Attributes:
        ids: ``sid``, or ``sid_fid`` for frames of a relaxation (S2EF).
        energy: predicted energy in eV.
        natoms: number of atoms.
        adsorbate: Hill formula of the atoms with tag 2, empty where there are none.
        elements: elements of the slab, sorted and hyphenated, e.g. ``"Cu-Pt"``.
        target: label in eV, or ``None`` for a test split.
        forces: predicted forces on the free atoms of all systems, eV/Å.
        target_forces: labels of ``forces``.
        free_atoms: number of rows of ``forces`` for each system.
        record: position of each system in the LMDB of its split.
        energy_std: standard deviation of ``energy`` over an ensemble, eV; ``None`` for a single prediction.
        forces_std: square root of the mean over an ensemble of ``|F - forces|^2``, one number for each free atom, eV/Å.
    """

    ids: Shaped[np.ndarray, "systems"]
    energy: Float32[np.ndarray, "systems"]
    natoms: Int64[np.ndarray, "systems"]
    adsorbate: Shaped[np.ndarray, "systems"]
    elements: Shaped[np.ndarray, "systems"]
    target: Float32[np.ndarray, "systems"] | None = None
    forces: Float32[np.ndarray, "atoms 3"] | None = None
    target_forces: Float32[np.ndarray, "atoms 3"] | None = None
    free_atoms: Int64[np.ndarray, "systems"] | None = None
    record: Int64[np.ndarray, "systems"] | None = None
    energy_std: Float32[np.ndarray, "systems"] | None = None
    forces_std: Float32[np.ndarray, "atoms"] | None = None

    def __len__(self) -> int:
        """Number of systems."""
        return len(self.ids)

    @property
    def labels(self) -> Float32[np.ndarray, "systems"]:
        """``target``, or an error if there is none."""
        if self.target is None:
            raise DataError("these predictions have no labels to compare with")
        return self.target

    @property
    def records(self) -> Int64[np.ndarray, "systems"]:
        """``record``, or an error if it is unknown."""
        if self.record is None:
            raise DataError("these predictions have no record numbers of an LMDB")
        return self.record

    @property
    def deviations(self) -> Float64[np.ndarray, "systems"]:
        """``energy_std`` in float64; an error without an ensemble."""
        if self.energy_std is None:
            raise DataError("these predictions have no standard deviations")
        return self.energy_std.astype(np.float64)

    @property
    def errors(self) -> Float64[np.ndarray, "systems"]:
        """Prediction minus label in eV."""
        return self.energy.astype(np.float64) - self.labels.astype(np.float64)

    def sorted_by_id(self) -> Predictions:
        """The same predictions in the order of fairchem's files: ids as strings, ascending."""
        order = np.argsort(self.ids, kind="stable")
        atoms = self._rows_of_forces(order)
        arrays: dict[str, Any] = {}
        for field in fields(self):
            values = getattr(self, field.name)
            arrays[field.name] = None if values is None else values[atoms if field.name in PER_ATOM else order]
        return Predictions(**arrays)

    def _rows_of_forces(self, order: Int64[np.ndarray, "systems"]) -> Int64[np.ndarray, "atoms"]:
        if self.free_atoms is None:
            return np.zeros(0, dtype=np.int64)
        ends = np.cumsum(self.free_atoms)
        return np.concatenate([np.arange(ends[system] - self.free_atoms[system], ends[system]) for system in order])


def merge(parts: Iterable[Predictions]) -> Predictions:
    """Predictions of several disjoint parts of a split as one, sorted by id."""
    parts = list(parts)
    joined: dict[str, Any] = {}
    for field in fields(Predictions):
        values = [getattr(part, field.name) for part in parts]
        joined[field.name] = None if any(value is None for value in values) else np.concatenate(values)
    return Predictions(**joined).sorted_by_id()


def hill_formula(atomic_numbers: Int[np.ndarray, "atoms"]) -> str:
    """Hill formula, e.g. ``CHO``; empty for no atoms."""
    return Symbols(atomic_numbers).get_chemical_formula("hill")


def element_set(atomic_numbers: Int[np.ndarray, "atoms"]) -> str:
    """The distinct elements, sorted by symbol and hyphenated, e.g. ``Cu-Pt``."""
    return "-".join(sorted(set(Symbols(atomic_numbers))))


def write_predictions(path: Path, predictions: Predictions, *, origin: Origin | None = None) -> None:
    """Write the arrays of fairchem's ``predict`` mode (``ids``, ``energy``; with forces ``forces``, ``chunk_idx``).

    Energies are float32 with one number per system; fairchem's default is float16. An ensemble's file has
    ``energy_std`` and, with forces, ``forces_std``, too. ``make-submission`` refuses files of different ``origin``.
    """
    arrays: dict[str, np.ndarray] = {"ids": predictions.ids, "energy": predictions.energy}
    if predictions.forces is not None and predictions.free_atoms is not None:
        arrays["forces"] = predictions.forces
        arrays["chunk_idx"] = np.cumsum(predictions.free_atoms)[:-1]
    deviations = {key: getattr(predictions, key) for key in STANDARD_DEVIATIONS}
    arrays.update({key: values for key, values in deviations.items() if values is not None})
    write_npz(path, arrays, comment="" if origin is None else origin.comment)
