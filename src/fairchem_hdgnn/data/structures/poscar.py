"""POSCAR and CONTCAR, compressed or not, with their symbols and fixed atoms."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.formats import open_with_compression
from ase.io.vasp import read_vasp
from jaxtyping import Int

COUNTS_LINE = 5
"""Index of the line of a VASP 4 POSCAR that counts the atoms; VASP 5 has the symbols there."""

ATOMS_LINE = COUNTS_LINE + 3
"""Index of the first line that can contain an atom."""

FLAG = re.compile(r"(?i)\s\.?([tf])[a-z]*\.?(?=\s|$)")
"""A Fortran logical; ASE knows ``T`` and ``F`` only, and treats an atom with ``.FALSE.`` as free."""


def open_text(path: Path) -> io.TextIOWrapper:
    """Open a text file, compressed or not; ASE's readers find the files next to it by its ``name``."""
    binary: Any = open_with_compression(str(path), "rb")
    # The files of bz2 and lzma have no name before Python 3.13.
    if not hasattr(binary, "name"):
        binary.name = str(path)
    return io.TextIOWrapper(binary, encoding="utf-8", errors="replace")


def read_poscar(path: Path, numbers: Int[np.ndarray, "atoms"] | None = None) -> Atoms:
    """A POSCAR or CONTCAR with its fixed atoms.

    Args:
        path: the file.
        numbers: atomic numbers for a file of VASP 4, which has no line of symbols; without them ASE looks at the
            comment in the first line, and at POTCAR and OUTCAR next to the file.
    """
    with open_text(path) as file:
        lines = file.read().splitlines(keepends=True)
    counts = lines[COUNTS_LINE].split("!")[0].split()
    without_symbols = counts[0].isdigit()
    if without_symbols and numbers is not None:
        lines.insert(COUNTS_LINE, " ".join("X" for _ in counts) + "\n")
    head, atoms_lines = lines[:ATOMS_LINE], lines[ATOMS_LINE:]
    flags = [FLAG.sub(lambda flag: f" {flag[1].upper()}", line) for line in atoms_lines]
    text = io.StringIO("".join([*head, *flags]))
    text.name = str(path)  # type: ignore[attr-defined]
    atoms = read_vasp(text)
    if without_symbols and numbers is not None and len(numbers) == len(atoms):
        atoms.numbers = numbers
    return atoms
