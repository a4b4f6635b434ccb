"""Prepare QM9: read a source, split it, and write one LMDB per split, with checksums.

Layout of the folder::

    molecules.npz            all molecules as flat arrays, with the rows of each split
    qm9.json                 units, statistics, split, source and checksum of molecules.npz
    {train,val,test}/        data.lmdb, metadata.npz, and manifest.json with their checksums

Every file and folder takes its name only when it is complete, so a killed run is resumed by running it again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fairchem_hdgnn.data.directories import new_directory
from fairchem_hdgnn.data.lmdb import write_lmdb
from fairchem_hdgnn.data.npz import read_npz
from fairchem_hdgnn.data.qm9_molecules import LABEL_DIGEST, NUM_CHARACTERISED, Molecules, collect
from fairchem_hdgnn.data.qm9_records import SPLIT_SEED, record, split_rows
from fairchem_hdgnn.data.qm9_sources import read_source
from fairchem_hdgnn.data.qm9_targets import HARTREE_IN_EV, TARGETS
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.files import complete_or_absent, sha256

MOLECULES_FILE = "molecules.npz"
DESCRIPTION_FILE = "qm9.json"
MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class Preparation:
    """Options of the preparation.

    Attributes:
        source: ``qm9pack``, ``raw`` (the folder ``raw`` of the output folder, where torch-geometric downloads to),
            or a path; see ``qm9_sources.read_source``.
        uncharacterised: List of molecules to leave out, if it is not next to the archive.
        cutoff: Å, of the edges in the records; a model's ``cutoff`` must not exceed it.
        partial: Accept a source with missing molecules, and split it in the same proportions.
        progress: Show progress bars.
    """

    source: str = "qm9pack"
    uncharacterised: Path | None = None
    cutoff: float = 5.0
    partial: bool = False
    progress: bool = True


def prepare(out: Path, preparation: Preparation) -> dict[str, int]:
    """Prepare QM9 in ``out``, or finish an earlier run there.

    Returns:
        Number of molecules of each split.

    Raises:
        DataError: the source is missing, damaged or incomplete, or ``out`` has other or damaged files.
    """
    if not preparation.cutoff > 0:
        raise DataError(f"cutoff {preparation.cutoff} Å: must be positive")
    out.mkdir(parents=True, exist_ok=True)
    molecules = _molecules(out, preparation)
    targets = molecules.targets()
    splits = split_rows(len(molecules))
    for name, rows in splits.items():
        directory = out / name
        if directory.exists():
            verify(directory / MANIFEST_FILE, directory)
            continue
        bar = tqdm(rows, desc=f"write {name}", unit=" molecules", disable=not preparation.progress)
        with new_directory(directory) as temporary:
            write_lmdb(temporary, (record(molecules, int(row), targets, preparation.cutoff) for row in bar))
            manifest = {"sha256": {path.name: sha256(path) for path in sorted(temporary.iterdir())}}
            (temporary / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n")
    return {name: len(rows) for name, rows in splits.items()}


def verify(manifest: Path, directory: Path) -> None:
    """Check the files of ``directory`` against the checksums in ``manifest``.

    Raises:
        DataError: the manifest is missing, or a file is missing or differs.
    """
    if not manifest.is_file():
        raise DataError(f"{directory} has no {manifest.name}: it was not created by prepare-qm9; choose another folder")
    for name, expected in _read_json(manifest, "sha256").items():
        path = directory / name
        if not path.is_file() or sha256(path) != expected:
            raise DataError(f"{path} is missing or damaged (its checksum differs): remove {directory} and run again")


def _read_json(path: Path, section: str) -> dict[str, Any]:
    """A section of a file that ``prepare`` wrote."""
    try:
        return dict(json.loads(path.read_text())[section])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: remove {path.parent} and run again") from error


def _molecules(out: Path, preparation: Preparation) -> Molecules:
    """The molecules of an earlier run in the same folder, or read from the source and stored there."""
    description = out / DESCRIPTION_FILE
    options = {
        "source": preparation.source,
        "uncharacterised": str(preparation.uncharacterised) if preparation.uncharacterised else None,
        "cutoff": preparation.cutoff,
        "partial": preparation.partial,
    }
    if description.is_file():
        earlier = _read_json(description, "options")
        for name, value in options.items():
            if earlier.get(name) != value:
                raise DataError(
                    f"{out} was prepared with {name} {earlier.get(name)}, not {value}: choose another folder"
                )
        verify(description, out)
        return Molecules.of(read_npz(out / MOLECULES_FILE))

    source = out / "raw" if preparation.source == "raw" else preparation.source
    kind, stream = read_source(source, preparation.uncharacterised)
    bar = tqdm(stream, f"read {kind}", NUM_CHARACTERISED, unit=" molecules", disable=not preparation.progress)
    molecules = collect(iter(bar))
    _check_complete(molecules, preparation.partial)
    splits = split_rows(len(molecules))
    with complete_or_absent(out / MOLECULES_FILE) as temporary:
        molecules.save(temporary, splits)
    with complete_or_absent(description) as temporary:
        temporary.write_text(json.dumps(_describe(molecules, splits, kind, options, out), indent=2) + "\n")
    return molecules


def _check_complete(molecules: Molecules, partial: bool) -> None:
    if len(molecules) != NUM_CHARACTERISED and not partial:
        raise DataError(
            f"the source has {len(molecules):,} characterised molecules, but QM9 has {NUM_CHARACTERISED:,}: "
            "get all of it, or pass --partial to prepare these"
        )
    if len(molecules) == NUM_CHARACTERISED and molecules.label_digest() != LABEL_DIGEST:
        raise DataError(
            "elements or properties of the source differ from those of QM9: it is damaged, download it again"
        )


def _describe(
    molecules: Molecules, splits: dict[str, np.ndarray], kind: str, options: dict[str, Any], out: Path
) -> dict[str, Any]:
    """Content of ``qm9.json``."""
    training = molecules.targets()[splits["train"]]
    targets = {}
    for column, target in enumerate(TARGETS.values()):
        fields = asdict(target)
        reference = fields.pop("atom_reference")
        if reference is not None:
            fields["atom_reference_eV"] = {number: value * HARTREE_IN_EV for number, value in reference.items()}
        fields["train_mean"] = float(training[:, column].mean())
        fields["train_std"] = float(training[:, column].std())
        targets[target.name] = fields
    return {
        "data_set": "QM9, doi:10.1038/sdata.2014.22",
        "read_from": kind,
        "options": options,
        "num_molecules": len(molecules),
        "label_sha256": molecules.label_digest(),
        "sha256": {MOLECULES_FILE: sha256(out / MOLECULES_FILE)},
        "split": {
            "rule": f"numpy.random.default_rng({SPLIT_SEED}).permutation({len(molecules)}): train, val, test in turn",
            "sizes": {name: len(rows) for name, rows in splits.items()},
        },
        "units": {"pos": "angstrom", "edge_cutoff": "angstrom", **{t.name: t.unit for t in TARGETS.values()}},
        "targets": targets,
    }
