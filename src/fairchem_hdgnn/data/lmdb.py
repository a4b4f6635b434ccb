"""OC20's LMDB layout: pickled graphs under "0", "1", ..., their number under ``length``, ``metadata.npz`` beside it."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable
from pathlib import Path

import lmdb
import numpy as np
from torch_geometric.data import Data

from fairchem_hdgnn.data.encoding import encode
from fairchem_hdgnn.errors import DataError

DATA_FILE = "data.lmdb"
METADATA_FILE = "metadata.npz"
INITIAL_MAP_SIZE = 64 * 2**20
COMMIT_EVERY = 1000


def write_lmdb(directory: Path, records: Iterable[Data]) -> int:
    """Write ``data.lmdb`` and ``metadata.npz`` (``natoms``) into an existing directory; return the number of records.

    Not atomic by itself: write into a directory of ``files.new_directory``.

    Raises:
        DataError: if there is no record, or the disk is full.
    """
    natoms = []
    path = directory / DATA_FILE
    environment = lmdb.open(str(path), subdir=False, lock=False, map_size=INITIAL_MAP_SIZE, sync=False, meminit=False)
    try:
        batch: list[tuple[bytes, bytes]] = []
        for index, record in enumerate(records):
            batch.append((str(index).encode("ascii"), encode(record)))
            natoms.append(int(record.natoms))
            if len(batch) == COMMIT_EVERY:
                _put(environment, batch)
                batch.clear()
        _put(environment, [*batch, (b"length", pickle.dumps(len(natoms), protocol=-1))])
        environment.sync(True)
    except lmdb.Error as error:
        raise DataError(f"cannot write {path}: {error}; is the disk full?") from error
    finally:
        environment.close()
    if not natoms:
        raise DataError(f"nothing to write into {path}: there are no records")
    np.savez(directory / METADATA_FILE, natoms=np.array(natoms, dtype=np.int64))
    return len(natoms)


def _put(environment: lmdb.Environment, batch: list[tuple[bytes, bytes]]) -> None:
    """Store a batch in one transaction, enlarging the map as often as needed."""
    while True:
        try:
            with environment.begin(write=True) as transaction:
                for key, value in batch:
                    transaction.put(key, value)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])


def open_lmdb(path: str | os.PathLike[str]) -> lmdb.Environment:
    """Open one LMDB file for reading, without a lock file.

    Raises:
        DataError: if it is missing, a directory, unreadable or not an LMDB.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(
            f"LMDB {path} does not exist: check `src` in the config, or make it with make-lmdb or make-demo-data"
        )
    if not path.is_file():
        raise DataError(f"{path} is not a file: name the .lmdb file itself")
    if path.stat().st_size == 0:
        raise DataError(f"LMDB {path} is empty (0 bytes): copy or make it again")
    try:
        return lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise DataError(
            f"LMDB {path} cannot be opened ({error}): it is damaged or no LMDB; copy or make it again"
        ) from error
