"""Convert structures that ASE reads to OC20's IS2RE or S2EF records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64
from torch_geometric.data import Data
from tqdm import tqdm

from fairchem_hdgnn.data.directories import new_directory
from fairchem_hdgnn.data.lmdb import write_lmdb
from fairchem_hdgnn.data.neighbor_lists import Search
from fairchem_hdgnn.data.records import record_id, relaxed_minimum_image, store_edges
from fairchem_hdgnn.data.statistics import Statistics
from fairchem_hdgnn.data.structures.labelling import (
    LARGEST_FORCE,
    Energies,
    calculated,
    forces_of,
    initial_energy,
    largest_force,
    not_converged,
)
from fairchem_hdgnn.data.structures.provenance import (
    LEFT_OUT,
    SOURCES,
    TO_CHECK,
    AdsorbateTable,
    LeftOut,
    Source,
    ToCheck,
    atom_ranges,
    write_rows,
)
from fairchem_hdgnn.data.structures.references import References
from fairchem_hdgnn.data.structures.sample_records import check_sample, relaxed_positions, unlabelled_record
from fairchem_hdgnn.data.structures.samples import FileLayout, Sample, StructureError, Unit, find_units
from fairchem_hdgnn.data.structures.tables import EnergyTable
from fairchem_hdgnn.data.structures.uniform import Dropped, make_uniform
from fairchem_hdgnn.data.surfaces.tagging import ADSORBATE, Fixed, Kind, Tagged, constrained_atoms, fix_atoms, tag_atoms
from fairchem_hdgnn.errors import DataError


@dataclass(frozen=True)
class Conversion(FileLayout):
    """Options of the conversion.

    Attributes:
        task: ``is2re`` (initial structure, relaxed energy) or ``s2ef`` (frames with energy and forces).
        relaxations: for IS2RE: each file is one relaxation, whose first structure is the input and whose last one
            gives ``y_relaxed`` and ``pos_relaxed``. Otherwise each structure is a separate input, and its energy
            is ``y_relaxed``; ``pos_relaxed`` is taken from an array of that name, if there is one.
        pairs, pattern, format: as of ``FileLayout``.
        energy_key: entry of ``atoms.info``, or column of ``energies``, that holds the energy, eV; else ``y_relaxed`` or
            the calculator's energy.
        forces_key: array with the forces, eV/Å; default ``forces`` or the calculator's.
        energies: table of energies by name, eV.
        reference_slabs, reference_gas: tables of energies to subtract, eV.
        labelled: whether records get labels, which are then demanded: energies, forces, relaxed positions; a test split
            has none.
        tags: table of the adsorbates' atoms by name.
        adsorbate_elements: elements of the adsorbate in structures without tags; default: inferred from bonds.
        kinds: which kinds of structures become records; others are left out by name.
        on_error: ``stop`` at the first structure that cannot become a record, or ``skip`` it by name.
        keep_unconverged: keep relaxations that did not converge.
        edges: which edges to store, if any; has to be the model's own search.
    """

    energy_key: str | None = None
    forces_key: str | None = None
    energies: Path | None = None
    reference_slabs: Path | None = None
    reference_gas: Path | None = None
    labelled: bool = True
    tags: Path | None = None
    adsorbate_elements: tuple[str, ...] | None = None
    kinds: tuple[Kind, ...] | None = None
    on_error: Literal["stop", "skip"] = "stop"
    keep_unconverged: bool = False
    edges: Search | None = None


@dataclass
class Report:
    """Report of a conversion.

    Attributes:
        statistics: of the records.
        read: files, pairs or folders that gave records.
        left_out: structures that did not become a record, with the reason.
        sources: where each record comes from.
        to_check: systems whose derived tags are in doubt.
        constraints: constraints that are not fixed atoms -> number of systems.
        other_starts: ids of calculations whose output begins with another structure than their POSCAR.
        strained: ids of IS2RE structures whose own energy is the label, with forces on free atoms as before a
            relaxation.
        dropped: attributes that only some records had.
        open_boundaries: systems with a cell that are not periodic in all three directions.
        unused_tags: rows of the table of tags that fit no structure.
    """

    statistics: Statistics = field(default_factory=Statistics)
    read: int = 0
    left_out: list[LeftOut] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    to_check: list[ToCheck] = field(default_factory=list)
    constraints: Counter[str] = field(default_factory=Counter)
    other_starts: list[str] = field(default_factory=list)
    strained: list[str] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    open_boundaries: int = 0
    unused_tags: list[str] = field(default_factory=list)


def make_lmdb(source: Path, out: Path, conversion: Conversion, *, progress: bool = True) -> Report:
    """Convert ``source`` to ``out/data.lmdb`` and ``out/metadata.npz``, with tables of the records' provenance.

    Args:
        source: file, or directory whose files without structures are left out and named in the report.
        out: directory that must not exist; complete or absent afterwards.
        conversion: how.
        progress: show a progress bar.

    Raises:
        DataError: a structure lacks what the task needs, or an id occurs twice; names file and structure.
    """
    report = Report()
    converter = _Converter(source, conversion, report)
    with new_directory(out) as partial:
        write_lmdb(partial, converter.records(progress))
        report.dropped, report.statistics = make_uniform(
            partial, report.statistics, ids_are_strings=len(converter.id_types) > 1, progress=progress
        )
        write_rows(partial / SOURCES, report.sources)
        write_rows(partial / LEFT_OUT, report.left_out)
        write_rows(partial / TO_CHECK, report.to_check)
    return report


class _Converter:
    """Read the tables and find the files first, so that errors in them appear before structures are read."""

    def __init__(self, source: Path, conversion: Conversion, report: Report) -> None:
        self.source, self.conversion, self.report = source, conversion, report
        table = None if conversion.energies is None else EnergyTable(conversion.energies, conversion.energy_key)
        slabs = None if conversion.reference_slabs is None else References(conversion.reference_slabs, "slab")
        gas = None if conversion.reference_gas is None else References(conversion.reference_gas, "gas")
        self.energies = Energies(conversion.energy_key, table, slabs, gas)
        self.adsorbates = None if conversion.tags is None else AdsorbateTable(conversion.tags)
        self.units = find_units(source, conversion)
        self.id_types: set[type] = set()

    def records(self, progress: bool) -> Iterator[Data]:
        """All records, one at a time; the report grows with them."""
        # Only the number of files is known in advance, so the progress of a directory counts files.
        units = tqdm(self.units, desc="files", unit="file", disable=not progress or len(self.units) == 1)
        with tqdm(desc="structures", unit="structure", disable=not progress or len(self.units) > 1) as structures:
            for unit in units:
                before = self.report.statistics.num_records
                for record in self._of(unit):
                    structures.update()
                    yield record
                self.report.read += int(self.report.statistics.num_records > before)
        if self.report.statistics.num_records == 0:
            first = self.report.left_out[0]
            raise DataError(f"{self.source}: no usable structures; the first problem: {first.file}: {first.reason}")
        self._report_unused_tags()

    def _of(self, unit: Unit) -> Iterator[Data]:
        """Records of one file; a structure that fails is left out or stops the run, depending on ``on_error``."""
        if unit.lonely:
            self._fail(unit, None, StructureError(f"{unit.path}: has no partner that matches --pairs"))
        before, samples = self.report.statistics.num_records, unit.read(unit)
        while True:
            sample = None
            try:
                sample = next(samples, None)
                if sample is None:
                    return
                record = self._record(sample)
            except DataError as error:
                untouched = self.report.statistics.num_records == before and sample is None
                if unit.optional and untouched and not isinstance(error, StructureError):
                    self._leave_out(unit.path, "", str(error))
                else:
                    self._fail(unit, sample, error)
                if sample is None:
                    return
            else:
                if record is not None:
                    yield record

    def _fail(self, unit: Unit, sample: Sample | None, error: DataError) -> None:
        if self.conversion.on_error == "stop":
            raise type(error)(f"{error}; --on-error skip leaves out and lists unusable structures") from error
        self._leave_out(unit.path, "" if sample is None else str(sample.frame), str(error))

    def _leave_out(self, path: Path, structure: str, reason: str) -> None:
        self.report.left_out.append(LeftOut(self._relative(path), structure, reason.removeprefix(f"{path}: ")))

    def _relative(self, path: Path) -> str:
        return path.name if path == self.source else path.relative_to(self.source).as_posix()

    def _record(self, sample: Sample) -> Data | None:
        """The record of a sample, or ``None`` if it was left out by its kind or because it did not converge."""
        conversion = self.conversion
        check_sample(sample)
        tagged = self._tags(sample)
        relaxed = relaxed_positions(sample)
        is_frame = conversion.task == "s2ef"
        fixed = constrained_atoms(sample.initial) if is_frame else fix_atoms(sample.initial, tagged, relaxed)
        reason = self._unwanted(sample, tagged, fixed)
        if reason:
            self._leave_out(sample.path, str(sample.frame), reason)
            return None
        record = unlabelled_record(sample, tagged.tags, fixed.fixed, conversion.task)
        written = self._label(record, sample, tagged.tags, relaxed) if conversion.labelled else ""
        if conversion.edges is not None:
            store_edges(record, conversion.edges)
        name = record_id(record)
        if name in self.report.statistics.sids:
            raise StructureError(
                f"{sample.path}: a second structure with the id {name}; ids must be unique: choose files with "
                "--pattern, or set a unique sid for each structure"
            )
        self._add(record, name, sample, tagged, fixed, written)
        self.id_types.add(type(record.sid))
        return record

    def _tags(self, sample: Sample) -> Tagged:
        try:
            adsorbate = None
            if self.adsorbates is not None:
                adsorbate = self.adsorbates.adsorbate(sample.names, str(sample), len(sample.initial))
            return tag_atoms(sample.initial, self.conversion.adsorbate_elements, adsorbate)
        except DataError as error:
            raise StructureError(f"{sample}: {error}") from error

    def _unwanted(self, sample: Sample, tagged: Tagged, fixed: Fixed) -> str:
        if self.conversion.kinds is not None and tagged.kind not in self.conversion.kinds:
            return f"its kind is {tagged.kind}, not {' or '.join(self.conversion.kinds)}"
        if self.energies.referenced and self.conversion.labelled and tagged.kind in ("slab", "gas", "bulk"):
            return f"its kind is {tagged.kind}, which has no adsorption energy"
        unconverged = "" if self.conversion.keep_unconverged else not_converged(sample, fixed.fixed)
        return f"{unconverged}; --keep-unconverged keeps it" if unconverged else ""

    def _label(
        self, record: Data, sample: Sample, tags: np.ndarray, relaxed: Float64[np.ndarray, "atoms 3"] | None
    ) -> str:
        """Set the labels, and return the sum that the energy is."""
        if self.conversion.task == "s2ef":
            record.energy, _, written = self.energies.label(sample, tags, ("energy",))
            record.forces = forces_of(sample.initial, str(sample), self.conversion.forces_key)
            return written
        usual = ("y_relaxed", "energy") if sample.relaxed is None else ("energy",)
        record.y_relaxed, subtracted, written = self.energies.label(sample, tags, usual)
        # What a table's energies are relative to is not known, so initial energies of files do not go with them.
        initial = None if self.energies.table is not None else initial_energy(sample, self.conversion.energy_key)
        if initial is not None:
            record.y_init = initial - subtracted
        if relaxed is not None:
            record.pos_relaxed = relaxed_minimum_image(sample.initial, relaxed)
        return written

    def _add(self, record: Data, name: str, sample: Sample, tagged: Tagged, fixed: Fixed, written: str) -> None:
        report = self.report
        report.statistics.add(record)
        report.constraints.update(fixed.other)
        atoms = sample.initial
        report.open_boundaries += int(atoms.cell.rank == 3 and not atoms.pbc.all())
        doubts = "; ".join(tagged.doubts)
        file = self._relative(sample.path)
        report.sources.append(
            Source(name, file, sample.frame, tagged.kind, tagged.origin, fixed.origin, doubts, written)
        )
        if "other_start" in sample.results:
            report.other_starts.append(name)
        if self._is_strained(sample, fixed):
            report.strained.append(name)
        if tagged.doubts:
            report.to_check.append(ToCheck("/".join(sample.names[0]), atom_ranges(tagged.tags == ADSORBATE), doubts))

    def _is_strained(self, sample: Sample, fixed: Fixed) -> bool:
        """Whether the label of IS2RE is the energy of this structure, and forces tell that it is not relaxed."""
        conversion, atoms = self.conversion, sample.initial
        if conversion.task != "is2re" or not conversion.labelled or sample.relaxed is not None:
            return False
        elsewhere = self.energies.table is not None or conversion.energy_key is not None or "y_relaxed" in atoms.info
        return not elsewhere and largest_force(calculated(atoms, "forces"), fixed.fixed) > LARGEST_FORCE

    def _report_unused_tags(self) -> None:
        if self.adsorbates is None:
            return
        table = self.adsorbates.table
        self.report.unused_tags = [f"line {row.line} ({row.name})" for row in table.unused]
        if len(table.unused) == len(table.rows):
            raise DataError(f"{table.path}: no row matches a structure; the first: {self.report.unused_tags[0]}")
