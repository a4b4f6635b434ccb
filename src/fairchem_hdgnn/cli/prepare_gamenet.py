"""``fairchem-hdgnn prepare-gamenet``: convert GAME-Net's FG set to LMDBs for fairchem's trainer, one per fold."""

from __future__ import annotations

import argparse

from fairchem_hdgnn.cli._flags import path
from fairchem_hdgnn.data.gamenet import DESCRIPTION_FILE, TARGETS, Options, prepare_gamenet


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "archive", type=path, metavar="ARCHIVE", help="FG_dataset_lite.tar.xz, or the folder with its contents"
    )
    parser.add_argument("out", type=path, metavar="OUT", help="folder to create, with fold_0/ to fold_4/")
    parser.add_argument(
        "--target",
        choices=TARGETS,
        default="total",
        help="total: total energy minus a fit to the composition (default); adsorption: minus slab and gas molecule",
    )
    parser.add_argument(
        "--train-folds",
        type=int,
        nargs="+",
        default=[1, 2, 3],
        metavar="K",
        help="folds for the fit and the statistics (default: 1 2 3)",
    )
    parser.add_argument("--partial", action="store_true", help="accept an archive with missing systems")


def run(args: argparse.Namespace) -> None:
    """Convert and print where the results are."""
    options = Options(target=args.target, train_folds=tuple(args.train_folds), partial=args.partial)
    done = prepare_gamenet(args.archive, args.out, options)
    for fold, counts in done["counts"].items():
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()) if kind != "systems")
        print(f"{args.out / fold / 'data.lmdb'}: {counts['systems']:,} systems ({kinds})")
    if done["left_out"]:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(done["left_out"].items()))
        print(f"left out because they have no adsorption energy: {kinds}")
    folds = ", ".join(map(str, done["train_folds"]))
    print(f"label over folds {folds}: mean {done['train_mean']:.4f} eV, standard deviation {done['train_std']:.4f} eV")
    print(f"units, energies of the elements and all labels: {args.out / DESCRIPTION_FILE}")
