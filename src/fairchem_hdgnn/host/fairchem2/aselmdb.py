"""Convert OC20 LMDBs to ``.aselmdb`` files, for use with fairchem-core 2's own data sets.

In a config::

    splits:
      train: {src: OUT}
    format: ase_db
    transforms: {common_transform: {dataset_name: oc20}}
    key_mapping: {energy: relaxed_energy}       # IS2RE; name in the file: name of the task
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import ase.db
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from torch_geometric.data import Data
from tqdm import tqdm

from fairchem_hdgnn.data.directories import new_directory
from fairchem_hdgnn.data.lmdb import METADATA_FILE
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.host.fairchem2.atomic_data import atomic_data

BACKEND = "ase_db_backends"

SYSTEMS_OF_A_FILE = 10_000
"""Each file is written in one transaction, and ase-db-backends slows down as a file grows."""

RELAXED = "y_relaxed"
OF_FRAMES = {"y": "energy", "energy": "energy", "force": "forces", "forces": "forces"}
"""S2EF labels: name in OC20 and in this package -> name in ASE."""


def make_aselmdb(source: Path, out: Path) -> dict[str, int]:
    """Write ``out/data.0000.aselmdb``, ... and ``out/metadata.npz``: unrelaxed structures with relaxed energies, frames
    with energies and forces, or structures alone.

    Args:
        source: an ``.lmdb`` file, or a folder of them.
        out: folder to create; it appears when it is complete.

    Returns:
        The number of ``systems``, and of those with ``energy`` and ``forces``.

    Raises:
        DataError: ase-db-backends is not installed; ``source`` cannot be read or is empty; ``out`` exists.
    """
    if importlib.util.find_spec(BACKEND) is None:
        raise DataError("ase-db-backends, which writes .aselmdb files, is not installed: pip install ase-db-backends")
    records = Records(source)
    if len(records) == 0:
        raise DataError(f"{source} contains no records: re-create it")
    counts = {"systems": len(records), "energy": 0, "forces": 0}
    natoms: list[int] = []
    with new_directory(out) as partial:
        converted = (_converted(records, index) for index in tqdm(range(len(records)), desc=str(out), unit="system"))
        for part in range(-(-len(records) // SYSTEMS_OF_A_FILE)):
            for atoms, data in _written(partial / f"data.{part:04d}.aselmdb", islice(converted, SYSTEMS_OF_A_FILE)):
                natoms.append(len(atoms))
                counts["energy"] += "energy" in data or atoms.calc is not None
                counts["forces"] += atoms.calc is not None
        np.savez(partial / METADATA_FILE, natoms=np.array(natoms, dtype=np.int64))
    return counts


def atoms_of(record: Data) -> tuple[Atoms, dict[str, Any]]:
    """Convert a record for ASE: the structure, and the entries that fairchem copies into ``atoms.info``.

    Args:
        record: a record as in OC20's LMDBs.

    Returns:
        Positions and cell in Å, with tags and ``FixAtoms``. The entries are ``sid``, which for a frame is ``sid_fid``,
        and the relaxed energy, eV, as ``energy``. A frame has a calculator with its energy and forces, eV/Å.

    Raises:
        DataError: as :func:`atomic_data`.
    """
    relaxed = RELAXED in record
    # OC20's IS2RE records also have forces, of the unrelaxed structure.
    found = atomic_data(record, {RELAXED: "energy"} if relaxed else OF_FRAMES, dataset="")
    atoms = Atoms(
        numbers=found.atomic_numbers.numpy(),
        positions=found.pos.numpy().astype(np.float64),
        cell=found.cell[0].numpy().astype(np.float64),
        pbc=found.pbc[0].numpy(),
        tags=found.tags.numpy(),
    )
    if found.fixed.any():
        atoms.set_constraint(FixAtoms(mask=found.fixed.bool().numpy()))
    data: dict[str, Any] = {"sid": found.sid[0]}
    if relaxed:
        data["energy"] = float(record[RELAXED])
    elif "energy" in found and "forces" in found:
        energy = next(float(record[name]) for name, label in OF_FRAMES.items() if label == "energy" and name in record)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=found.forces.numpy().astype(np.float64))
    return atoms, data


def _converted(records: Records, index: int) -> tuple[Atoms, dict[str, Any]]:
    try:
        return atoms_of(records[index])
    except DataError as error:
        raise DataError(f"{records.path}, record {index}: {error}") from error


def _written(path: Path, systems: Iterator[tuple[Atoms, dict[str, Any]]]) -> Iterator[tuple[Atoms, dict[str, Any]]]:
    """Write one file, and yield its systems."""
    with ase.db.connect(path, use_lock_file=False) as database:
        for atoms, data in systems:
            database.write(atoms, data=data)
            yield atoms, data
    # fairchem reads every file of a folder as part of the data set.
    path.with_name(f"{path.name}-lock").unlink(missing_ok=True)
