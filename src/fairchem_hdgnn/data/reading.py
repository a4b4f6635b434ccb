"""Read the records of an LMDB file, or of the LMDB files of a folder, without running code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from torch_geometric.data import Data

from fairchem_hdgnn.data.lmdb import METADATA_FILE, lmdb_files, open_lmdb, read_length, read_record
from fairchem_hdgnn.errors import DataError


class Records:
    """The records of ``path``: an ``.lmdb`` file, or a folder of them in the order of their names.

    Raises:
        DataError: there is no LMDB, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = lmdb_files(path)
        self._open()
        self._lengths = [read_length(environment) for environment in self._environments]

    def _open(self) -> None:
        self._process = os.getpid()
        self._environments = [open_lmdb(file) for file in self.files]

    def __len__(self) -> int:
        """Number of records."""
        return sum(self._lengths)

    def __getitem__(self, index: int) -> Data:
        """The record ``index``; a forked process reopens the files."""
        if self._process != os.getpid():
            self._open()
        position = index
        for environment, length in zip(self._environments, self._lengths):
            if 0 <= position < length:
                return read_record(environment, position)
            position -= length
        raise DataError(
            f"{self.path}: no record {index}; its {len(self)} records are numbered from 0 to {len(self) - 1}"
        )

    def __iter__(self) -> Iterator[Data]:
        """All records in order."""
        return (self[index] for index in range(len(self)))

    def structure(self, index: int) -> Data:
        """The record ``index``, which has ``natoms`` and ``atomic_numbers``.

        Raises:
            DataError: one of them is missing, or there is no such record.
        """
        record = self[index]
        for name in ("natoms", "atomic_numbers"):
            if name not in record:
                raise DataError(f"{self.path}, record {index}: has no '{name}', so no structure; re-create the LMDB")
        return record

    @property
    def has_metadata(self) -> bool:
        """Whether ``metadata.npz`` is next to the file."""
        return (self.files[0].parent / METADATA_FILE).is_file()
