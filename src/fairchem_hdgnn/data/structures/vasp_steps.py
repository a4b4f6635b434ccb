"""Read ionic steps from OUTCAR, vasprun.xml and OSZICAR, with ASE's readers if possible; also of killed runs."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import ParseError, iread
from ase.io.vasp_parsers import vasp_outcar_parsers as outcar
from jaxtyping import Float64

from fairchem_hdgnn.data.structures.poscar import open_text

SETTINGS = ("NSW", "NELM", "IBRION")
SETTING = re.compile(rf"^\s*({'|'.join(SETTINGS)})\s*=\s*(-?\d+)")
ITERATION = re.compile(r"Iteration\s+\d+\(\s*(\d+)\)")
E0 = re.compile(r"E0=\s*([-+]?[\d.]+(?:[EeDd][-+]?\d+)?)")
ENDED = "reached required accuracy - stopping structural energy minimisation"


class IncompleteError(ValueError):
    """A file ends before the first ionic step is complete."""


@dataclass(frozen=True)
class Step:
    """An ionic step.

    Attributes:
        energy: eV, extrapolated to sigma -> 0.
        atoms: its structure, if the file has it, without a calculator.
        forces: eV/Å, of fixed atoms too.
        free_energy: eV, to which the forces belong.
    """

    energy: float
    atoms: Atoms | None = None
    forces: Float64[np.ndarray, "atoms 3"] | None = None
    free_energy: float | None = None


@dataclass(frozen=True)
class Run:
    """A run read from a file.

    Attributes:
        file: the file.
        first: the first complete ionic step.
        last: the last one.
        converged: whether the run converged, if known.
        electronic: whether the electronic loop of each complete ionic step converged, if known.
    """

    file: Path
    first: Step
    last: Step
    converged: bool | None = None
    electronic: tuple[bool | None, ...] = ()


def outcar_run(path: Path) -> Run:
    """Read the run of an OUTCAR, even if it ends in the middle of a step.

    Raises:
        IncompleteError: no ionic step is complete.
    """
    with open_text(path) as file:
        watched = _Watched(file)
        chunks = _chunks(watched)
        first = last = next(chunks)
        electronic = [watched.electronic]
        for last in chunks:  # noqa: B007 (the value after the loop is wanted)
            electronic.append(watched.electronic)
    return Run(path, _step(first), _step(last), watched.converged, tuple(electronic))


def outcar_steps(path: Path) -> Iterator[Step]:
    """All complete ionic steps of an OUTCAR."""
    with open_text(path) as file:
        for chunk in _chunks(file):
            yield _step(chunk)


def _chunks(file: Any) -> Iterator[outcar.OUTCARChunk]:
    # Without a folder ASE looks for no CONTCAR there, which may be cut off.
    header = outcar.OutcarHeaderParser([outcar.SpeciesTypes(), outcar.IonsPerSpecies()], workdir=None)
    steps = outcar.OutcarChunkParser(parsers=[outcar.Cell(), outcar.PositionsAndForces(), outcar.Energy()])
    complete = False
    try:
        for chunk in outcar.outcarchunks(file, chunk_parser=steps, header_parser=header):
            complete = True
            yield chunk
    except ParseError as error:
        if "Incomplete" not in str(error):
            raise
    if not complete:
        raise IncompleteError


def _step(chunk: outcar.OUTCARChunk) -> Step:
    chunk.parser.header = chunk.header
    found = chunk.parser.parse(chunk.lines)
    atoms = None
    if "positions" in found and "cell" in found:
        atoms = Atoms(chunk.header["symbols"], positions=found["positions"], cell=found["cell"], pbc=True)
    return Step(found["energy"], atoms, found.get("forces"), found["free_energy"])


class _Watched:
    """Pass the lines of an OUTCAR to ASE, and record what they say about convergence."""

    def __init__(self, file: io.TextIOWrapper) -> None:
        self.file, self.name = file, file.name
        self.settings: dict[str, int] = {}
        self.ended = False
        self.electronic: bool | None = None
        self._iterations = 0
        self._reached: bool | None = None

    def __iter__(self) -> _Watched:
        return self

    def __next__(self) -> str:
        line = next(self.file)
        if "=" in line and (match := SETTING.match(line)):
            self.settings[match[1]] = int(match[2])
        elif "Iteration" in line and (match := ITERATION.search(line)):
            self._iterations = int(match[1])
        elif "aborting loop" in line:
            self._reached = "because EDIFF is reached" in line
        elif outcar._OUTCAR_SCF_DELIM in line:
            cut = self._iterations >= self.settings.get("NELM", np.inf)
            self.electronic = False if self._reached is None and cut else self._reached
            self._reached = None
        elif ENDED in line:
            self.ended = True
        return line

    @property
    def converged(self) -> bool | None:
        if self.electronic is False:
            return False
        if self.ended:
            return True
        if "NSW" not in self.settings:
            return None
        return self.electronic if _static(self.settings) else False


def _static(settings: dict[str, int]) -> bool:
    return settings["NSW"] <= 0 or settings.get("IBRION") == -1


def vasprun_run(path: Path) -> Run:
    """Read the run of a vasprun.xml, even if it is truncated.

    Raises:
        IncompleteError: no ionic step is complete.
    """
    loops, settings, cut_off = _loops(path)
    if not loops:
        raise IncompleteError
    frames = list(_vasprun_frames(path, slice(None, None, max(len(loops) - 1, 1))))
    electronic = tuple(length < settings["NELM"] if "NELM" in settings else None for length in loops)
    converged = None
    if cut_off:
        converged = False
    elif "NSW" in settings and "NELM" in settings:
        converged = electronic[-1] and (_static(settings) or len(loops) < settings["NSW"])
    return Run(path, _step_of(frames[0]), _step_of(frames[-1]), converged, electronic)


def vasprun_steps(path: Path) -> Iterator[Step]:
    """All complete ionic steps of a vasprun.xml."""
    return map(_step_of, _vasprun_frames(path, slice(None)))


def _vasprun_frames(path: Path, index: slice) -> Iterator[Atoms]:
    with open_text(path) as file:
        yield from (atoms for atoms in iread(file, index=index, format="vasp-xml") if atoms.calc is not None)


def _step_of(frame: Atoms) -> Step:
    results = frame.calc.results
    atoms = frame.copy()
    return Step(float(results["energy"]), atoms, results.get("forces"), float(results["free_energy"]))


def _loops(path: Path) -> tuple[list[int], dict[str, int], bool]:
    """Data that ASE does not read: lengths of the electronic loops, settings, and whether the file is truncated."""
    lengths: list[int] = []
    settings: dict[str, int] = {}
    with open_text(path) as file:
        try:
            for _, element in ET.iterparse(file):
                if element.tag == "calculation":
                    # Behind the energy come the loops of linear response.
                    ground_state = takewhile(lambda child: child.tag != "energy", element)
                    lengths.append(sum(child.tag == "scstep" for child in ground_state))
                    element.clear()
                elif element.tag == "parameters":
                    # NELM occurs twice; the second one belongs to linear response.
                    for entry in element.iter("i"):
                        if entry.get("name") in SETTINGS and entry.text is not None:
                            settings.setdefault(entry.get("name", ""), int(entry.text))
        except ET.ParseError:
            return lengths, settings, True
    return lengths, settings, False


def oszicar_run(path: Path) -> Run:
    """Read the run of an OSZICAR, which has energies only.

    Raises:
        IncompleteError: no ionic step is complete.
    """
    with open_text(path) as file:
        energies = [float(match[1].upper().replace("D", "E")) for line in file if (match := E0.search(line))]
    if not energies:
        raise IncompleteError
    return Run(path, Step(energies[0]), Step(energies[-1]))
