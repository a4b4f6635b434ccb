"""Names of a structure: the parts of its path without those common to all, and an id made of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

Parts = tuple[str, ...]

COMPRESSED = (".gz", ".bz2", ".xz")
SUFFIXES = (
    ".poscar", ".contcar", ".outcar", ".vasp", ".cif", ".xyz", ".extxyz", ".traj", ".db", ".json", ".xml", ".xsf",
    ".in", ".out", ".log", ".pdb", ".gen", ".xtl", ".res", ".cell", ".pwi", ".pwo", ".aselmdb",
)  # fmt: skip
"""Endings of structure files; others may belong to a name, such as that of ``Ni0.5``."""

OF_THE_FOLDER = re.compile(r"(poscar|contcar|centcar|outcar|oszicar|xdatcar|vasprun)", re.IGNORECASE)
"""Files with the same name in each folder, which are therefore named by their folder."""


def name_parts(name: str | PurePath) -> Parts:
    """Folders and stem of a file or of a name in a table: ``a/Pt-CO.contcar`` -> ``("a", "Pt-CO")``.

    Endings of structure files are left out, and so is a file's name that is the same in each folder (``POSCAR``).
    """
    parts = [part for part in str(name).replace("\\", "/").split("/") if part not in ("", ".")]
    if not parts:
        return ()
    stem = without_suffix(parts[-1])
    if len(parts) > 1 and OF_THE_FOLDER.fullmatch(stem):
        return tuple(parts[:-1])
    return (*parts[:-1], stem)


def without_suffix(name: str) -> str:
    """A file's name without the ending of a structure file, compressed or not."""
    for endings in (COMPRESSED, SUFFIXES):
        ending = next((ending for ending in endings if name.lower().endswith(ending) and len(name) > len(ending)), "")
        name = name[: len(name) - len(ending)]
    return name


def short_ids(names: Sequence[Parts]) -> list[str]:
    """An id for each name: its last part if unique, else all of its parts.

    Ids name files elsewhere, so parts are joined by ``_``.
    """
    counts = Counter(name[-1] for name in names)
    return [name[-1] if counts[name[-1]] == 1 else "_".join(name) for name in names]
