"""``fairchem-hdgnn prepare-gamenet``: GAME-Net's FG set as LMDBs for fairchem's trainer, one for each fold."""

from __future__ import annotations

import argparse

from fairchem_hdgnn.cli._flags import path
from fairchem_hdgnn.data.gamenet import DESCRIPTION_FILE, Options, prepare_gamenet
from fairchem_hdgnn.data.gamenet_labels import TARGETS


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "archive", type=path, metavar="ARCHIVE", help="FG_dataset_lite.tar.xz, or the folder it was unpacked into"
    )
    parser.add_argument("out", type=path, metavar="OUT", help="folder to make, with fold_0/ to fold_4/")
    parser.add_argument(
        "--target",
        choices=TARGETS,
        default="total",
        help="total: total energy less a fit of the composition (default); adsorption: less slab and gas molecule",
    )
    parser.add_argument(
        "--train-folds",
        type=int,
        nargs="+",
        default=[1, 2, 3],
        metavar="K",
        help="folds that the fit and the statistics are made on (default: 1 2 3)",
    )
    parser.add_argument("--partial", action="store_true", help="accept an archive that lacks systems")


def run(args: argparse.Namespace) -> None:
    """Prepare and say what lies where."""
    options = Options(target=args.target, train_folds=tuple(args.train_folds), partial=args.partial)
    done = prepare_gamenet(args.archive, args.out, options)
    for fold, counts in done["counts"].items():
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()) if kind != "systems")
        print(f"{args.out / fold / 'data.lmdb'}: {counts['systems']:,} systems ({kinds})")
    if done["left_out"]:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(done["left_out"].items()))
        print(f"left out, for want of an adsorption energy: {kinds}")
    folds = ", ".join(map(str, done["train_folds"]))
    print(f"label over folds {folds}: mean {done['train_mean']:.4f} eV, standard deviation {done['train_std']:.4f} eV")
    print(f"units, energies of the elements and all labels: {args.out / DESCRIPTION_FILE}")
