"""Read a folder with a VASP calculation: first and last structure of the relaxation, and its energy."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.geometry import find_mic
from ase.io.formats import get_compression
from jaxtyping import Float64

from fairchem_hdgnn.data.records import same_cell
from fairchem_hdgnn.data.structures.files import check_content, format_of, matching_paths, read_structures, unreadable
from fairchem_hdgnn.data.structures.poscar import read_poscar
from fairchem_hdgnn.data.structures.vasp_steps import (
    IncompleteError,
    Run,
    Step,
    oszicar_run,
    outcar_run,
    outcar_steps,
    vasprun_run,
    vasprun_steps,
)
from fairchem_hdgnn.errors import DataError

STRUCTURES = ("poscar", "contcar")
RESULTS = {"outcar": outcar_run, "vasprun.xml": vasprun_run, "oszicar": oszicar_run}
"""Files with energies, the most informative first."""

FRAMES = {"outcar": outcar_steps, "vasprun.xml": vasprun_steps}
"""Files with positions, energies and forces of all ionic steps."""

SAME = 1e-3
"""Å by which positions of one structure differ between files; OUTCAR has five decimals."""


@dataclass(frozen=True)
class Relaxation:
    """A relaxation read from a folder; the atoms of both structures are in the same order.

    Attributes:
        initial: POSCAR with its fixed atoms; without one the first ionic step.
        relaxed: the last ionic step, with the same fixed atoms; its cell may differ from the initial one.
        energy: eV, extrapolated to sigma -> 0, of ``relaxed``.
        initial_energy: the same of ``initial``; ``None`` where the first ionic step is not known to be POSCAR's.
        forces: eV/Å on the atoms of ``relaxed``, of fixed atoms too; ``None`` where only OSZICAR has the energy.
        converged: whether the relaxation ended by itself and its last electronic loop converged; of a static
            calculation, whether the electronic loop did; ``None`` if no file says so.
        file: where the energy comes from.
    """

    initial: Atoms
    relaxed: Atoms
    energy: float
    initial_energy: float | None
    forces: Float64[np.ndarray, "atoms 3"] | None
    converged: bool | None
    file: Path


def is_vasp_folder(folder: Path) -> bool:
    """Whether a folder has POSCAR or CONTCAR and OUTCAR, vasprun.xml or OSZICAR, compressed or not."""
    return _is_calculation(_files(folder))


def _is_calculation(files: Mapping[str, Path]) -> bool:
    return not files.keys().isdisjoint(STRUCTURES) and not files.keys().isdisjoint(RESULTS)


def vasp_folders(root: Path, pattern: str = "**/*") -> list[Path]:
    """The folders of calculations below ``root``, or ``root`` itself, sorted by path.

    Args:
        root: where to look.
        pattern: the folders, or files in them.
    """
    places = {path if path.is_dir() else path.parent for path in matching_paths(root, pattern)}
    return sorted(path for path in places if is_vasp_folder(path))


def read_vasp_folder(folder: Path) -> Relaxation:
    """Read a calculation; of one that was killed, its complete ionic steps.

    Raises:
        DataError: no ionic step is complete, a structure is missing or damaged, or files are not of one calculation.
    """
    files = _filled(folder)
    run = _run(folder, files)
    first, last = run.first.atoms, run.last.atoms
    if first is None or last is None:
        walk = list(read_structures(files["xdatcar"])) if "xdatcar" in files else []
        if first is None and walk:
            first = walk[0]
        if last is None and "contcar" in files:
            last = _structure(files["contcar"], first)
        elif last is None and walk:
            last = walk[-1]
    if last is None:
        raise DataError(f"{folder}: {run.file.name} has an energy, but there is no CONTCAR with its structure; add it")
    if "poscar" in files:
        initial = _structure(files["poscar"], last)
    elif first is not None:
        initial = first.copy()
        if not initial.constraints and "contcar" in files:
            initial = _fixed_as(first, _structure(files["contcar"], last), folder)
    else:
        raise DataError(f"{folder}: there is no POSCAR, and no file with the first ionic step; add one of them")
    relaxed = _fixed_as(last, initial, folder)
    same = first is not None and _same(initial, first)
    initial_energy = run.first.energy if same else None
    return Relaxation(initial, relaxed, run.last.energy, initial_energy, run.last.forces, run.converged, run.file)


def read_vasp_frames(folder: Path) -> Iterator[tuple[Atoms, bool | None]]:
    """All complete ionic steps with energies (eV, sigma -> 0) and forces (eV/Å), and the fixed atoms of POSCAR.

    Returns:
        Each structure, and whether its electronic loop converged, if known.

    Raises:
        DataError: neither OUTCAR nor vasprun.xml has a complete ionic step, or the files are of several calculations.
    """
    files = _filled(folder)
    run = _run(folder, {name: path for name, path in files.items() if name in FRAMES})
    structure = next((files[name] for name in STRUCTURES if name in files), None)
    fixed = _structure(structure, run.last.atoms) if structure is not None else None
    for index, (step, converged) in enumerate(zip(_steps(run.file), run.electronic)):
        if step.atoms is None or step.forces is None:
            raise DataError(
                f"{run.file}: its ionic step {index} has no positions and forces, which S2EF needs; use --task is2re "
                "or --on-error skip"
            )
        atoms = _fixed_as(step.atoms, fixed, folder) if fixed is not None else step.atoms
        results = {"energy": step.energy, "forces": step.forces, "free_energy": step.free_energy}
        atoms.calc = SinglePointCalculator(atoms, **results)
        yield atoms, converged


def _files(folder: Path) -> dict[str, Path]:
    """Files by lower-case name without compression suffix; an uncompressed file takes precedence."""
    if not folder.is_dir():
        return {}
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: (get_compression(path.name)[1] is not None, path.name)):
        if path.is_file():
            found.setdefault(get_compression(path.name.lower())[0], path)
    return found


def _filled(folder: Path) -> dict[str, Path]:
    """The same without those of 0 bytes, which a killed calculation leaves."""
    files = _files(folder)
    if not _is_calculation(files):
        raise DataError(
            f"{folder}: not a VASP calculation; it needs POSCAR or CONTCAR, and OUTCAR, vasprun.xml or OSZICAR"
        )
    return {name: path for name, path in files.items() if path.stat().st_size > 0}


def _run(folder: Path, files: dict[str, Path]) -> Run:
    """The run from the first file with a complete ionic step."""
    problems = []
    for name, read in RESULTS.items():
        if name not in files:
            continue
        try:
            check_content(files[name])
            return read(files[name])
        except DataError as problem:
            problems.append(problem)
        except Exception as problem:  # ASE's readers fail in many ways
            problems.append(_unreadable(files[name], problem))
    if problems:
        raise problems[0]
    raise DataError(f"{folder}: none of its files has a complete ionic step; leave it out, or rerun the calculation")


def _unreadable(path: Path, problem: Exception) -> DataError:
    if isinstance(problem, IncompleteError):
        return DataError(f"{path}: ends before the first ionic step is complete; leave it out or rerun it")
    return unreadable(path, problem, format_of(path))


def _steps(path: Path) -> Iterator[Step]:
    read = FRAMES[get_compression(path.name.lower())[0]]
    try:
        yield from read(path)
    except Exception as problem:
        raise _unreadable(path, problem) from problem


def _structure(path: Path, like: Atoms | None) -> Atoms:
    """Read a POSCAR or CONTCAR; a file of VASP 4 has no symbols, so those of ``like`` are used."""
    check_content(path)
    try:
        return read_poscar(path, None if like is None else like.numbers)
    except Exception as problem:
        raise unreadable(path, problem, "vasp") from problem


def _fixed_as(atoms: Atoms, other: Atoms, folder: Path) -> Atoms:
    """A copy of ``atoms`` with the fixed atoms of ``other``."""
    if not np.array_equal(atoms.numbers, other.numbers):
        raise DataError(
            f"{folder}: its files are from different calculations, of {other.symbols} and {atoms.symbols}; "
            f"remove the wrong ones"
        )
    atoms = atoms.copy()
    atoms.set_constraint(copy.deepcopy(other.constraints))
    return atoms


def _same(one: Atoms, other: Atoms) -> bool:
    """Whether two structures are equal up to rounding and lattice vectors."""
    if len(one) != len(other) or not same_cell(one, other):
        return False
    distances = find_mic(one.positions - other.positions, one.cell)[1]
    return bool(distances.max(initial=0.0) < SAME)
