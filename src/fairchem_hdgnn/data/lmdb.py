"""OC20's LMDB layout: pickled graphs under "0", "1", ..., their number under ``length``, and ``metadata.npz``."""

from __future__ import annotations

import os
import pickle
import re
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

import lmdb
import numpy as np
from torch_geometric.data import Data

from fairchem_hdgnn.data.encoding import encode
from fairchem_hdgnn.data.safe_pickle import RefusedError, load_plain, load_record
from fairchem_hdgnn.errors import DataError

DATA_FILE = "data.lmdb"
METADATA_FILE = "metadata.npz"
LMDB_FORMATS = {"lmdb", "single_point_lmdb", "trajectory_lmdb", "safe_lmdb"}
"""Formats of data sets in this layout: fairchem 1.10's, and the plugin's own."""

SQLITE = b"SQLite format 3\0"
"""First bytes of files of ``ase.db``."""

ASE_REMEDY = "set format: ase_db in the config, or turn it into an LMDB with `fairchem-hdgnn make-lmdb`"

SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test"}
"""Words that identify a split in a file name."""

KINDS = {"id", "ood", "ads", "cat", "both", "challenge"}
"""Words that distinguish splits of one kind, as in OC20's ``val_ood_ads``."""

INITIAL_MAP_SIZE = 64 * 2**20
COMMIT_EVERY = 1000


def write_lmdb(directory: Path, records: Iterable[Data], pickled: Callable[[Data], bytes] = encode) -> int:
    """Write ``data.lmdb`` and ``metadata.npz`` (``natoms``) into an existing directory; return the number of records.

    Not atomic by itself: write into a directory of ``directories.new_directory``. ``pickled`` is the encoding
    of a record: ``encode`` loads fastest, ``oc20_pickle`` is that of OC20's own files.

    Raises:
        DataError: if there is no record, or the disk is full.
    """
    natoms = []
    path = directory / DATA_FILE
    environment = lmdb.open(str(path), subdir=False, lock=False, map_size=INITIAL_MAP_SIZE, sync=False, meminit=False)
    try:
        batch: list[tuple[bytes, bytes]] = []
        for index, record in enumerate(records):
            batch.append((str(index).encode("ascii"), pickled(record)))
            natoms.append(int(record.natoms))
            if len(batch) == COMMIT_EVERY:
                put_all(environment, batch)
                batch.clear()
        put_all(environment, [*batch, (b"length", pickle.dumps(len(natoms), protocol=-1))])
        environment.sync(True)
    except lmdb.Error as error:
        raise DataError(f"cannot write {path}: {error}; is the disk full?") from error
    finally:
        environment.close()
    if not natoms:
        raise DataError(f"{path}: there are no records to write; check the source")
    np.savez(directory / METADATA_FILE, natoms=np.array(natoms, dtype=np.int64))
    return len(natoms)


def put_all(environment: lmdb.Environment, batch: list[tuple[bytes, bytes]]) -> None:
    """Store a batch in one transaction, enlarging the map as often as needed."""
    while True:
        try:
            with environment.begin(write=True) as transaction:
                for key, value in batch:
                    transaction.put(key, value)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])


def lmdb_files(path: Path) -> list[Path]:
    """The LMDB file at ``path``, or those of the folder in the order of their names, as parts of one data set.

    Raises:
        DataError: there is none (the message says what was found), or their names are those of several splits.
    """
    if not path.is_dir():
        return [path]
    if files := sorted(path.glob("*.lmdb")):
        _refuse_several_splits(path, files)
        return files
    if (path / "data.mdb").is_file():
        raise DataError(f"{path} is an LMDB in the form of a folder: write {path / 'data.mdb'}, the file in it")
    if databases := sorted([*path.glob("*.db"), *path.glob("*.aselmdb")]):
        raise DataError(f"{path} contains no .lmdb file but {databases[0].name}, an ASE database: {ASE_REMEDY}")
    raise DataError(f"{path} contains no .lmdb file: give the file, or its folder")


def split_of(stem: str) -> tuple[str, ...]:
    """The words in a file's name that say which split it is: ``is2re_val_ood_ads`` -> ``val``, ``ood``, ``ads``."""
    words = [word for word in re.split(r"[^a-z]+", stem.lower()) if word in SPLITS | KINDS]
    return tuple(words) if SPLITS.intersection(words) else ()


def _refuse_several_splits(folder: Path, files: list[Path]) -> None:
    """``train.lmdb`` and ``val.lmdb`` are two splits; ``data.0000.lmdb`` and ``data.0001.lmdb`` are parts of one."""
    firsts: dict[tuple[str, ...], str] = {}
    for file in files:
        if split := split_of(file.stem):
            firsts.setdefault(split, file.name)
    if len(firsts) > 1:
        listed = ", ".join(firsts.values())
        raise DataError(
            f"{folder} contains several splits, not one data set ({listed}): "
            f"give one of these files, or move each split to its own folder"
        )


_OPEN: weakref.WeakValueDictionary[tuple[int, int, int], lmdb.Environment] = weakref.WeakValueDictionary()
"""Open environments by process, device and inode: LMDB forbids a process to open a file twice, and to use
an environment that was opened before a fork."""


def open_lmdb(path: str | os.PathLike[str]) -> lmdb.Environment:
    """Open one LMDB file for reading, without a lock file; readers of the same file share the environment.

    Raises:
        DataError: it is missing, unreadable, truncated or not an LMDB.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"LMDB {path} does not exist: check `src` in the config")
    if not path.is_file():
        raise DataError(f"{path} is a folder: give the .lmdb file in it")
    _refuse_ase_database(path)
    status = path.stat()
    if status.st_size == 0:
        raise DataError(f"{path} is empty, damaged or not an LMDB (0 bytes): copy or re-create it")
    identity = (os.getpid(), status.st_dev, status.st_ino)
    environment = _OPEN.get(identity)
    if environment is None:
        environment = _open(path)
        # LMDB maps the file: reading beyond its end would end the process.
        expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if status.st_size < expected:
            raise DataError(f"LMDB {path} is truncated ({status.st_size} of {expected} bytes): copy or re-create it")
        _OPEN[identity] = environment
    return environment


def _refuse_ase_database(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(SQLITE)) == SQLITE:
            raise DataError(f"{path} is an ASE database, not an LMDB of records: {ASE_REMEDY}")


def _open(path: Path) -> lmdb.Environment:
    try:
        return lmdb.open(
            str(path), subdir=False, readonly=True, lock=False, readahead=True, meminit=False, max_readers=1
        )
    except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError) as error:
        raise DataError(f"{path} is empty, damaged or not an LMDB ({error}): copy or re-create it") from error
    except lmdb.Error as error:
        if "already open" in str(error):
            raise DataError(
                f"LMDB {path} is in use by another reader of this process: use format: safe_lmdb"
            ) from error
        raise DataError(f"LMDB {path} cannot be opened: {error}") from error


def read_length(environment: lmdb.Environment) -> int:
    """Number of records: the value of ``length``, else the number of entries.

    Raises:
        DataError: ``length`` is not a number, or too large.
    """
    with environment.begin() as transaction:
        content = transaction.get(b"length")
        if content is None and transaction.get(b"nextid") is not None:
            raise DataError(f"{environment.path()} is an ASE database in an LMDB: {ASE_REMEDY}")
    entries = environment.stat()["entries"]
    if content is None:
        return entries
    try:
        length = load_plain(content)
    except RefusedError as error:
        raise DataError(
            f"`length` of {environment.path()} contains {error}, not a number: do not use this file"
        ) from error
    if type(length) is not int or not 0 <= length < entries:
        raise DataError(
            f"`length` of {environment.path()} is {length!r}, but there are {entries - 1} records: re-create it"
        )
    return length


def read_record(environment: lmdb.Environment, index: int) -> Data:
    """The record ``index``, unpickled without running code.

    Raises:
        DataError: it is missing, damaged, or contains objects that do not belong in a record.
    """
    try:
        with environment.begin() as transaction:
            content = transaction.get(str(index).encode("ascii"))
    except lmdb.Error as error:
        raise DataError(f"record {index} of {environment.path()}: {error}; copy or re-create it") from error
    if content is None:
        raise DataError(f"record {index} of {environment.path()} is missing: copy or re-create it")
    try:
        return load_record(content)
    except RefusedError as error:
        raise DataError(
            f"record {index} of {environment.path()} contains {error}; only tensors, arrays and plain values are "
            "allowed"
        ) from error
