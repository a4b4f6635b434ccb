"""What can be known to fail before a training starts: data sets that are missing, empty or damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fairchem_hdgnn.data.lmdb import open_lmdb, read_length
from fairchem_hdgnn.errors import DataError

LMDB_FORMATS = {"lmdb", "single_point_lmdb", "trajectory_lmdb", "safe_lmdb"}


def check_data_sets(data_sets: dict[str, Any]) -> None:
    """Open each LMDB that the ``dataset`` section of a config names, and see that there is something in it.

    Args:
        data_sets: settings by split: ``{"train": {"src": ..., "format": "lmdb"}, ...}``.

    Raises:
        DataError: an LMDB is missing, empty or unreadable; names split and file.
    """
    for split, settings in data_sets.items():
        if not isinstance(settings, dict) or settings.get("format", "lmdb") not in LMDB_FORMATS:
            continue
        sources = settings.get("src", [])
        for source in [sources] if isinstance(sources, str) else sources:
            try:
                _check_lmdb(Path(source))
            except DataError as error:
                raise DataError(f"dataset.{split}: {error}") from error


def _check_lmdb(path: Path) -> None:
    files = sorted(path.glob("*.lmdb")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"there is no .lmdb file in the folder {path}")
    for file in files:
        if read_length(open_lmdb(file)) == 0:
            raise DataError(f"LMDB {file} holds no record: make it again")
