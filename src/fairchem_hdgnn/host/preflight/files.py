"""Data sets that are missing, empty, damaged, or one and the same file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fairchem_hdgnn.data.lmdb import open_lmdb, read_length
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.host.preflight.findings import Finding, error, warning

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
        for source in sources(settings):
            try:
                _check_lmdb(source)
            except DataError as error:
                raise DataError(f"dataset.{split}: {error}") from error


def sources(settings: dict[str, Any]) -> list[Path]:
    """The paths that ``src`` names."""
    value = settings.get("src") or []
    return [Path(source) for source in ([value] if isinstance(value, str) else value)]


def lmdb_files(path: Path) -> list[Path]:
    """The LMDB file at ``path``, or those of the folder."""
    return sorted(path.glob("*.lmdb")) if path.is_dir() else [path]


def _check_lmdb(path: Path) -> None:
    files = lmdb_files(path)
    if not files:
        raise DataError(f"there is no .lmdb file in the folder {path}")
    for file in files:
        if read_length(open_lmdb(file)) == 0:
            raise DataError(f"LMDB {file} holds no record: make it again")


def splits_of(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings of each split as fairchem understands them: val and test start from those of train.

    Args:
        config: a fairchem config; ``dataset`` is a mapping, or a list in the order train, val, test.
    """
    section = config["dataset"]
    if isinstance(section, list):
        section = dict(zip(("train", "val", "test"), section))
    if "src" in section:
        section = {"train": section}
    train = section.get("train") or {}
    splits = {}
    for name, settings in section.items():
        if isinstance(settings, dict) and "src" in settings:
            inherited = train if name != "train" and settings.get("use_train_settings", True) else {}
            splits[name] = {**inherited, **settings}
    return splits


def same_file_findings(splits: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    """Splits that read the same file: fairchem's ``lmdb`` cannot, and scores on training systems say little."""
    for (one, first), (other, second) in itertools.combinations(splits.items(), 2):
        shared = {file.resolve() for path in sources(first) for file in lmdb_files(path)} & {
            file.resolve() for path in sources(second) for file in lmdb_files(path)
        }
        if not shared:
            continue
        subject, problem = f"dataset.{other}.src", f"is {min(shared)}, as dataset.{one}.src is"
        if first.get("format", "lmdb") != "safe_lmdb" and second.get("format", "lmdb") != "safe_lmdb":
            yield error(subject, f"{problem}, which `lmdb` cannot open twice", "give each split a file of its own")
        else:
            yield warning(subject, problem, "give each split a file of its own, unless this is a test of overfitting")
