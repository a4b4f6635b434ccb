"""OC20's splits: their names and where their LMDBs lie."""

from __future__ import annotations

from pathlib import Path

from fairchem_hdgnn.errors import DataError

SUFFIXES = ("id", "ood_ads", "ood_cat", "ood_both")
"""The four splits of OC20, in the order of its tables and under the leaderboard's names."""

VALIDATION_SPLITS = tuple(f"val_{suffix}" for suffix in SUFFIXES)
TEST_SPLITS = tuple(f"test_{suffix}" for suffix in SUFFIXES)

TITLES = {
    "id": "ID",
    "ood_ads": "OOD Ads",
    "ood_cat": "OOD Cat",
    "ood_both": "OOD Both",
}


def suffix_of(split: str) -> str:
    """``val_ood_ads`` -> ``ood_ads``; names outside OC20's scheme stay as they are."""
    suffix = split.partition("_")[2] if split.startswith(("val_", "test_")) else split
    return suffix if suffix in SUFFIXES else split


def title_of(split: str) -> str:
    """The heading of a split's column, as in the papers: ``val_ood_ads`` -> ``OOD Ads``."""
    return TITLES.get(suffix_of(split), split)


def split_source(root: str | Path, split: str) -> Path:
    """Where a split's LMDB lies: ``ROOT/SPLIT/data.lmdb``, or the folder ``ROOT/SPLIT`` if it holds several.

    Raises:
        DataError: neither exists; the message lists the splits that do.
    """
    root = Path(root)
    folder = root / split
    if (folder / "data.lmdb").is_file():
        return folder / "data.lmdb"
    if any(folder.glob("*.lmdb")):
        return folder
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; --data takes the folder that holds {split}/data.lmdb")
    present = sorted(other.parent.name for other in root.glob("*/*.lmdb"))
    found = f"it has {', '.join(dict.fromkeys(present))}" if present else "it holds no split at all"
    raise DataError(f"{folder}: no LMDB there for split '{split}' ({found})")


def has_split(root: str | Path, split: str) -> bool:
    """Whether ``split_source`` would find the split."""
    return any((Path(root) / split).glob("*.lmdb"))
