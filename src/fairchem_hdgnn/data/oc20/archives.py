"""The archives in which OC20 is published: names, sizes, checksums, and the folders made from them.

Sizes and checksums are those of the release of February 2021, which replaced all earlier files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fairchem_hdgnn.errors import ConfigError, suggestion

ADDRESS = "https://dl.fbaipublicfiles.com/opencatalystproject/data"
"""Address of all archives."""

FRAME_BYTES = 6_000
"""Mean size of a frame in an LMDB; measured on frames of OC20, whose mean is 79 atoms."""


@dataclass(frozen=True)
class Archive:
    """One published archive.

    Attributes:
        file: its name, below the address.
        size: bytes.
        md5: checksum, hexadecimal.
        unpacked: bytes of the LMDBs made from it.
        folders: the splits in it, relative to the data folder.
        frames: number of frames stored as text, which must be converted; 0 if the archive contains LMDBs.
    """

    file: str
    size: int
    md5: str
    unpacked: int
    folders: tuple[str, ...]
    frames: int = 0

    def missing(self, data: Path) -> list[str]:
        """The splits that the folder ``data`` lacks."""
        return [folder for folder in self.folders if not any((data / folder).glob("*.lmdb"))]


def _frames(split: str, size: int, md5: str, folder: str, frames: int) -> Archive:
    return Archive(f"s2ef_{split}.tar", size, md5, frames * FRAME_BYTES, (folder,), frames)


_OOD = ("id", "ood_ads", "ood_cat", "ood_both")

ARCHIVES = {
    "is2re": Archive(
        file="is2res_train_val_test_lmdbs.tar.gz",
        size=8_593_151_089,
        md5="cfc04dd2f87b4102ab2f607240d25fb1",
        unpacked=103_352_344_576,
        folders=(
            *(f"is2re/{number}/train" for number in ("10k", "100k", "all")),
            *(f"is2re/all/{split}_{kind}" for split in ("val", "test") for kind in _OOD),
        ),
    ),
    "s2ef-200K": _frames(
        "train_200K", 359_720_960, "f8d0909c2623a393148435dede7d3a46", "s2ef/200k/train", 200_000
    ),
    "s2ef-2M": _frames(
        "train_2M", 3_600_640_000, "953474cb93f0b08cdc523399f03f7c36", "s2ef/2M/train", 2_000_000
    ),
    "s2ef-20M": _frames(
        "train_20M", 36_015_452_160, "863bc983245ffc0285305a1850e19cf7", "s2ef/20M/train", 20_000_000
    ),
    "s2ef-all": _frames(
        "train_all", 241_150_924_800, "12a7087bfd189a06ccbec9bc7add2bcd", "s2ef/all/train", 133_934_018
    ),
    "s2ef-val-id": _frames(
        "val_id", 1_775_165_440, "f57f7f5c1302637940f2cc858e789410", "s2ef/all/val_id", 999_866
    ),
    "s2ef-val-ood-ads": _frames(
        "val_ood_ads", 1_770_567_680, "431ab0d7557a4639605ba8b67793f053", "s2ef/all/val_ood_ads", 999_838
    ),
    "s2ef-val-ood-cat": _frames(
        "val_ood_cat", 1_724_620_800, "532d6cd1fe541a0ddb0aa0f99962b7db", "s2ef/all/val_ood_cat", 999_809
    ),
    "s2ef-val-ood-both": _frames(
        "val_ood_both", 1_985_699_840, "5731862978d80502bbf7017d68c2c729", "s2ef/all/val_ood_both", 999_944
    ),
    "s2ef-test": Archive(
        file="s2ef_test_lmdbs.tar.gz",
        size=31_152_136_557,
        md5="bcada432482f6e87b24e14b6b744992a",
        unpacked=446_000_000_000,
        folders=tuple(f"s2ef/all/test_{kind}" for kind in _OOD),
    ),
}  # fmt: skip
"""Name on the command line -> archive."""

GROUPS = {"s2ef-val": tuple(name for name in ARCHIVES if name.startswith("s2ef-val-"))}
"""Names that stand for several archives."""


def chosen(names: Iterable[str]) -> dict[str, Archive]:
    """The archives of these names, each once, in the order given.

    Raises:
        ConfigError: a name is unknown.
    """
    archives: dict[str, Archive] = {}
    for name in names:
        if name not in ARCHIVES and name not in GROUPS:
            raise ConfigError(f"'{name}': not a part of OC20{suggestion(name, [*ARCHIVES, *GROUPS])}")
        archives.update((one, ARCHIVES[one]) for one in GROUPS.get(name, (name,)))
    return archives


def in_words(size: int) -> str:
    """A number of bytes with its unit: ``3.60 GB``."""
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
