"""Provenance of records: tables next to the LMDB that map an id to its file and structure.

``sources.csv`` has one row a record, ``left_out.csv`` one row for what did not become one, and ``tags_to_check.csv``
the adsorbates of systems whose derived tags are in doubt, in the form that ``--tags`` takes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from fairchem_hdgnn.data.structures.names import Parts
from fairchem_hdgnn.data.structures.tables import NamedTable
from fairchem_hdgnn.errors import DataError

SOURCES, LEFT_OUT, TO_CHECK = "sources.csv", "left_out.csv", "tags_to_check.csv"
NO_ADSORBATE = "none"


@dataclass(frozen=True)
class Source:
    """A row of ``sources.csv``.

    Attributes:
        id: ``sid`` of the record; with ``_fid`` for frames.
        file: path relative to the converted source.
        structure: place in the file, from 0.
        kind: adsorbed, slab, gas, bulk or cluster.
        tags: origin of the tags.
        fixed: where the fixed atoms come from.
        doubts: why derived tags may be wrong.
        label: the sum that the label is, eV, where references were subtracted.
    """

    id: str
    file: str
    structure: int
    kind: str
    tags: str
    fixed: str
    doubts: str
    label: str


@dataclass(frozen=True)
class LeftOut:
    """A row of ``left_out.csv``: file, structure in it if it is known, reason."""

    file: str
    structure: str
    reason: str


@dataclass(frozen=True)
class ToCheck:
    """A row of ``tags_to_check.csv``: name, atoms of the adsorbate, doubts."""

    name: str
    adsorbate: str
    doubts: str


def write_rows(path: Path, rows: Sequence[Source] | Sequence[LeftOut] | Sequence[ToCheck]) -> None:
    """Write a table with a header; write no file if there are no rows."""
    if not rows:
        return
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([field.name for field in fields(rows[0])])
        writer.writerows(astuple(row) for row in rows)


def atom_ranges(mask: Bool[np.ndarray, "atoms"]) -> str:
    """Atoms as ranges counted from 0: ``45-62 64``; ``none`` for no atom."""
    atoms = np.flatnonzero(mask)
    if not len(atoms):
        return NO_ADSORBATE
    runs = np.split(atoms, np.flatnonzero(np.diff(atoms) > 1) + 1)
    return " ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


class AdsorbateTable:
    """Which atoms are the adsorbate, by the names of structures: rows such as ``Pt111-CO, 36-37 40``.

    Args:
        path: a table with a name and ranges of atoms, counted from 0; ``none`` for a clean slab.

    Raises:
        DataError: the table cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.table = NamedTable(path, _is_ranges)

    def adsorbate(self, names: Iterable[Parts], who: str, natoms: int) -> Bool[np.ndarray, "atoms"] | None:
        """Mask of the adsorbate's atoms; ``None`` if the table does not name the structure.

        Raises:
            DataError: the row has no ranges, or an atom that the structure lacks.
        """
        row = self.table.row(names, who)
        if row is None:
            return None
        place = self.table.column("adsorbate") or 0
        # Blanks between columns are also those between ranges.
        text = " ".join(row.cells[place : place + 1] if self.table.separated else row.cells)
        where = f"{self.table.path}: line {row.line} ({row.name})"
        if not text or not _is_ranges(text):
            raise DataError(
                f"{where} has {text!r}; write the adsorbate's atoms, counted from 0, such as '36-37 40', or 'none'"
            )
        mask = np.zeros(natoms, dtype=bool)
        for piece in text.split() if text != NO_ADSORBATE else []:
            first, _, last = piece.partition("-")
            if int(last or first) >= natoms or int(last or first) < int(first):
                raise DataError(f"{where} has atoms {piece}, but {who} has {natoms}, counted from 0")
            mask[int(first) : int(last or first) + 1] = True
        return mask


def _is_ranges(text: str) -> bool:
    pieces = text.split()
    return text == NO_ADSORBATE or (
        bool(pieces) and all(all(half.isdigit() for half in piece.split("-", 1)) for piece in pieces)
    )
