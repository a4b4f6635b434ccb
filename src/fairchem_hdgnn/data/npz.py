"""Files of plain arrays: written atomically, read without unpickling."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.files import complete_or_absent


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], *, comment: str = "") -> None:
    """Write a compressed ``.npz`` atomically; ``comment`` becomes that of the zip archive."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    if comment:
        with zipfile.ZipFile(content, "a") as archive:
            archive.comment = comment.encode()
    with complete_or_absent(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz``, read without unpickling.

    Raises:
        DataError: the file is missing, damaged, or contains pickled objects.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise DataError(f"{path}: not a readable .npz of plain arrays ({error})") from error
