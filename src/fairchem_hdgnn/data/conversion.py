"""From structures that ASE reads to OC20's IS2RE or S2EF records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms
from torch_geometric.data import Data
from tqdm import tqdm

from fairchem_hdgnn.data.directories import new_directory
from fairchem_hdgnn.data.lmdb import write_lmdb
from fairchem_hdgnn.data.neighbor_lists import Search
from fairchem_hdgnn.data.records import atoms_to_record, inside_cell, record_id, relaxed_beside, store_edges
from fairchem_hdgnn.data.statistics import Statistics
from fairchem_hdgnn.data.structures import read_structures, structure_files
from fairchem_hdgnn.data.tagging import fix_atoms, tag_atoms
from fairchem_hdgnn.errors import DataError


@dataclass(frozen=True)
class Conversion:
    """How structures become records.

    Attributes:
        task: ``is2re`` (initial structure, relaxed energy) or ``s2ef`` (frames with energy and forces).
        relaxations: for IS2RE: each file is one relaxation, whose first structure is the input and whose last one
            gives ``y_relaxed`` and ``pos_relaxed``. Otherwise each structure is an input of its own, and its energy
            is ``y_relaxed``; ``pos_relaxed`` is taken from an array of that name where there is one.
        pattern: which files of a directory.
        energy_key: entry of ``atoms.info`` that holds the energy, eV; else ``y_relaxed`` or the calculator's energy.
        labelled: whether records get labels, which are then demanded: energies, forces, relaxed positions; a test split
            has none.
        adsorbate_elements: what the adsorbate consists of where structures have no tags; else it is found by its bonds.
        edges: which edges to store, if any; has to be the model's own search.
    """

    task: Literal["is2re", "s2ef"]
    relaxations: bool = False
    pattern: str = "**/*"
    energy_key: str | None = None
    labelled: bool = True
    adsorbate_elements: tuple[str, ...] | None = None
    edges: Search | None = None


@dataclass
class Report:
    """What was found.

    Attributes:
        statistics: of the records.
        files: files read.
        unread: files that ASE could not read, with the reason.
        tags: origin of the tags -> number of systems.
        fixed: origin of the fixed atoms -> number of systems.
        open_boundaries: systems with a cell that are not periodic in all three directions.
    """

    statistics: Statistics = field(default_factory=Statistics)
    files: int = 0
    unread: list[str] = field(default_factory=list)
    tags: Counter[str] = field(default_factory=Counter)
    fixed: Counter[str] = field(default_factory=Counter)
    open_boundaries: int = 0


def make_lmdb(source: Path, out: Path, conversion: Conversion, *, progress: bool = True) -> Report:
    """Convert ``source`` into ``out/data.lmdb`` and ``out/metadata.npz``.

    Args:
        source: file, or directory whose unreadable files are left out and named in the report.
        out: directory that must not exist; complete or absent afterwards.
        conversion: how.
        progress: show a progress bar.

    Raises:
        DataError: a structure lacks what the task needs, or an id occurs twice; names file and structure.
    """
    report = Report()
    files = structure_files(source, conversion.pattern)
    with new_directory(out) as partial:
        write_lmdb(partial, _records(source, files, conversion, report, progress))
    return report


def _records(source: Path, files: list[Path], conversion: Conversion, report: Report, progress: bool) -> Iterator[Data]:
    # Only the number of files is known beforehand, so that is what a directory's progress is counted in.
    paths = tqdm(files, desc="files", unit="file", disable=not progress or len(files) == 1)
    with tqdm(desc="structures", unit="structure", disable=not progress or len(files) > 1) as structures:
        for path in paths:
            before = report.statistics.num_records
            try:
                for record in _of_file(path, conversion, report):
                    if conversion.edges is not None:
                        store_edges(record, conversion.edges)
                    report.statistics.add(record)
                    name = record_id(record)
                    if report.statistics.sids[name] > 1:
                        raise _StructureError(f"{path}: a second structure with the id {name}; ids must differ")
                    structures.update()
                    yield record
            except DataError as error:
                if isinstance(error, _StructureError) or path == source or report.statistics.num_records > before:
                    raise
                report.unread.append(str(error))
            else:
                report.files += 1
    if report.statistics.num_records == 0:
        raise DataError(f"{source}: no file there holds structures; the first: {report.unread[0]}")


class _StructureError(DataError):
    """A structure that cannot become a record, as opposed to a file that is none of structures."""


def _of_file(path: Path, conversion: Conversion, report: Report) -> Iterator[Data]:
    if conversion.task == "is2re" and conversion.relaxations:
        yield _relaxation(path, conversion, report)
        return
    for frame, atoms in enumerate(read_structures(path)):
        name = f"{path}, structure {frame}"
        record = _record(atoms, name, _sid(atoms, path, frame, conversion, report), conversion, report)
        if conversion.task == "s2ef":
            record.fid = _frame_number(atoms, frame, name)
            if conversion.labelled:
                record.energy = _energy(atoms, name, conversion)
                record.forces = _forces(atoms, name)
        elif conversion.labelled:
            record.y_relaxed = _energy(atoms, name, conversion)
            if "y_init" in atoms.info:
                record.y_init = _finite(atoms.info["y_init"], name, "y_init")
            if "pos_relaxed" in atoms.arrays:
                record.pos_relaxed = _continued(atoms, atoms.arrays["pos_relaxed"], name)
        yield record


def _relaxation(path: Path, conversion: Conversion, report: Report) -> Data:
    """One record from the first and the last structure of a file."""
    structures = read_structures(path)
    first = next(structures)
    last, count = first, 1
    for count, last in enumerate(structures, start=2):  # noqa: B007 (the values after the loop are wanted)
        pass
    if count == 1:
        raise _StructureError(f"{path}: holds one structure, not a relaxation; leave --relaxations out")
    if not np.array_equal(first.numbers, last.numbers):
        raise _StructureError(f"{path}: its first and last structure have different atoms; leave --relaxations out")
    if not np.allclose(first.cell.array, last.cell.array, atol=1e-3):
        raise _StructureError(f"{path}: its cell changes during the relaxation; OC20's records have one fixed cell")
    sid = _sid(first, path, 0, conversion, report)
    record = _record(first, f"{path}, structure 0", sid, conversion, report)
    if conversion.labelled:
        record.pos_relaxed = _continued(first, last.positions, f"{path}, structure {count - 1}")
        record.y_init = _energy(first, f"{path}, structure 0", conversion)
        record.y_relaxed = _energy(last, f"{path}, structure {count - 1}", conversion)
    return record


def _record(atoms: Atoms, name: str, sid: int | str, conversion: Conversion, report: Report) -> Data:
    if len(atoms) == 0:
        raise _StructureError(f"{name}: holds no atoms")
    if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
        raise _StructureError(f"{name}: positions or cell are not finite")
    if atoms.cell.rank not in (0, 3):
        raise _StructureError(
            f"{name}: its cell has {atoms.cell.rank} vectors; give it vacuum with atoms.center(vacuum=10, ...)"
        )
    if atoms.cell.rank == 0 and atoms.pbc.any():
        raise _StructureError(f"{name}: it is periodic but has no cell; set its cell, or atoms.pbc = False")
    try:
        tagged = tag_atoms(atoms, conversion.adsorbate_elements)
    except DataError as error:
        raise _StructureError(f"{name}: {error}") from error
    fixed = fix_atoms(atoms, tagged.tags)
    report.tags[tagged.origin] += 1
    report.fixed[fixed.origin] += 1
    report.open_boundaries += int(atoms.cell.rank == 3 and not atoms.pbc.all())
    record = atoms_to_record(atoms, sid)
    record.pos = torch.tensor(inside_cell(atoms), dtype=torch.float32)
    record.pbc = torch.from_numpy(atoms.pbc.copy())[None]
    record.tags = torch.from_numpy(tagged.tags)
    record.fixed = torch.from_numpy(fixed.fixed.astype(np.float32))
    return record


def _sid(atoms: Atoms, path: Path, frame: int, conversion: Conversion, report: Report) -> int | str:
    """``atoms.info["sid"]``, else a running number; frames of one file without it are those of one system."""
    if "sid" in atoms.info:
        sid = atoms.info["sid"]
        return int(sid) if isinstance(sid, (int, np.integer)) else str(sid)
    return report.files if conversion.task == "s2ef" else report.statistics.num_records


def _frame_number(atoms: Atoms, frame: int, name: str) -> int:
    """``atoms.info["fid"]``, else the place in the file."""
    try:
        return int(atoms.info.get("fid", frame))
    except (TypeError, ValueError):
        raise _StructureError(f"{name}: its fid is {atoms.info['fid']!r}, not a whole number") from None


def _energy(atoms: Atoms, name: str, conversion: Conversion) -> float:
    of_input = conversion.task == "is2re" and not conversion.relaxations
    usual = ["y_relaxed", "energy"] if of_input else ["energy"]
    keys = [conversion.energy_key] if conversion.energy_key else usual
    value = next((value for key in keys if (value := atoms.info.get(key, _calculated(atoms, key))) is not None), None)
    if value is None:
        known = ", ".join(sorted(map(str, atoms.info))) or "nothing"
        raise _StructureError(
            f"{name}: no '{keys[-1]}' (its info has {known}); name the entry with --energy-key, or use --unlabelled"
        )
    return _finite(value, name, "energy")


def _finite(value: Any, name: str, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise _StructureError(f"{name}: its {what} is {value!r}, not a number in eV") from None
    if not np.isfinite(number):
        raise _StructureError(f"{name}: its {what} is {number}")
    return number


def _forces(atoms: Atoms, name: str) -> torch.Tensor:
    forces = atoms.arrays.get("forces", _calculated(atoms, "forces"))
    if forces is None:
        raise _StructureError(f"{name}: no forces, which S2EF needs (eV/Å); for energies alone use --task is2re")
    if not np.isfinite(forces).all():
        raise _StructureError(f"{name}: its forces are not finite")
    return torch.tensor(np.asarray(forces), dtype=torch.float32)


def _calculated(atoms: Atoms, name: str) -> Any:
    """A stored result, without the change that constraints make to forces."""
    return atoms.calc.results.get(name) if atoms.calc is not None else None


def _continued(atoms: Atoms, relaxed: np.ndarray, name: str) -> torch.Tensor:
    """Relaxed positions on the near side of the periodic boundaries: displacements are the shortest ones."""
    if relaxed.shape != atoms.positions.shape or not np.isfinite(relaxed).all():
        raise _StructureError(f"{name}: its relaxed positions are not three finite numbers (Å) for each atom")
    return relaxed_beside(atoms, relaxed)
