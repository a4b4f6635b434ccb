"""``fairchem-hdgnn target-stats``: mean and standard deviation of a data set's labels, compared with a config's."""

from __future__ import annotations

import argparse

from fairchem_hdgnn.checks.targets import read_normaliser, target_spread
from fairchem_hdgnn.cli._flags import path
from fairchem_hdgnn.data.statistics import LABELS


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("lmdb", type=path, metavar="LMDB", help="the training set: an .lmdb file, or a folder of them")
    parser.add_argument("--config", metavar="YML", help="compare with this config's normalizer")
    parser.add_argument("--key", metavar="KEY", help="attribute with the label (default: the config's, or y_relaxed)")
    parser.add_argument("--target", default="energy", help="the config's name for the target (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Print the numbers; the exit status is 1 if the config's differ."""
    normaliser = read_normaliser(args.config, args.target) if args.config else None
    key, spread = target_spread(args.lmdb, args.key or (normaliser.key if normaliser else None))
    print(f"{args.lmdb}: {key} of {spread.count:,} records, {'eV' if key in LABELS else 'in the unit of the data'}")
    print(f"  mean {spread.mean:.6f}, std {spread.std:.6f}")
    print(f"  median {spread.median:.4f}, from {spread.low:.4f} to {spread.high:.4f}")
    if normaliser is None:
        print(f"Add to the config under dataset.train.transforms:\n  normalizer:\n    {args.target}:")
        print(f"      mean: {spread.mean:.6f}\n      stdev: {spread.std:.6f}")
        return 0
    if normaliser.of_rest:
        print(
            f"{args.config}: not compared: its normalizer (mean {normaliser.mean:.6f}, stdev {normaliser.stdev:.6f}) "
            "is that of what remains after its element_references are subtracted"
        )
        return 0
    deviations = normaliser.deviations(spread)
    if deviations:
        print(f"{args.config} has a different normalizer:", *deviations, sep="\n  ")
        return 1
    print(f"{args.config} agrees: mean {normaliser.mean:.6f}, stdev {normaliser.stdev:.6f}")
    return 0
