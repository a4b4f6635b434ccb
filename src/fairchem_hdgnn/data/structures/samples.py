"""Read the samples in a folder one at a time: a structure, or an initial and its relaxed structure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms

from fairchem_hdgnn.data.structures.files import read_structures, structure_files
from fairchem_hdgnn.data.structures.names import Parts, name_parts, short_ids
from fairchem_hdgnn.data.structures.pairs import paired_files
from fairchem_hdgnn.data.structures.vasp import is_vasp_folder, read_vasp_folder, read_vasp_frames, vasp_folders
from fairchem_hdgnn.errors import DataError

Task = Literal["is2re", "s2ef"]


@dataclass
class Sample:
    """One structure that becomes a record.

    Attributes:
        path: the file, or folder, that it comes from.
        frame: place in that file, from 0.
        id: name in the LMDB.
        names: names that it can have in tables, the most specific first.
        initial: the structure of the record.
        relaxed: the relaxed structure.
        results: of a calculation, as far as known apart from the structures: ``energy`` of the relaxed and
            ``initial_energy`` of the initial structure (eV), ``forces`` on the relaxed one (eV/Å), ``converged``, and
            ``other_start`` where the output of the calculation begins with another structure than the initial one.
    """

    path: Path
    frame: int
    id: int | str
    names: list[Parts]
    initial: Atoms
    relaxed: Atoms | None = None
    results: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """File and structure, for messages."""
        return f"{self.path}, structure {self.frame}"


@dataclass
class Unit:
    """A file, a pair of files or a folder, read as a whole.

    Attributes:
        path: for messages.
        name: folders and stem.
        aliases: other names.
        read: its samples.
        id: set when all units are known.
        lonely: half of a pair without the other half.
        optional: may contain no structures: folders can have notes and scripts, too.
        one_system: its structures are frames of one system, and share its id.
    """

    path: Path
    name: Parts
    read: Callable[[Unit], Iterator[Sample]]
    aliases: list[Parts] = field(default_factory=list)
    id: str = ""
    lonely: bool = False
    optional: bool = False
    one_system: bool = False


@dataclass(frozen=True)
class FileLayout:
    """How files map to samples.

    Attributes:
        task: ``is2re`` or ``s2ef``.
        relaxations: each file is one relaxation, from its first to its last structure.
        pairs: ``INITIAL,RELAXED``, two patterns of files.
        pattern: files of a folder to read; ``None``: all, and folders of VASP calculations as a whole.
        format: ASE's name of the files' format.
    """

    task: Task
    relaxations: bool = False
    pairs: str | None = None
    pattern: str | None = None
    format: str | None = None


def find_units(source: Path, layout: FileLayout) -> list[Unit]:
    """The units to read, in the order of paths.

    Raises:
        DataError: ``source`` does not exist, or nothing there matches.
    """
    if layout.pairs is not None:
        units = _pairs(source, layout)
    else:
        units = _vasp(source, layout)
        if not units or not is_vasp_folder(source):
            units += _files(source, layout, without=[unit.path for unit in units])
    named = [unit for unit in units if not unit.lonely]
    for unit, identifier in zip(named, short_ids([unit.name for unit in named])):
        unit.id, unit.one_system = identifier, layout.task == "s2ef"
    return sorted(units, key=lambda unit: unit.path)


def _pairs(source: Path, layout: FileLayout) -> list[Unit]:
    pairs, lonely = paired_files(source, str(layout.pairs))

    def reader(initial: Path, relaxed: Path) -> Callable[[Unit], Iterator[Sample]]:
        return lambda unit: _pair(unit, initial, relaxed, layout.format)

    units = [Unit(pair.initial, pair.names[0], reader(pair.initial, pair.relaxed), pair.names[1:]) for pair in pairs]
    return units + [Unit(path, name_parts(path), lambda unit: iter(()), lonely=True) for path in lonely]


def _vasp(source: Path, layout: FileLayout) -> list[Unit]:
    if layout.pattern is not None or layout.format is not None or not source.is_dir():
        return []
    read = _vasp_frames if layout.task == "s2ef" else _vasp_relaxation
    return [Unit(folder, _name(folder, source), read) for folder in vasp_folders(source)]


def _files(source: Path, layout: FileLayout, without: list[Path]) -> list[Unit]:
    paths = structure_files(source, layout.pattern or "**/*")
    folders = set(without)
    relaxations = layout.task == "is2re" and layout.relaxations
    read = _relaxation if relaxations else _structures

    def reader(unit: Unit) -> Iterator[Sample]:
        return read(unit, layout.format)

    found = [path for path in paths if path.parent not in folders]
    _refuse_unpaired(found)
    return [Unit(path, _name(path, source), reader, optional=path != source) for path in found]


def _refuse_unpaired(paths: list[Path]) -> None:
    """Raise ``DataError`` for a POSCAR next to its CONTCAR: the relaxed structure is not an input."""
    starts = {name_parts(path): path for path in paths if "poscar" in path.name.lower()}
    for path in paths:
        start = starts.get(name_parts(path)) if "contcar" in path.name.lower() else None
        if start is not None:
            raise DataError(
                f"{path}: is next to {start.name}; pair them, for example with --pairs '**/POSCAR,**/CONTCAR' or "
                "'**/*.poscar,**/*.contcar', or choose one with --pattern"
            )


def _name(path: Path, source: Path) -> Parts:
    """Folders below ``source`` and stem."""
    if path == source:
        return name_parts(path.resolve())[-1:]
    parts = name_parts(path.relative_to(source))
    return parts if path.is_dir() or parts != name_parts(path.name) else name_parts(path.resolve())[-1:]


def _structures(unit: Unit, format_name: str | None) -> Iterator[Sample]:
    frames = read_structures(unit.path, format_name)
    first = next(frames)
    damaged = None
    try:
        second = next(frames, None)
    except DataError as error:
        second, damaged = None, error
    yield _sample(unit, first, 0, single=second is None and damaged is None)
    if damaged is not None:
        raise damaged
    for frame, atoms in enumerate([] if second is None else chain([second], frames), start=1):
        yield _sample(unit, atoms, frame, single=False)


def _relaxation(unit: Unit, format_name: str | None) -> Iterator[Sample]:
    frames = read_structures(unit.path, format_name)
    sample = _sample(unit, next(frames), 0, single=True)
    last = None
    for last in frames:  # noqa: B007 (the value after the loop is wanted)
        pass
    if last is None:
        raise StructureError(f"{unit.path}: has one structure, not a relaxation; omit --relaxations")
    sample.relaxed = last
    yield sample


def _pair(unit: Unit, initial: Path, relaxed: Path, format_name: str | None) -> Iterator[Sample]:
    both = zip_longest(read_structures(initial, format_name), read_structures(relaxed, format_name))
    structures = list(both)
    for frame, (start, end) in enumerate(structures):
        if start is None or end is None:
            longer = relaxed if start is None else initial
            raise StructureError(f"{longer}: has more structures than its partner; pair files of the same length")
        sample = _sample(unit, start, frame, single=len(structures) == 1)
        sample.relaxed = end
        yield sample


def _vasp_relaxation(unit: Unit) -> Iterator[Sample]:
    found = read_vasp_folder(unit.path)
    sample = _sample(unit, found.initial, 0, single=True)
    sample.relaxed = found.relaxed
    known = {
        "energy": found.energy,
        "initial_energy": found.initial_energy,
        "forces": found.forces,
        "converged": found.converged,
        # Only OSZICAR lacks forces, and then positions, too.
        "other_start": True if found.forces is not None and found.initial_energy is None else None,
    }
    sample.results = {name: value for name, value in known.items() if value is not None}
    yield sample


def _vasp_frames(unit: Unit) -> Iterator[Sample]:
    for frame, (atoms, converged) in enumerate(read_vasp_frames(unit.path)):
        sample = _sample(unit, atoms, frame, single=False)
        sample.results = {} if converged is None else {"converged": converged}
        yield sample


def _sample(unit: Unit, atoms: Atoms, frame: int, *, single: bool) -> Sample:
    given = atoms.info.get("sid")
    if isinstance(given, (int, np.integer)):
        given = int(given)
    elif given is not None:
        given = str(given).strip() or None
    derived = unit.id if single or unit.one_system else f"{unit.id}@{frame}"
    names = [name_parts(str(given))] if given is not None else []
    for name in (unit.name, *unit.aliases):
        names.append(name if single else (*name[:-1], f"{name[-1]}@{frame}"))
    return Sample(unit.path, frame, derived if given is None else given, names, atoms)


class StructureError(DataError):
    """A structure that cannot become a record, as opposed to a file without structures."""
