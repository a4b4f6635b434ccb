"""Read structures with ASE: one file, or a folder of files."""

from __future__ import annotations

import lzma
import os
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from ase import Atoms
from ase.db import connect
from ase.io import iread
from ase.io.formats import UnknownFileTypeError, get_compression, ioformats, open_with_compression

from fairchem_hdgnn.data.structures.poscar import open_text, read_poscar
from fairchem_hdgnn.errors import ConfigError, DataError, suggestion

DATABASES = {".db", ".json"}
"""Files of ``ase.db``; a ``.json`` may also be something else that ASE reads."""

VASP_NAMES = {
    "*poscar*": "vasp",
    "*contcar*": "vasp",
    "*centcar*": "vasp",
    "*.vasp": "vasp",
    "*outcar*": "vasp-out",
    "*xdatcar*": "vasp-xdatcar",
    "*vasp*.xml": "vasp-xml",
}
"""Patterns of names in lower case -> ASE's format; ASE itself knows most of them in upper case only."""

OTHER_ENDINGS = {".cif": "cif", ".extxyz": "extxyz", ".pdb": "proteindatabank", ".traj": "traj", ".xyz": "extxyz"}
"""Endings that take precedence over the rest of a name: ``POSCAR.cif`` is not a POSCAR."""

START = 4096
"""Bytes read to check that a file is not empty."""


def structure_files(source: Path, pattern: str = "**/*") -> list[Path]:
    """The file ``source``, or the files of the directory ``source`` that match ``pattern``, sorted by path.

    Raises:
        DataError: there is none.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DataError(f"{source}: no such file or directory")
    found = [path for path in matching_paths(source, pattern) if path.is_file()]
    if not found:
        raise DataError(f"{source}: no file there matches '{pattern}'")
    return found


def matching_paths(root: Path, pattern: str) -> list[Path]:
    """Files and folders below ``root`` that match a pattern of ``pathlib``, sorted, without hidden ones.

    Unlike ``Path.glob``, it follows linked folders. One that can be reached by several paths, which may form a loop,
    appears once, if possible by a path without links.

    Raises:
        DataError: a folder cannot be read.
    """
    wanted, seen, found, folders = PurePath(pattern).parts, set(), [], deque([root] if root.is_dir() else [])
    while folders:
        folder = folders.popleft()
        if folder.resolve() in seen:
            continue
        seen.add(folder.resolve())
        paths = [folder]
        for entry in _entries(folder):
            if not entry.is_dir():
                paths.append(folder / entry.name)
            elif entry.is_symlink():
                folders.append(folder / entry.name)
            else:
                folders.appendleft(folder / entry.name)
        found += [path for path in paths if _matches(path.relative_to(root).parts, wanted)]
    return sorted(found)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); change its permissions, or move it") from error


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[skipped:], pattern[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def read_structures(path: Path, format: str | None = None) -> Iterator[Atoms]:
    """All structures of a file, one at a time; a database's data of a structure are in ``atoms.info``.

    Args:
        path: the file, which may be compressed (``.gz``, ``.bz2``, ``.xz``).
        format: ASE's name of its format; otherwise the file's name and content tell.

    Raises:
        ConfigError: ASE reads no ``format``.
        DataError: ASE does not know the format, or the file is empty, truncated or damaged.
    """
    if format is not None:
        check_format(format)
    return _structures(path, format or format_of(path))


def check_format(format: str) -> None:
    """Check that ASE reads the format.

    Raises:
        ConfigError: it does not.
    """
    if format not in ioformats:
        raise ConfigError(f"format '{format}': ASE has no such format{suggestion(format, ioformats)}")
    if not ioformats[format].can_read:
        raise ConfigError(f"format '{format}': ASE can write but not read it; convert the file with another program")


def format_of(path: Path) -> str | None:
    """ASE's format for a file named like one of VASP; ``None`` if ASE must detect it."""
    name = Path(get_compression(path.name.lower())[0])
    if name.suffix in DATABASES:
        return None
    format = next((format for pattern, format in VASP_NAMES.items() if fnmatchcase(name.name, pattern)), None)
    return OTHER_ENDINGS.get(name.suffix, format) if format else None


def check_content(path: Path) -> None:
    """Check that a file is not empty.

    Raises:
        DataError: it is missing, empty, or compressed and truncated.
    """
    try:
        with open_with_compression(str(path), "rb") as file:
            start = file.read(START)
    except (EOFError, lzma.LZMAError, zlib.error, OSError) as error:
        raise DataError(f"{path}: cannot be read ({_one_line(error)}): copy it again") from error
    if not start.strip():
        raise DataError(f"{path}: is empty, perhaps because the calculation was killed; rerun it")


def unreadable(path: Path, error: Exception, format: str | None = None, place: str = "") -> DataError:
    """The error for a file that a reader of ASE fails on, in one line."""
    reason = f"{path}: ASE cannot read it{f' as {format}' if format else ''}{place} ({_one_line(error)})"
    if isinstance(error, UnknownFileTypeError):
        return DataError(f"{reason}; give --format if it contains structures")
    if "chemical symbols" in str(error):
        return DataError(
            f"{reason}; put its POTCAR or OUTCAR next to it, or add a line of symbols above that of the numbers"
        )
    return DataError(f"{reason}; it is truncated, damaged or in another format")


def _structures(path: Path, format: str | None) -> Iterator[Atoms]:
    check_content(path)
    count = 0
    try:
        for atoms in _read(path, format):
            count += 1
            yield atoms
    except Exception as error:  # each of ASE's readers fails in its own way
        raise unreadable(path, error, format, f" after structure {count - 1}" if count else "") from error
    if count == 0:
        raise DataError(f"{path}: ASE finds no structure in it; it is truncated, or in another format")


def _read(path: Path, format: str | None) -> Iterator[Atoms]:
    if format in ("db", "json") or (format is None and path.suffix in DATABASES):
        for row in connect(str(path), type=format or "extract_from_name").select():
            atoms = row.toatoms(add_additional_information=True)
            atoms.info.update({**atoms.info.pop("key_value_pairs", {}), **atoms.info.pop("data", {})})
            yield atoms
    elif format == "vasp":
        yield read_poscar(path)
    elif format in VASP_NAMES.values():
        with open_text(path) as file:
            yield from iread(file, index=":", format=format)
    else:
        yield from iread(str(path), index=":", format=format, do_not_split_by_at_sign=True)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
