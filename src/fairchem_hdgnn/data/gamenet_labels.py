"""Labels of the FG set: total energies minus a fit to the composition, or adsorption energies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Bool, Float64, Int64

from fairchem_hdgnn.data.gamenet_archive import Archive, System
from fairchem_hdgnn.errors import DataError

TARGETS = ("total", "adsorption")


def compositions(
    numbers: Sequence[Int64[np.ndarray, "_"]],
) -> tuple[list[int], Float64[np.ndarray, "systems elements"]]:
    """Count the atoms of each element in each system.

    Args:
        numbers: atomic numbers [atoms] of each system.

    Returns:
        Atomic numbers of the elements, ascending, and the counts.
    """
    elements = sorted({int(number) for each in numbers for number in each})
    return elements, np.array([[np.count_nonzero(each == element) for element in elements] for each in numbers], float)


def fit_compositions(
    elements: list[int],
    counts: Float64[np.ndarray, "systems elements"],
    energies: Float64[np.ndarray, "systems"],
    training: Bool[np.ndarray, "systems"],
    names: Sequence[str],
) -> Float64[np.ndarray, "elements"]:
    """Energy per atom of each element, eV: linear least squares over the training systems, without a constant.

    If the solution is not unique, the one of smallest norm.

    Args:
        elements: atomic numbers.
        counts: atoms of each element.
        energies: total, eV.
        training: which systems to fit.
        names: of the systems, for messages.

    Raises:
        DataError: an element occurs in no training system.
    """
    unseen = ~counts[training].any(axis=0)
    if unseen.any():
        column = int(np.flatnonzero(unseen)[0])
        name = names[int(np.flatnonzero(counts[:, column])[0])]
        raise DataError(
            f"{name} contains {chemical_symbols[elements[column]]}, which no system of the training folds contains; "
            "choose other --train-folds"
        )
    solution, *_ = np.linalg.lstsq(counts[training], energies[training], rcond=None)
    return np.asarray(solution, dtype=np.float64)


def adsorption_references(archive: Archive, systems: Sequence[System]) -> Float64[np.ndarray, "systems"]:
    """Energy of clean slab plus gas molecule of each adsorbed system, both relaxed, eV.

    Raises:
        DataError: one of them is missing.
    """
    return np.array([archive.separated(system) for system in systems], dtype=np.float64)
