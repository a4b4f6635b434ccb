"""``fairchem-hdgnn prepare-qm9``: convert QM9 to LMDBs for fairchem's trainer."""

from __future__ import annotations

import argparse
from pathlib import Path

from fairchem_hdgnn.cli._flags import path
from fairchem_hdgnn.data.qm9 import Preparation, prepare


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("out", type=path, help="folder to write train/, val/ and test/ into")
    parser.add_argument(
        "--source",
        default="qm9pack",
        help="qm9pack: the installed package (default); raw: OUT/raw, as downloaded by torch-geometric; or the path "
        "of dsgdb9nsd.xyz.tar.bz2, of a folder of dsgdb9nsd_*.xyz, or of one with gdb9.sdf and gdb9.sdf.csv",
    )
    parser.add_argument(
        "--uncharacterised",
        "--uncharacterized",
        type=path,
        metavar="FILE",
        help="list of molecules to leave out (default: uncharacterized.txt next to the source)",
    )
    parser.add_argument(
        "--cutoff", type=float, default=5.0, metavar="Å", help="longest edge in the records (default: 5.0)"
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="accept a source with missing molecules; split it in the same proportions",
    )


def run(args: argparse.Namespace) -> None:
    """Convert and print where the results are."""
    sizes = prepare(args.out, Preparation(args.source, args.uncharacterised, args.cutoff, args.partial))
    for name, size in sizes.items():
        print(f"{args.out / name / 'data.lmdb'}: {size:,} molecules")
    print(f"units, statistics and splits: {args.out / 'qm9.json'}")
    if args.out != Path("data/qm9"):
        overrides = " ".join(f"--dataset.{name}.src={args.out / name / 'data.lmdb'}" for name in sizes)
        print(f"train with: fairchem --mode train --config-yml configs/qm9/gap.yml {overrides}")
