"""Prepare GAME-Net's FG set: read the published archive and write one LMDB for each fold of its cross-validation.

Layout of the folder::

    fold_0/ ... fold_4/    data.lmdb, metadata.npz: OC20's IS2RE records
    gamenet.json           source, units, folds, fitted energies of the elements, statistics, label of each system

The folder is created atomically.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from torch_geometric.data import Data
from tqdm import tqdm

from fairchem_hdgnn.data.compositions import compositions, fit_compositions
from fairchem_hdgnn.data.directories import new_directory, refuse_existing
from fairchem_hdgnn.data.gamenet_archive import Archive, System
from fairchem_hdgnn.data.gamenet_folds import DIGEST, NUM_FOLDS, NUM_SYSTEMS, folds_digest, published_folds
from fairchem_hdgnn.data.gamenet_records import unlabelled_record
from fairchem_hdgnn.data.lmdb import write_lmdb
from fairchem_hdgnn.errors import DataError, suggestion

DESCRIPTION_FILE = "gamenet.json"
TARGETS = ("total", "adsorption")


@dataclass(frozen=True)
class Options:
    """Options of the preparation.

    Attributes:
        target: ``total``: total DFT energy minus the energies of its atoms, fitted on the training folds;
            ``adsorption``: minus clean slab and gas molecule, for adsorbed molecules only.
        train_folds: folds whose labels are used for the fit and the statistics.
        partial: accept an archive with missing systems.
        progress: show progress bars.
    """

    target: str = "total"
    train_folds: tuple[int, ...] = (1, 2, 3)
    partial: bool = False
    progress: bool = True


@dataclass(frozen=True)
class _Labelled:
    """Systems that have a label, with their records and the references subtracted from their total energies (eV)."""

    systems: list[System]
    records: list[Data]
    folds: np.ndarray
    references: np.ndarray
    elements: dict[str, float]


def prepare_gamenet(source: Path, out: Path, options: Options | None = None) -> dict[str, Any]:
    """Write the folds of the FG set into the new folder ``out``.

    Args:
        source: ``FG_dataset_lite.tar.xz``, or the folder it was unpacked into.
        out: folder to create.
        options: target, training folds, and whether the archive may be incomplete.

    Returns:
        Contents of ``gamenet.json``.

    Raises:
        DataError: the source is missing, damaged or incomplete, an option is invalid, or ``out`` exists.
    """
    options = options or Options()
    _check_options(options)
    refuse_existing(out)
    archive = Archive(source)
    systems = archive.systems(partial=options.partial)
    folds = published_folds(archive.rows, {system.name for system in systems})
    _check_complete(source, folds, options.partial)
    labelled = _label(archive, systems, folds, options)
    description = _describe(labelled, systems, options)
    with new_directory(out) as directory:
        for fold in range(NUM_FOLDS):
            (directory / f"fold_{fold}").mkdir()
            chosen = [labelled.records[row] for row in np.flatnonzero(labelled.folds == fold)]
            write_lmdb(directory / f"fold_{fold}", chosen)
        (directory / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1) + "\n")
    return description


def _check_options(options: Options) -> None:
    if options.target not in TARGETS:
        raise DataError(f"target '{options.target}' is unknown{suggestion(options.target, TARGETS)}")
    folds = options.train_folds
    if not folds or len(set(folds)) != len(folds) or not set(folds) <= set(range(NUM_FOLDS)):
        raise DataError(
            f"training folds {', '.join(map(str, folds)) or 'none'}: give some of 0 to {NUM_FOLDS - 1}, each once"
        )


def _check_complete(source: Path, folds: dict[str, int], partial: bool) -> None:
    if len(folds) != NUM_SYSTEMS and not partial:
        raise DataError(
            f"{source} has {len(folds):,} systems, but the FG set has {NUM_SYSTEMS:,}: get all of it, or pass "
            "--partial "
            "to prepare these"
        )
    if len(folds) == NUM_SYSTEMS and folds_digest(folds) != DIGEST:
        raise DataError(f"{source}: names or families differ from the published ones; get the archive again")


def _label(archive: Archive, systems: list[System], folds: dict[str, int], options: Options) -> _Labelled:
    """Records with ``y_relaxed``, ``y_init`` and ``y_total``, eV, of the systems for which the target is defined."""
    if options.target == "adsorption":
        systems = [system for system in systems if system.kind == "adsorbed"]
    fold = np.array([folds[system.name] for system in systems], dtype=int)
    training = np.isin(fold, options.train_folds)
    for number in range(NUM_FOLDS):
        if not (fold == number).any():
            raise DataError(f"{archive.source}: fold {number} has no system with a label; get more of the archive")
    bar = tqdm(systems, desc="read structures", unit=" systems", disable=not options.progress)
    records = [_record(archive, system) for system in bar]
    energies = np.array([system.energy for system in systems])
    if options.target == "adsorption":
        references = np.array([archive.separated(system) for system in systems], dtype=np.float64)
        coefficients = {}
    else:
        elements, counts = compositions([record.atomic_numbers.long().numpy() for record in records])
        unseen = ~counts[training].any(axis=0)
        if unseen.any():
            column = int(np.flatnonzero(unseen)[0])
            name = systems[int(np.flatnonzero(counts[:, column])[0])].name
            raise DataError(
                f"{name} contains {chemical_symbols[elements[column]]}, which no system of the training folds "
                "contains; choose other --train-folds"
            )
        solution = fit_compositions(counts[training], energies[training])
        references = counts @ solution
        coefficients = {chemical_symbols[number]: float(value) for number, value in zip(elements, solution)}
    for record, system, reference in zip(records, systems, references.tolist()):
        record.y_relaxed = system.energy - reference
        record.y_init = system.initial_energy - reference
        record.y_total = system.energy
    return _Labelled(systems, records, fold, references, coefficients)


def _record(archive: Archive, system: System) -> Data:
    try:
        return unlabelled_record(system)
    except DataError as error:
        raise DataError(f"{archive.source}: {error}") from error


def _describe(labelled: _Labelled, systems: list[System], options: Options) -> dict[str, Any]:
    """Content of ``gamenet.json``."""
    labels = np.array([record.y_relaxed for record in labelled.records])
    training = labels[np.isin(labelled.folds, options.train_folds)]
    counts: dict[str, Any] = {}
    listed: dict[str, Any] = {}
    for fold in range(NUM_FOLDS):
        inside = [labelled.systems[row] for row in np.flatnonzero(labelled.folds == fold)]
        counts[f"fold_{fold}"] = {"systems": len(inside), **Counter(system.kind for system in inside)}
    for system, record, fold in zip(labelled.systems, labelled.records, labelled.folds.tolist()):
        listed[system.name] = {
            "fold": fold,
            "family": system.family,
            "y_total": system.energy,
            "y_relaxed": record.y_relaxed,
        }
    chosen = {system.name for system in labelled.systems}
    return {
        "data_set": "GAME-Net FG set, doi:10.1038/s43588-023-00437-y",
        "read_from": "FG_dataset_lite, as its authors publish it",
        "target": options.target,
        "label": {
            "total": "y_relaxed = y_total - sum over atoms of element_energies",
            "adsorption": "y_relaxed = y_total - clean slab - gas molecule, both relaxed",
        }[options.target],
        "units": {"pos": "angstrom", "y_relaxed": "eV", "y_init": "eV", "y_total": "eV", "element_energies": "eV"},
        "train_folds": list(options.train_folds),
        "element_energies": labelled.elements,
        "train_mean": float(training.mean()),
        "train_std": float(training.std()),
        "counts": counts,
        "left_out": dict(Counter(system.kind for system in systems if system.name not in chosen)),
        "folds": "published rule; numbered as the authors' predictions for initial structures",
        "systems": listed,
    }
