"""Tables with one row per structure, found by its name: with or without folder, suffix, header; commas or blanks."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fairchem_hdgnn.data.structures.names import Parts, name_parts
from fairchem_hdgnn.errors import DataError, nearest

SEPARATORS = (";", "\t", ",")
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        line: number in the file, from 1.
        name: its first cell.
        cells: the others.
    """

    line: int
    name: str
    cells: tuple[str, ...]


class NamedTable:
    """A text table whose first column names structures.

    Attributes:
        path: the file.
        columns: names of the other columns; empty without a header.
        rows: all rows.
        separated: whether commas, semicolons or tabs stand between cells, not blanks.

    Args:
        path: the file; ``#`` begins a comment.
        is_value: whether a cell can be a value; a first row with none in its cells is the header.

    Raises:
        DataError: the file is missing, is no text, or has no rows.
    """

    def __init__(self, path: Path, is_value: Callable[[str], bool]) -> None:
        self.path = path
        self.separated, lines = _cells(path)
        self.columns: tuple[str, ...] = ()
        if lines and lines[0][1][1:] and not any(is_value(cell) for cell in lines[0][1][1:]):
            self.columns = tuple(lines.pop(0)[1][1:])
        if not lines:
            raise DataError(f"{path}: has no rows; write one row per structure: its name and the value")
        self.rows = [Row(line, cells[0], tuple(cells[1:])) for line, cells in lines]
        self._by_end: dict[str, list[tuple[Parts, Row]]] = {}
        for row in self.rows:
            if parts := name_parts(row.name):
                self._by_end.setdefault(parts[-1], []).append((parts, row))
        self._taken: dict[int, str] = {}

    def column(self, name: str) -> int | None:
        """Place of a column in ``Row.cells``; upper and lower case are the same."""
        names = [column.lower() for column in self.columns]
        return names.index(name.lower()) if name.lower() in names else None

    def row(self, names: Iterable[Parts], who: str) -> Row | None:
        """The row of the structure that goes by any of ``names``; of several the one that names most of its folders.

        Args:
            names: possible names of the structure, the most specific first.
            who: the structure, for messages.

        Raises:
            DataError: two different rows fit, or the row was found for another structure before.
        """
        for name in names:
            fits = [(_common(parts, name), row) for parts, row in self._by_end.get(name[-1], ())]
            longest = max((length for length, _ in fits), default=0)
            rows = [row for length, row in fits if length == longest > 0]
            if not rows:
                continue
            if len({row.cells for row in rows}) > 1:
                lines = " and ".join(str(row.line) for row in rows[:2])
                raise DataError(
                    f"{self.path}: lines {lines} both match {who}, with different values; add its folder to the name"
                )
            other = self._taken.setdefault(rows[0].line, who)
            if other != who:
                raise DataError(
                    f"{self.path}: line {rows[0].line} ({rows[0].name}) matches {other} and {who}; add their folders "
                    "to the names"
                )
            return rows[0]
        return None

    @property
    def unused(self) -> list[Row]:
        """Rows that were not found for any structure."""
        return [row for row in self.rows if row.line not in self._taken]

    def like(self, name: str) -> str:
        """``; did you mean 'x'?`` for the row closest to ``name``, if one is close."""
        close = nearest(name, self._by_end)
        return f"; did you mean '{close}'?" if close else ""


def _common(row: Parts, name: Parts) -> int:
    """Number of matching parts, if all parts of one name occur in the other in order and the last parts are equal."""
    short, long = sorted((row, name), key=len)
    rest = iter(long)
    return len(short) if short[-1] == long[-1] and all(part in rest for part in short) else 0


def _cells(path: Path) -> tuple[bool, list[tuple[int, list[str]]]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not a text file; write it as text or CSV in UTF-8") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and line.lstrip()[0] != "#"]
    separator = next((mark for mark in SEPARATORS if numbered and mark in numbered[0][1]), None)
    split = str.split if separator is None else lambda line: next(csv.reader([line], delimiter=separator))
    return separator is not None, [(number, [cell.strip() for cell in split(line)]) for number, line in numbered]


def is_number(text: str) -> bool:
    """Whether a cell looks like a number, including ``nan``, decimal commas and ``1_000``, which ``number`` refuses."""
    text = text.replace("_", "")
    return math.isfinite(number(text)) or text.lower() == "nan" or _DECIMAL_COMMA.fullmatch(text) is not None


def number(text: str) -> float:
    """A cell's finite number, else nan."""
    try:
        value = math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


class EnergyTable:
    """Energies of structures by their names, eV, and perhaps which references belong to them.

    A header may name a column ``slab`` and a column ``gas``: keys of the tables of references.

    Args:
        path: the table.
        column: which of several columns with numbers.

    Raises:
        DataError: the table cannot be read, or it is not clear which column to take.
    """

    REFERENCES = ("slab", "gas")

    def __init__(self, path: Path, column: str | None = None) -> None:
        self.table = NamedTable(path, is_number)
        self.place = self._place(column)

    def _place(self, column: str | None) -> int:
        table = self.table
        if column is not None and table.columns:
            place = table.column(column)
            if place is None:
                raise DataError(f"{table.path}: has no column '{column}'; its columns are {', '.join(table.columns)}")
            return place
        numeric = [
            place
            for place in range(max(len(row.cells) for row in table.rows))
            if any(place < len(row.cells) and is_number(row.cells[place]) for row in table.rows)
            and (
                not table.columns or place >= len(table.columns) or table.columns[place].lower() not in self.REFERENCES
            )
        ]
        if len(numeric) == 1:
            return numeric[0]
        first = table.rows[0]
        if not numeric:
            raise DataError(f"{table.path}: line {first.line} has no number; write a name and an energy in eV")
        if table.columns:
            names = ", ".join(table.columns[place] for place in numeric if place < len(table.columns))
            raise DataError(f"{table.path}: has several columns of numbers ({names}); choose one with --energy-key")
        raise DataError(
            f"{table.path}: has {len(numeric)} columns of numbers and no header; write one (name, energy, ...) and "
            "choose with --energy-key"
        )

    def energy(self, names: Sequence[Parts], who: str) -> tuple[float, dict[str, str]]:
        """Energy, eV, and the names of its references: ``slab``, ``gas``, as far as the table has them.

        Raises:
            DataError: the table has no row of that name, or no finite number in it.
        """
        row = self.table.row(names, who)
        if row is None:
            raise DataError(f"{self.table.path} has no row '{names[0][-1]}'{self.table.like(names[0][-1])}")
        text = row.cells[self.place] if self.place < len(row.cells) else ""
        value = number(text)
        if math.isnan(value):
            raise DataError(
                f"{self.table.path}: line {row.line} has {text!r} for {row.name}, not an energy in eV (decimal point)"
            )
        keys = {key: row.cells[place] for key in self.REFERENCES if (place := self.table.column(key)) is not None}
        return value, {key: value for key, value in keys.items() if value}
