"""A few hundred molecules of QM9 in the formats it is distributed in, for tests."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from fairchem_hdgnn.data.qm9_molecules import Molecules, collect
from fairchem_hdgnn.data.qm9_sources import read_source
from fairchem_hdgnn.data.qm9_targets import ELEMENTS, TARGETS

SYMBOLS = {number: symbol for symbol, number in ELEMENTS.items()}
LEFT_OUT = (21, 58)
"""Molecules of the uncharacterised list that a test archive holds all the same."""


@lru_cache(maxsize=1)
def all_molecules() -> Molecules:
    """QM9 as ``qm9pack`` has it; the test is skipped where that is not installed."""
    if importlib.util.find_spec("qm9pack") is None:
        pytest.skip("qm9pack is not installed")
    return collect(read_source("qm9pack")[1])


def xyz_text(molecules: Molecules, row: int, index: int | None = None) -> str:
    """A molecule as the original archive writes it, with a number in Mathematica's notation."""
    atoms = molecules.atoms(row)
    values = dict(zip(TARGETS, molecules.properties[row]))
    order = ("mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "u0", "u", "h", "g", "cv")
    properties = "\t".join(repr(float(values[name])) for name in order)
    name = molecules.index[row] if index is None else index
    lines = [str(molecules.num_atoms[row]), f"gdb {name}\t157.7\t1.5*^2\t157.\t{properties}\t"]
    for number, position in zip(molecules.numbers[atoms], molecules.positions[atoms]):
        coordinates = "\t".join(re.sub(r"e(-?)0?", r"*^\1", repr(float(value))) for value in position)
        lines.append(f"{SYMBOLS[number]}\t{coordinates}\t-0.1\t")
    return "\n".join([*lines, "1341.307\t1341.3", "C\tC\t", "InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4"]) + "\n"


def write_xyz_folder(folder: Path, rows: Sequence[int]) -> Path:
    """The original archive, unpacked, of some molecules and two uncharacterised ones, with the list of those."""
    molecules = all_molecules()
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        (folder / f"dsgdb9nsd_{molecules.index[row]:06d}.xyz").write_text(xyz_text(molecules, row))
    for index in LEFT_OUT:
        (folder / f"dsgdb9nsd_{index:06d}.xyz").write_text(xyz_text(molecules, 0, index))
    (folder / "uncharacterized.txt").write_text("".join(f"{index:>8}  C#N  1.0\n" for index in LEFT_OUT))
    return folder


def write_sdf_folder(folder: Path, rows: Sequence[int]) -> Path:
    """torch-geometric's raw folder of some molecules: positions with four digits."""
    molecules = all_molecules()
    folder.mkdir(parents=True)
    columns = ("mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "u0", "u", "h", "g", "cv")
    header = "mol_id,A,B,C,mu,alpha,homo,lumo,gap,r2,zpve,u0,u298,h298,g298,cv,u0_atom,u298_atom,h298_atom,g298_atom"
    table, blocks = [header], []
    for row in rows:
        atoms = molecules.atoms(row)
        name = f"gdb_{molecules.index[row]}"
        values = dict(zip(TARGETS, molecules.properties[row]))
        table.append(",".join([name, "1.", "1.", "1.", *(repr(float(values[c])) for c in columns), "0", "0", "0", "0"]))
        size = molecules.num_atoms[row]
        lines = [name, "  -OEChem-01010100003D", "", f"{size:>3}{size - 1:>3}  0     0  0  0  0  0  0999 V2000"]
        for number, position in zip(molecules.numbers[atoms], molecules.positions[atoms]):
            lines.append("".join(f"{value:10.4f}" for value in position) + f" {SYMBOLS[number]}   0  0  0  0  0  0")
        blocks.append("\n".join([*lines, "  1  2  1  0  0  0  0", "M  END", "$$$$"]))
    (folder / "gdb9.sdf").write_text("\n".join(blocks) + "\n")
    (folder / "gdb9.sdf.csv").write_text("\n".join(table) + "\n")
    (folder / "uncharacterized.txt").write_text("")
    return folder


def some_rows(count: int) -> list[int]:
    """Rows spread over the data set, ascending, among them methane, water and benzene."""
    spread = np.linspace(1000, len(all_molecules()) - 1, count - 3).astype(int)
    return [0, 2, int(np.searchsorted(all_molecules().index, 214)), *spread.tolist()]
