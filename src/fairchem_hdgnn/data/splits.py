"""Find the LMDBs of splits: ``ROOT/SPLIT/data.lmdb``, ``ROOT/SPLIT/*.lmdb`` or ``ROOT/SPLIT.lmdb``."""

from __future__ import annotations

from pathlib import Path

from fairchem_hdgnn.data.lmdb import DATA_FILE, lmdb_files, split_of
from fairchem_hdgnn.errors import DataError


def split_source(root: str | Path, split: str) -> Path:
    """The LMDB of a split: a file, or the folder ``ROOT/SPLIT`` if that has several without ``data.lmdb``.

    Raises:
        DataError: there is none; the message lists the splits that are there.
    """
    root = Path(root)
    place = _place(root, split)
    if place is not None:
        return place
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the one with {split}/{DATA_FILE} or {split}.lmdb")
    if (root / split).is_dir():
        lmdb_files(root / split)
    present = splits_in(root)
    found = f"it has {', '.join(present)}" if present else "it has no splits"
    other = f", or choose {' or '.join(present)}" if present else ""
    raise DataError(f"{root / split}: no LMDB for split '{split}' ({found}); create it with make-lmdb{other}")


def has_split(root: str | Path, split: str) -> bool:
    """Whether ``split_source`` would find the split."""
    return _place(Path(root), split) is not None


def splits_in(root: Path) -> list[str]:
    """The splits that ``split_source`` would find, sorted; files in ``root`` count if named like a split."""
    folders = {file.parent.name for file in root.glob("*/*.lmdb")}
    files = {file.stem for file in root.glob("*.lmdb") if split_of(file.stem)}
    return sorted(folders | files)


def _place(root: Path, split: str) -> Path | None:
    folder, file = root / split, root / f"{split}.lmdb"
    if (folder / DATA_FILE).is_file():
        return folder / DATA_FILE
    if any(folder.glob("*.lmdb")):
        return folder
    return file if file.is_file() else None
