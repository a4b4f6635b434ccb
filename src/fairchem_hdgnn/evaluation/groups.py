"""Systems of a comparison grouped by adsorbate, by element of the slab and by size, with the errors of each group."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float64
from scipy.special import stdtrit

from fairchem_hdgnn.evaluation.predictions import Predictions

MOST_GROUPS = 20
FEWEST_SYSTEMS = 5
NUM_SIZE_BINS = 8

Models = Mapping[str, Mapping[str, Predictions]]
"""``models[name][split]``, with labels."""

Groups = dict[str, Bool[np.ndarray, "systems"]]
"""Name of a group -> which of the systems belong to it."""

Errors = Mapping[str, Float64[np.ndarray, "systems"]]
"""Name of a model -> its absolute errors in meV."""


def pooled_errors(models: Models) -> Errors:
    """Absolute errors of each model over all its splits, in their order."""
    return {
        name: 1000 * np.abs(np.concatenate([each.errors for each in of_model.values()]))
        for name, of_model in models.items()
    }


def grouped(models: Models) -> dict[str, Groups]:
    """Three ways to group the systems of all splits together, in the order of :func:`pooled_errors`."""
    pooled = list(next(iter(models.values())).values())
    errors = pooled_errors(models)
    return {
        "By adsorbate": _frequent(_by_adsorbate(pooled), errors),
        "By element in the slab": _frequent(_by_element(pooled), errors),
        "By number of atoms": _by_size(pooled),
    }


def mean_and_interval(
    errors: Float64[np.ndarray, "systems"], groups: Groups
) -> tuple[Float64[np.ndarray, "groups"], Float64[np.ndarray, "groups"]]:
    """Mean of each group, and half the width of its 95 % interval by Student's t; NaN for a single system."""
    of_groups = [errors[systems] for systems in groups.values()]
    means = np.array([group.mean() for group in of_groups])
    return means, np.array([_half_width(group) for group in of_groups])


def _half_width(group: Float64[np.ndarray, "systems"]) -> float:
    if len(group) < 2:
        return np.nan
    return float(stdtrit(len(group) - 1, 0.975) * group.std(ddof=1) / np.sqrt(len(group)))


def _by_adsorbate(splits: list[Predictions]) -> Groups:
    names = np.concatenate([each.adsorbate for each in splits])
    return {name or "none": names == name for name in np.unique(names).tolist()}


def _by_element(splits: list[Predictions]) -> Groups:
    members = [set(text.split("-")) for each in splits for text in each.elements.tolist()]
    names = sorted(set().union(*members) - {""})
    return {name: np.array([name in of_system for of_system in members]) for name in names}


def _by_size(splits: list[Predictions]) -> Groups:
    natoms = np.concatenate([each.natoms for each in splits])
    distinct = np.unique(natoms)
    if len(distinct) <= NUM_SIZE_BINS:
        return {str(number): natoms == number for number in distinct.tolist()}
    starts = np.unique(np.quantile(natoms, np.arange(NUM_SIZE_BINS) / NUM_SIZE_BINS, method="lower"))
    ends = np.append(starts[1:] - 1, distinct[-1])
    bounds = zip(starts.tolist(), ends.tolist())
    return {(f"{low}-{high}" if low < high else f"{low}"): (natoms >= low) & (natoms <= high) for low, high in bounds}


def _frequent(groups: Groups, errors: Errors) -> Groups:
    """The most frequent groups that have enough systems for a mean, sorted by the first model's mean error."""
    enough = {name: systems for name, systems in groups.items() if systems.sum() >= FEWEST_SYSTEMS} or groups
    frequent = sorted(enough, key=lambda name: -enough[name].sum())[:MOST_GROUPS]
    first = next(iter(errors.values()))
    return {name: groups[name] for name in sorted(frequent, key=lambda name: first[groups[name]].mean())}
