"""``manifest.json``: what a finished data set holds and how it was made; its presence means that nothing is missing."""

from __future__ import annotations

import json
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import numpy as np

from fairchem_hdgnn.data.demo.relaxation import FORCE_LIMIT
from fairchem_hdgnn.data.demo.splits import UNSEEN_ADSORBATES, UNSEEN_METALS
from fairchem_hdgnn.data.demo.system import System
from fairchem_hdgnn.errors import DataError

MANIFEST_FILE = "manifest.json"
RECIPE = 1
"""Raised whenever the same seed would give other systems."""


def make_manifest(splits: dict[str, list[System]], left_out: Counter[str], seed: int) -> dict:
    """Describe a data set: seed, counts, target statistics (eV), rejected relaxations, held-out chemistry, versions."""
    train_energies = [system.y_relaxed for system in splits["train"]]
    median = float(np.median(train_energies))
    return {
        "recipe": RECIPE,
        "seed": seed,
        "sizes": {split: len(systems) for split, systems in splits.items()},
        "target": {
            "name": "y_relaxed: E(relaxed adslab) - E(relaxed slab) - E(gas phase), EMT",
            "unit": "eV",
            "mean": float(np.mean(train_energies)),
            "std": float(np.std(train_energies)),
            "median": median,
        },
        "splits": {split: _statistics(systems, median) for split, systems in splits.items() if "test" not in split},
        "left_out": dict(left_out.most_common()),
        "unseen_adsorbates": list(UNSEEN_ADSORBATES),
        "unseen_metals": ["-".join(metals) for metals in UNSEEN_METALS],
        "force_limit_eV_per_A": FORCE_LIMIT,
        "versions": {package: version(package) for package in ("fairchem-hdgnn", "ase", "numpy", "scipy")},
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


def matching_manifest(directory: Path, sizes: dict[str, int], seed: int) -> dict:
    """The manifest of a finished data set, if it is the one asked for.

    Raises:
        DataError: if the data set there was made otherwise.
    """
    path = directory / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_text())
        found = {key: manifest[key] for key in ("recipe", "seed", "sizes")}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged; remove {directory} and run again") from error
    asked = {"recipe": RECIPE, "seed": seed, "sizes": sizes}
    different = [f"{key} {found[key]} instead of {asked[key]}" for key in asked if found[key] != asked[key]]
    if different:
        raise DataError(f"{directory} holds another data set ({'; '.join(different)}): remove it or name another place")
    return manifest
