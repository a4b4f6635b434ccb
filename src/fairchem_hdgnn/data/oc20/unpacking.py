"""Unpack archives of LMDBs: each split appears atomically, and nothing else in an archive is written.

Only regular files that lie in a split's folder are taken, under names made here: links, devices and paths that lead
elsewhere cannot do anything, and an archive that has them is refused.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, cast

from tqdm import tqdm

from fairchem_hdgnn.data.oc20.transfer import FULL
from fairchem_hdgnn.errors import DataError

BLOCK = 2**20
"""Bytes per copy."""


def unpack(archive: Path, folders: Iterable[str], data: Path) -> None:
    """Unpack the splits ``folders`` of ``archive`` into the folder ``data``.

    Raises:
        DataError: the archive is damaged, lacks a split or has forbidden members; or the disk is full.
    """
    with _work_folder(data / f".{archive.name}.unpacking") as work:
        _write_members(archive, tuple(folders), work)
        for folder in folders:
            if not any((work / folder).glob("*.lmdb")):
                raise DataError(f"{archive}: contains no LMDB in {folder}; delete it and re-run the same command")
        for folder in folders:
            (data / folder).parent.mkdir(parents=True, exist_ok=True)
            (work / folder).replace(data / folder)


@contextmanager
def _work_folder(work: Path) -> Iterator[Path]:
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir(parents=True)
        yield work
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DataError(
            f"{work.parent}: {os.strerror(error.errno)} while unpacking; the archive is kept: free some space and "
            "re-run the "
            "same command"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_members(archive: Path, folders: tuple[str, ...], work: Path) -> None:
    size, title = archive.stat().st_size, f"unpacking {archive.name}"
    try:
        with (
            archive.open("rb") as file,
            tqdm.wrapattr(
                file, "read", total=size, desc=title, unit="B", unit_scale=True, dynamic_ncols=True
            ) as stream,
            tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|*") as members,
        ):
            for member in members:
                _refuse_unsafe(archive, member)
                place = _place(member.name, folders) if member.isfile() else None
                content = members.extractfile(member) if place else None
                if place and content is not None:
                    _write(work / place, iter(partial(content.read, BLOCK), b""))
    except (tarfile.TarError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{archive}: damaged ({reason}); delete it and re-run the same command") from error


def _write(path: Path, blocks: Iterator[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for block in blocks:
            file.write(block)
        file.flush()
        os.fsync(file.fileno())


def _refuse_unsafe(archive: Path, member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        what = "would be written outside of the target folder"
    elif not member.isfile() and not member.isdir():
        what = "is neither a file nor a folder"
    else:
        return
    raise DataError(f"{archive}: its member {member.name!r} {what}; this is not an OC20 archive: do not use it")


def _place(name: str, folders: tuple[str, ...]) -> str | None:
    """Target of a member: ``any/where/is2re/10k/train/data.lmdb`` becomes ``is2re/10k/train/data.lmdb``."""
    path = PurePosixPath(name)
    folder = next((one for one in folders if f"/{path.parent}".endswith(f"/{one}")), None)
    return None if folder is None or path.name.endswith("-lock") else f"{folder}/{path.name}"
