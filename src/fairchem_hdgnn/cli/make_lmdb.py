"""``fairchem-hdgnn make-lmdb``: OC20-format LMDBs from whatever ASE reads."""

from __future__ import annotations

import argparse
from collections import Counter

from fairchem_hdgnn.cli._flags import path
from fairchem_hdgnn.cli._statistics import statistics_lines
from fairchem_hdgnn.data.conversion import Conversion, Report, make_lmdb
from fairchem_hdgnn.data.lmdb import DATA_FILE
from fairchem_hdgnn.data.neighbor_lists import NeighborList, Search
from fairchem_hdgnn.errors import ConfigError

TOTAL_ENERGY = 50.0
"""eV; adsorption energies do not come near it, total DFT energies lie beyond it."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "source", type=path, metavar="SRC", help="a file that ASE reads (extxyz, traj, db, OUTCAR, ...)"
    )
    parser.add_argument("out", type=path, metavar="OUT", help="directory to make, with data.lmdb and metadata.npz")
    parser.add_argument("--task", choices=("is2re", "s2ef"), required=True)
    parser.add_argument(
        "--relaxations",
        action="store_true",
        help="IS2RE: each file is one relaxation, first to last structure (default: each structure is one)",
    )
    parser.add_argument("--pattern", default="**/*", metavar="GLOB", help="which files of a directory, e.g. '*/OUTCAR'")
    parser.add_argument("--energy-key", metavar="KEY", help="entry of atoms.info with the label, eV")
    parser.add_argument("--unlabelled", action="store_true", help="write no labels: for a test split")
    parser.add_argument(
        "--adsorbate-elements",
        nargs="+",
        metavar="X",
        help="of structures without tags, these are the adsorbate (default: found by its bonds)",
    )
    parser.add_argument(
        "--edges", type=float, metavar="CUTOFF", help="store edges up to CUTOFF Å, for otf_graph: false"
    )
    parser.add_argument(
        "--neighbor-list",
        choices=[member.value for member in NeighborList],
        default=NeighborList.PAIRS.value,
        help="who finds the edges; vesin is faster from some 500 atoms on (default: pairs)",
    )
    parser.add_argument("--max-neighbors", type=int, default=40, metavar="N", help="of stored edges (default: 40)")


def run(args: argparse.Namespace) -> None:
    """Convert, and say what was found."""
    if args.relaxations and args.task == "s2ef":
        raise ConfigError("--relaxations is for --task is2re; S2EF takes every structure as a frame")
    if args.edges is not None and (not 0 < args.edges < float("inf") or args.max_neighbors < 1):
        raise ConfigError("--edges and --max-neighbors must be above zero, and finite")
    search = Search(args.edges, args.max_neighbors, neighbor_list=NeighborList(args.neighbor_list))
    conversion = Conversion(
        task=args.task,
        relaxations=args.relaxations,
        pattern=args.pattern,
        energy_key=args.energy_key,
        labelled=not args.unlabelled,
        adsorbate_elements=tuple(args.adsorbate_elements) if args.adsorbate_elements else None,
        edges=None if args.edges is None else search,
    )
    report = make_lmdb(args.source, args.out, conversion)
    print(f"{args.out / DATA_FILE}: {report.statistics.num_records:,} {args.task.upper()} records")
    print("\n".join([*_found(report), *statistics_lines(report.statistics), *_advice(args, report)]))


def _found(report: Report) -> list[str]:
    lines = [f"  files read      {report.files:,}"]
    if report.unread:
        lines.append(f"  files left out  {len(report.unread):,}, first: {report.unread[0]}")
    lines += [f"  tags            {_origins(report.tags)}", f"  fixed atoms     {_origins(report.fixed)}"]
    return lines


def _origins(counts: Counter[str]) -> str:
    return "; ".join(f"{origin} ({count:,} systems)" for origin, count in counts.most_common())


def _advice(args: argparse.Namespace, report: Report) -> list[str]:
    lines = []
    if report.open_boundaries:
        lines.append(
            f"Note: {report.open_boundaries:,} systems are not periodic in all directions. Their records say so "
            "('pbc'), and the models here follow it; fairchem's own want the same directions in all records of a batch."
        )
    labels = report.statistics.numbers.get("y_relaxed", [])
    if labels and max(map(abs, labels)) > TOTAL_ENERGY:
        lines.append(
            f"Note: energies up to {max(labels, key=abs):.1f} eV are total energies. OC20's IS2RE label is the "
            "adsorption energy, E(slab + adsorbate) - E(slab) - E(gas): subtract the references and use --energy-key."
        )
    if args.unlabelled:
        return lines
    mapping = "key_mapping: {y_relaxed: energy}; " if args.task == "is2re" else ""
    return [
        *lines,
        f"Config: format: safe_lmdb; {mapping}normalizer: fairchem-hdgnn target-stats {args.out / DATA_FILE}",
    ]
