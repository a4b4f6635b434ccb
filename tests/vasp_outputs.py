"""Genuine files of VASP, which ASE's wheel brings, and longer runs made from them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import ase
import pytest

ATOM = re.compile(r"( +-?\d+\.\d{5}){3} ")

MOVE = 0.1
"""Å along x by which every atom moves in each ionic step."""


def genuine(name: str) -> str:
    """The text of a file among ASE's test data."""
    path = Path(ase.__file__).parent / "test/testdata/vasp" / name
    if not path.is_file():
        pytest.skip(f"this wheel of ASE does not bring {name}")
    return path.read_text()


def outcar(energies: Sequence[float], *, loops: int = 20, ended: bool = True, nsw: int = 100, reached: str = "") -> str:
    """An OUTCAR of a relaxation: the one ionic step of the genuine file, several times.

    Args:
        energies: eV, of each ionic step.
        loops: electronic steps of each.
        ended: whether the relaxation ends by itself.
        nsw: as in INCAR.
        reached: replaces the line on the end of the electronic loop.
    """
    text = genuine("OUTCAR_example_1")
    start = re.search(r"^-+ Iteration", text, re.M).start()
    tail = text.rindex("    POTLOK:")
    head = text[:start].replace("NSW    =      0", f"NSW    = {nsw:6}").replace("IBRION =     -1", "IBRION =      2")
    line = re.search(r"^-+ aborting loop because EDIFF is reached -+$", text, re.M)[0]
    lattice = text[text.rindex("      direct lattice vectors", 0, tail) :].split("\n\n")[0]
    forces = text[text.index(" POSITION  ") : text.index("  FREE ENERGIE")]
    energy = text[text.index("  FREE ENERGIE") : tail]
    steps = []
    for index, value in enumerate(energies):
        moved = "\n".join(
            f"{float(line[:13]) + MOVE * index:13.5f}{line[13:]}" if ATOM.match(line) else line
            for line in forces.splitlines()
        )
        for loop in range(1, loops + 1):
            steps.append(f"----------------------------------------- Iteration {index + 1:4}({loop:4})  ------\n\n")
        steps.append(f"{reached or line}\n\n\n{lattice}\n\n{moved}\n{energy}".replace("-68.23102426", f"{value:.8f}"))
    if ended:
        steps.append(" reached required accuracy - stopping structural energy minimisation\n")
    return head + "".join(steps) + text[tail:]


def vasprun(steps: int, *, nsw: int = 100) -> str:
    """A vasprun.xml: the one ionic step of the genuine file, several times."""
    text = genuine("vasprun_pstress.xml")
    start, end = text.index(" <calculation>"), text.index("</calculation>") + len("</calculation>")
    head = (
        text[:start]
        .replace('name="NSW">     0<', f'name="NSW">{nsw:6}<')
        .replace('"IBRION">    -1<', '"IBRION">     2<')
    )
    # As VASP writes it, beside the electronic one.
    response = '<separator name="linear response parameters">\n<i type="int" name="NELM">     1</i>\n</separator>\n'
    head = head.replace("</parameters>", f"{response}</parameters>")
    return head + "\n".join([text[start:end]] * steps) + text[end:]
