"""Check that a file is the published one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tqdm import tqdm

from fairchem_hdgnn.data.oc20.archives import Archive
from fairchem_hdgnn.errors import DataError

BLOCK = 2**20
"""Bytes per read."""


def verify(path: Path, archive: Archive, remedy: str) -> None:
    """Check that a file has the size and the checksum of ``archive``.

    Args:
        path: the file.
        archive: the archive that it should be.
        remedy: what to do if it differs.

    Raises:
        DataError: it is not.
    """
    size = path.stat().st_size
    if size != archive.size:
        raise DataError(f"{path}: has {size:,} bytes, but the published file has {archive.size:,}; {remedy}")
    found = _md5(path)
    if found != archive.md5:
        raise DataError(f"{path}: its MD5 checksum is {found}, but the published one is {archive.md5}; {remedy}")


def _md5(path: Path) -> str:
    # Not for security, or systems that admit approved algorithms only would refuse it.
    digest = hashlib.md5(usedforsecurity=False)
    with (
        path.open("rb") as file,
        tqdm(
            desc=f"verifying {path.name}", total=path.stat().st_size, unit="B", unit_scale=True, dynamic_ncols=True
        ) as bar,
    ):
        while block := file.read(BLOCK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()
