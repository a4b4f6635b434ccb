"""Reference energies, subtracted from total energies: E(adsorption) = E(slab + adsorbate) - E(slab) - E(gas).

OC20's labels are of this kind. Rows of the tables are found, in this order,

- by the name in the column ``slab`` or ``gas`` of the table of energies,
- by a name with wildcards: ``pd-*`` fits all structures whose names begin so,
- by formula: that of the slab without adsorbate (``Pd36``), that of the adsorbate (``C2H4``), in any order of elements,
- for adsorbates, as a sum over elements: energies of one atom of ``H``, ``C``, ``O``, ``N``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers
from ase.formula import Formula

from fairchem_hdgnn.data.structures.tables import NamedTable, is_number, number
from fairchem_hdgnn.errors import DataError, suggestion

Term = tuple[str, float]
"""Key of a subtracted reference and its energy, eV."""


class References:
    """Energies of clean slabs, or of molecules in the gas phase.

    Args:
        path: table of keys and energies, eV.
        what: ``slab`` or ``gas``.

    Raises:
        DataError: the table cannot be read, an energy is not a number, or a key has two different energies.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self.energies: dict[str, float] = {}
        for row in NamedTable(path, is_number).rows:
            energy = number(row.cells[0]) if row.cells else np.nan
            if np.isnan(energy):
                raise DataError(
                    f"{path}: line {row.line} has no energy in eV for {row.name}; write a name and a number"
                )
            if self.energies.setdefault(row.name, energy) != energy:
                raise DataError(
                    f"{path}: line {row.line} gives {row.name} a second energy; keep one, or use different names"
                )
        self._patterns = [key for key in self.energies if any(mark in key for mark in "*?[")]
        self._formulas: dict[tuple[tuple[str, int], ...], list[str]] = {}
        for key in self.energies:
            if counts := _counts(key):
                self._formulas.setdefault(_sorted(counts), []).append(key)

    def terms(self, key: str | None, names: Sequence[str], symbols: Sequence[str]) -> list[Term]:
        """The references to subtract for a structure.

        Args:
            key: the row's name, where the table of energies says it.
            names: names of the structure.
            symbols: elements of the slab without adsorbate, or of the adsorbate, one an atom.

        Raises:
            DataError: no row fits, or several do.
        """
        if key is not None:
            if key not in self.energies:
                raise DataError(f"{self.path} has no row '{key}'{suggestion(key, self.energies)}")
            return [self._term(key)]
        counts = Counter(symbols)
        named = [pattern for pattern in self._patterns if any(fnmatchcase(name, pattern) for name in names)]
        found = named or self._formulas.get(_sorted(counts), [])
        if len(found) > 1:
            raise DataError(
                f"{self.path}: {' and '.join(found[:2])} both match; write the row's name in a column '{self.what}' "
                "of the "
                "--energies table"
            )
        if found:
            return [self._term(found[0])]
        if self.what == "gas" and counts and all(element in self.energies for element in counts):
            return [(f"{n} {name}" if n > 1 else name, n * self.energies[name]) for name, n in counts.items()]
        formula = Formula.from_dict(counts).format("metal")
        part = "slab" if self.what == "slab" else "adsorbate"
        raise DataError(
            f"{self.path} has no row for the {part} {formula}; add {formula}, a name with wildcards, or a column "
            f"'{self.what}' to the --energies table"
        )

    def _term(self, key: str) -> Term:
        return key, self.energies[key]


def _counts(key: str) -> Mapping[str, int]:
    try:
        counts = Formula(key, strict=True).count()
    except Exception:  # names that are no formulas fail in several ways
        return {}
    return counts if all(element in atomic_numbers for element in counts) else {}


def _sorted(counts: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts.items()))


def written_sum(total: float, slab: Sequence[Term], gas: Sequence[Term]) -> str:
    """The calculation as text, eV: ``-322.30 - slab pd-0000 (-195.88) - gas 4a12 (-125.15) = -1.27``."""
    terms = [("slab", *term) for term in slab] + [("gas", *term) for term in gas]
    label = total - sum(energy for _, _, energy in terms)
    return " ".join(
        [f"{total:.6f}", *(f"- {what} {key} ({energy:.6f})" for what, key, energy in terms), f"= {label:.6f}"]
    )
