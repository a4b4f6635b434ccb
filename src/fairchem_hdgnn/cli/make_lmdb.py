"""``fairchem-hdgnn make-lmdb``: write OC20-format LMDBs from any files that ASE reads."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from typing import get_args

from fairchem_hdgnn.cli._flags import path
from fairchem_hdgnn.cli._statistics import FAR, statistics_lines
from fairchem_hdgnn.data.lmdb import DATA_FILE
from fairchem_hdgnn.data.neighbor_lists import NeighborList, Search
from fairchem_hdgnn.data.structures.conversion import Conversion, Report, make_lmdb
from fairchem_hdgnn.data.structures.labelling import LARGEST_FORCE
from fairchem_hdgnn.data.structures.provenance import LEFT_OUT, SOURCES, TO_CHECK
from fairchem_hdgnn.data.surfaces.tagging import Kind
from fairchem_hdgnn.errors import ConfigError

TOTAL_ENERGY = 50.0
"""eV; adsorption energies are far below it, total DFT energies above it (absolute values)."""

KINDS = get_args(Kind)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "source", type=path, metavar="SRC", help="a file that ASE reads (extxyz, traj, db, OUTCAR, ...), or a folder"
    )
    parser.add_argument("out", type=path, metavar="OUT", help="folder to create, with data.lmdb and metadata.npz")
    parser.add_argument("--task", choices=("is2re", "s2ef"), required=True)
    parser.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help=f"for a structure that cannot be used: stop, or skip it and list it in {LEFT_OUT} (default: stop)",
    )
    _add_files(parser.add_argument_group("which files"))
    _add_labels(parser.add_argument_group("labels, eV and eV/Å"))
    _add_atoms(parser.add_argument_group("adsorbate, surface, fixed atoms"))
    _add_edges(parser.add_argument_group("edges"))


def _add_files(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--relaxations",
        action="store_true",
        help="IS2RE: each file is one relaxation, from first to last structure (default: each structure is its own)",
    )
    group.add_argument(
        "--pairs",
        metavar="INITIAL,RELAXED",
        help="IS2RE: files with initial and relaxed structures, e.g. '*/POSCAR,*/CONTCAR' or '*.poscar,*.contcar'",
    )
    group.add_argument(
        "--pattern",
        metavar="GLOB",
        help="files of a folder to read, e.g. '*/OUTCAR' (default: all; a VASP run as a whole)",
    )
    group.add_argument("--format", metavar="F", help="ASE's name of the format, if file names do not determine it")


def _add_labels(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--energy-key", metavar="KEY", help="key in atoms.info, or column of --energies, with the energy"
    )
    group.add_argument("--forces-key", metavar="KEY", help="key in atoms.arrays with the forces")
    group.add_argument("--energies", type=path, metavar="TABLE", help="text or CSV file with energies by name")
    group.add_argument(
        "--reference-slabs",
        type=path,
        metavar="TABLE",
        help="energies of clean slabs to subtract, by formula (Pd36) or name (pd-*)",
    )
    group.add_argument(
        "--reference-gas",
        type=path,
        metavar="TABLE",
        help="energies of molecules to subtract, by formula (C2H4), name (*-c2h4-*) or element (H, C, O, N)",
    )
    group.add_argument("--unlabelled", action="store_true", help="write no labels (for a test split)")
    group.add_argument(
        "--keep-unconverged", action="store_true", help="keep relaxations and ionic steps that did not converge"
    )


def _add_atoms(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--tags",
        type=path,
        metavar="TABLE",
        help=f"adsorbate atoms by name, counted from 0: 'Pt111-CO, 36-37'; OUT/{TO_CHECK} has this format",
    )
    group.add_argument(
        "--adsorbate-elements",
        nargs="+",
        metavar="X",
        help="in structures without tags, all atoms of these elements are the adsorbate (default: inferred from bonds)",
    )
    group.add_argument(
        "--kinds", nargs="+", choices=KINDS, metavar="KIND", help=f"keep only these: {', '.join(KINDS)} (default: all)"
    )


def _add_edges(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--edges", type=float, metavar="CUTOFF", help="store edges up to CUTOFF Å, for otf_graph: false")
    group.add_argument(
        "--neighbor-list",
        choices=[member.value for member in NeighborList],
        default=NeighborList.PAIRS.value,
        help="method that finds the edges; vesin is faster from about 500 atoms on (default: pairs)",
    )
    group.add_argument(
        "--max-neighbors", type=int, default=40, metavar="N", help="stored edges per atom, at most (default: 40)"
    )


def run(args: argparse.Namespace) -> None:
    """Convert, and report what was found."""
    _check(args)
    search = Search(args.edges, args.max_neighbors, neighbor_list=NeighborList(args.neighbor_list))
    conversion = Conversion(
        task=args.task,
        relaxations=args.relaxations,
        pairs=args.pairs,
        pattern=args.pattern,
        format=args.format,
        energy_key=args.energy_key,
        forces_key=args.forces_key,
        energies=args.energies,
        reference_slabs=args.reference_slabs,
        reference_gas=args.reference_gas,
        labelled=not args.unlabelled,
        tags=args.tags,
        adsorbate_elements=None if args.adsorbate_elements is None else tuple(args.adsorbate_elements),
        kinds=None if args.kinds is None else tuple(args.kinds),
        on_error=args.on_error,
        keep_unconverged=args.keep_unconverged,
        edges=None if args.edges is None else search,
    )
    report = make_lmdb(args.source, args.out, conversion)
    print(f"{args.out / DATA_FILE}: {report.statistics.num_records:,} {args.task.upper()} records")
    print("\n".join([*_found(args, report), *statistics_lines(report.statistics), *_advice(args, report)]))


def _check(args: argparse.Namespace) -> None:
    for flag, given in (("--relaxations", args.relaxations), ("--pairs", args.pairs), ("--energies", args.energies)):
        if given and args.task == "s2ef":
            raise ConfigError(f"{flag} needs --task is2re; for S2EF every structure is a frame with its own results")
    if args.forces_key and args.task == "is2re":
        raise ConfigError("--forces-key needs --task s2ef; IS2RE has no forces")
    if args.pairs and (args.relaxations or args.pattern):
        raise ConfigError("--pairs already selects the files; omit --relaxations and --pattern")
    if args.edges is not None and (not 0 < args.edges < float("inf") or args.max_neighbors < 1):
        raise ConfigError("--edges and --max-neighbors must be finite and above zero")


def _found(args: argparse.Namespace, report: Report) -> list[str]:
    read = "pairs" if args.pairs else "files"
    lines = [f"  {read + ' read':<15} {report.read:,}"]
    if report.left_out:
        first = report.left_out[0]
        lines.append(
            f"  left out        {len(report.left_out):,}, first: {first.file}: {first.reason} ({args.out / LEFT_OUT})"
        )
    lines += [
        f"  kinds           {_counts(Counter(source.kind for source in report.sources))}",
        f"  tags            {_counts(Counter(source.tags for source in report.sources))}",
        f"  fixed atoms     {_counts(Counter(source.fixed for source in report.sources))}",
    ]
    if report.sources[0].label:
        lines.append(f"  label           {report.sources[0].id}: {report.sources[0].label} eV; all in {SOURCES}")
    lines.append(f"  ids             {report.sources[0].id}, ...; where they come from: {args.out / SOURCES}")
    return lines


def _counts(counts: Counter[str]) -> str:
    return "; ".join(f"{what} ({count:,} systems)" for what, count in counts.most_common())


def _advice(args: argparse.Namespace, report: Report) -> list[str]:
    lines = []
    if report.to_check:
        first = report.to_check[0]
        lines.append(
            f"Note: the tags of {len(report.to_check):,} systems are doubtful, first {first.name}: {first.doubts}. "
            f"Correct wrong ones in {args.out / TO_CHECK}, and pass that file with --tags."
        )
    if report.unused_tags:
        lines.append(
            f"Note: {len(report.unused_tags):,} rows of {args.tags} match no structure, first: {report.unused_tags[0]}."
        )
    if report.other_starts:
        lines.append(
            f"Note: in {len(report.other_starts):,} folders POSCAR is not the structure of the first ionic step, first "
            f"{report.other_starts[0]}: was it overwritten with a relaxed one?"
        )
    if report.strained:
        lines.append(
            f"Note: {len(report.strained):,} structures have forces above {LARGEST_FORCE:g} eV/Å, first "
            f"{report.strained[0]}: their energies are those of unrelaxed structures, but the label is y_relaxed. Pair "
            "initial with relaxed structures (--relaxations, --pairs), or use --task s2ef."
        )
    if report.constraints:
        lines.append(f"Note: atoms with these constraints are free in the records: {_counts(report.constraints)}.")
    if report.open_boundaries:
        lines.append(
            f"Note: {report.open_boundaries:,} systems are not periodic in all directions. Their records store 'pbc', "
            "which the models here use; fairchem's own models need the same directions in all records of a batch."
        )
    lines += [
        f"Note: {each.name} is in no record, because only {each.count:,} of {len(report.sources):,} have it; first "
        f"without: {each.without}. A batch needs the same attributes in all: add it there, or leave such systems out."
        for each in report.dropped
    ]
    lines += _about_labels(report)
    if args.unlabelled:
        return lines
    mapping = "key_mapping: {y_relaxed: energy}; " if args.task == "is2re" else ""
    file = shlex.quote(str(args.out / DATA_FILE))
    return [*lines, f"Config: format: safe_lmdb; {mapping}normalizer: fairchem-hdgnn target-stats {file}"]


def _about_labels(report: Report) -> list[str]:
    lines, statistics = [], report.statistics
    if len(statistics.displacements) == len(report.sources):
        far = [source.id for source, way in zip(report.sources, statistics.displacements) if way > FAR]
        if far:
            lines.append(
                f"Note: in {len(far):,} systems an atom moves more than {FAR:g} Å, first {far[0]}: do the initial "
                "and the relaxed structure belong together?"
            )
    labels = statistics.numbers.get("y_relaxed", [])
    if labels and max(map(abs, labels)) > TOTAL_ENERGY:
        lines.append(
            f"Note: energies up to {max(labels, key=abs):.1f} eV are total energies. OC20's IS2RE label is the "
            "adsorption energy, E(slab + adsorbate) - E(slab) - E(gas): give --reference-slabs and --reference-gas."
        )
    return lines
