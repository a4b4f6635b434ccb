"""Structures from whatever ASE reads: one file, or a directory of files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ase import Atoms
from ase.db import connect
from ase.io import iread

from fairchem_hdgnn.errors import DataError

DATABASES = {".db", ".json"}
"""Files of ``ase.db``; a ``.json`` may also be something else that ASE reads."""


def structure_files(source: Path, pattern: str = "**/*") -> list[Path]:
    """The file ``source``, or the files of the directory ``source`` that match ``pattern``, sorted by path.

    Raises:
        DataError: there is none.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DataError(f"{source}: no such file or directory")
    found = sorted(path for path in source.glob(pattern) if path.is_file() and not path.name.startswith("."))
    if not found:
        raise DataError(f"{source}: no file there matches '{pattern}'")
    return found


def read_structures(path: Path) -> Iterator[Atoms]:
    """All structures of a file, one at a time; what a database knows of a structure is in ``atoms.info``.

    Raises:
        DataError: ASE does not know the format, or the file is damaged.
    """
    count = 0
    try:
        for atoms in _read(path):
            count += 1
            yield atoms
    except Exception as error:  # each of ASE's readers fails in its own way
        place = f" after structure {count - 1}" if count else ""
        raise DataError(f"{path}: ASE cannot read it{place} ({type(error).__name__}: {error})") from error
    if count == 0:
        raise DataError(f"{path}: ASE finds no structure in it")


def _read(path: Path) -> Iterator[Atoms]:
    if path.suffix not in DATABASES:
        yield from iread(str(path), index=":")
        return
    for row in connect(str(path)).select():
        atoms = row.toatoms(add_additional_information=True)
        atoms.info.update({**atoms.info.pop("key_value_pairs", {}), **atoms.info.pop("data", {})})
        yield atoms
