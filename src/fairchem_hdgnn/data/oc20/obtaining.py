"""Obtain parts of OC20: download or find an archive, verify it, unpack or convert it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fairchem_hdgnn.data.directories import refuse_existing
from fairchem_hdgnn.data.oc20.archives import Archive, in_words
from fairchem_hdgnn.data.oc20.checksums import verify
from fairchem_hdgnn.data.oc20.conversion import convert, work_folder
from fairchem_hdgnn.data.oc20.transfer import discard, fetch, held, part_of
from fairchem_hdgnn.data.oc20.unpacking import unpack
from fairchem_hdgnn.errors import ConfigError, DataError

ARCHIVE_FOLDER = "archives"
"""Subfolder of the data folder for archives until they are unpacked."""


@dataclass(frozen=True)
class Request:
    """How to obtain archives.

    Attributes:
        data: folder that gets ``is2re/...`` and ``s2ef/...``.
        address: where the archives are published, or a mirror.
        source: folder with archives that were fetched by other means; then nothing is fetched.
        keep: keep archives that were fetched.
        num_workers: processes that convert frames.
    """

    data: Path
    address: str
    source: Path | None = None
    keep: bool = False
    num_workers: int = 1

    def address_of(self, archive: Archive) -> str:
        """URL of an archive."""
        return f"{self.address.rstrip('/')}/{archive.file}"

    def place_of(self, archive: Archive) -> Path:
        """Path of a complete archive."""
        return (self.source or self.data / ARCHIVE_FOLDER) / archive.file


def prepare(request: Request, archives: Mapping[str, Archive]) -> None:
    """Check disk space and write permission for these archives and their contents; remove damaged archives.

    Raises:
        ConfigError: the data folder cannot be written, or has too little room.
        DataError: ``source`` lacks an archive.
    """
    if request.source is not None:
        for archive in archives.values():
            if not request.place_of(archive).is_file():
                raise DataError(
                    f"{request.place_of(archive)}: no such file; fetch {request.address_of(archive)} "
                    f"({in_words(archive.size)}, MD5 {archive.md5}) and put it there"
                )
    try:
        request.data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--out {request.data}: cannot be created ({error.strerror}); choose another folder"
        ) from error
    if not os.access(request.data, os.W_OK):
        raise ConfigError(f"--out {request.data}: is not writable; choose another folder")
    if request.source is None:
        for archive in archives.values():
            _damaged(request.place_of(archive)).unlink(missing_ok=True)
    needed, free = _needed(request, archives), shutil.disk_usage(request.data).free
    if needed > free:
        raise ConfigError(
            f"--out {request.data}: {', '.join(archives)} needs up to {in_words(needed)}, but {in_words(free)} are "
            "free; free some space, or choose another folder"
        )


def _damaged(file: Path) -> Path:
    """New name for a file that is not the published one."""
    return file.with_name(file.name + ".damaged")


def _needed(request: Request, archives: Mapping[str, Archive]) -> int:
    """Bytes; of the archives that are not kept only the largest counts."""
    fetched = [
        0 if request.place_of(one).exists() else one.size - held(part_of(request.place_of(one)))
        for one in archives.values()
    ]
    unpacked = sum(
        one.unpacked - sum(_converted(request.data / folder) for folder in one.folders) for one in archives.values()
    )
    return max(0, unpacked) + (sum(fetched) if request.keep else max(fetched, default=0))


def _converted(target: Path) -> int:
    return sum(file.stat().st_size for file in work_folder(target).glob("*.lmdb"))


def obtain(request: Request, archive: Archive) -> list[str]:
    """Create the splits of an archive in the data folder, and return those that are new.

    Raises:
        ConfigError, DataError: it cannot be fetched, is not the published file, or the disk is full; or another process
            is using it.
    """
    file = request.place_of(archive)
    with _alone(request.data / ARCHIVE_FOLDER / f".{archive.file}.lock"):
        missing = archive.missing(request.data)
        if not missing:
            return []
        for folder in missing:
            refuse_existing(request.data / folder)
        if request.source is not None:
            verify(file, archive, "fetch it again")
        elif not file.exists():
            _fetch(request, archive, file)
        if archive.frames:
            convert(file, archive, request.data / missing[0], request.num_workers)
        else:
            unpack(file, missing, request.data)
        if request.source is None and not request.keep:
            file.unlink()
    return missing


def _fetch(request: Request, archive: Archive, file: Path) -> None:
    """Download an archive; it gets its name only after verification."""
    part, damaged = part_of(file), _damaged(file)
    fetch(request.address_of(archive), part, archive.size)
    try:
        verify(part, archive, f"it was renamed to {damaged.name}; re-run the same command to download it again")
    except DataError:
        part.replace(damaged)
        discard(part)
        raise
    part.replace(file)


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock file; the operating system releases it when this process and its children have ended."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"{lock.parent}: another process is downloading or converting {lock.stem[1:]}; wait until it ends"
            ) from error
        except OSError:  # a file system without locks
            pass
        yield
        # Whoever waits at the removed file finds everything in place.
        lock.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            lock.parent.rmdir()
