"""OC20's splits and their names."""

from __future__ import annotations

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
    """``val_ood_ads`` -> ``ood_ads``; other names are unchanged."""
    suffix = split.partition("_")[2] if split.startswith(("val_", "test_")) else split
    return suffix if suffix in SUFFIXES else split


def title_of(split: str) -> str:
    """The heading of a split's column, as in the papers: ``val_ood_ads`` -> ``OOD Ads``."""
    return TITLES.get(suffix_of(split), split)
