"""Energies per atom of each element: the part of a total energy that the composition explains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64


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
    counts: Float64[np.ndarray, "systems elements"], energies: Float64[np.ndarray, "systems"]
) -> Float64[np.ndarray, "elements"]:
    """Energy per atom of each element, eV: linear least squares without a constant.

    If the solution is not unique, the one of smallest norm.

    Args:
        counts: atoms of each element.
        energies: total, eV.
    """
    solution, *_ = np.linalg.lstsq(counts, energies, rcond=None)
    return np.asarray(solution, dtype=np.float64)
