"""``manifest.json``: what a finished data set holds and how it was made; its presence means that nothing is missing."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np

from fairchem_hdgnn.errors import DataError
from structures.relaxation import FORCE_LIMIT
from structures.splits import UNSEEN_ADSORBATES, UNSEEN_METALS
from structures.system import Relaxed, System

MANIFEST_FILE = "manifest.json"
RECIPE = 2
"""Raised whenever the same seed would give other systems."""


def versions() -> dict[str, str]:
    """Versions of what decides a relaxation's result."""
    return {package: version(package) for package in ("fairchem-hdgnn", "ase", "numpy", "scipy")}


def make_manifest(relaxed: Relaxed) -> dict:
    """Describe a data set: seed, counts, target statistics (eV), rejected relaxations, held-out chemistry, versions."""
    train_energies = [system.y_relaxed for system in relaxed.splits["train"]]
    median = float(np.median(train_energies))
    return {
        "recipe": RECIPE,
        "seed": relaxed.seed,
        "sizes": relaxed.sizes,
        "target": {
            "name": "y_relaxed: E(relaxed adslab) - E(relaxed slab) - E(gas phase), EMT",
            "unit": "eV",
            "mean": float(np.mean(train_energies)),
            "std": float(np.std(train_energies)),
            "median": median,
        },
        "splits": {
            split: _statistics(systems, median) for split, systems in relaxed.splits.items() if "test" not in split
        },
        "left_out": dict(relaxed.left_out.most_common()),
        "unseen_adsorbates": list(UNSEEN_ADSORBATES),
        "unseen_metals": ["-".join(metals) for metals in UNSEEN_METALS],
        "force_limit_eV_per_A": FORCE_LIMIT,
        "versions": relaxed.versions,
    }


def _statistics(systems: list[System], train_median: float) -> dict[str, float]:
    """Mean and spread of a split's targets, and the error of always predicting the training median, eV."""
    energies = np.array([system.y_relaxed for system in systems])
    return {
        "mean": float(energies.mean()),
        "std": float(energies.std()),
        "min": float(energies.min()),
        "max": float(energies.max()),
        "median_baseline_mae": float(np.abs(energies - train_median).mean()),
        "mean_natoms": float(np.mean([len(system.start) for system in systems])),
    }


def read_manifest(directory: Path) -> dict:
    """The manifest of a finished data set.

    Raises:
        DataError: if there is none, or a damaged one.
    """
    path = directory / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_text())
        complete = {"recipe", "seed", "sizes"} <= manifest.keys() and "train" in manifest["sizes"]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{path} is missing or damaged; remove {directory} and run again") from error
    if not complete:
        raise DataError(f"{path} is damaged; remove {directory} and run again")
    return manifest


def matching_manifest(directory: Path, sizes: dict[str, int], seed: int) -> dict:
    """The manifest of a finished data set, if it is the one asked for.

    Raises:
        DataError: if the data set there was made otherwise, or its manifest is damaged.
    """
    found, asked = read_manifest(directory), {"recipe": RECIPE, "seed": seed, "sizes": sizes}
    different = [f"{key} {found[key]} instead of {asked[key]}" for key in asked if found[key] != asked[key]]
    if different:
        raise DataError(f"{directory} holds another data set ({'; '.join(different)}): remove it or name another place")
    return found
