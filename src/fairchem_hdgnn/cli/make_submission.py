"""``fairchem-hdgnn make-submission``: write a verified file for the OC20 leaderboard."""

from __future__ import annotations

import argparse

from fairchem_hdgnn.cli._flags import path
from fairchem_hdgnn.cli._inference import add_data_format_argument
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.evaluation.expected import expected_systems
from fairchem_hdgnn.evaluation.splits import SUFFIXES
from fairchem_hdgnn.evaluation.submission import Arrays, make_submission, upload_text
from fairchem_hdgnn.evaluation.submission_checks import KEYS


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    for suffix in SUFFIXES:
        flag = f"--{suffix.replace('_', '-')}"
        parser.add_argument(flag, type=path, required=True, metavar="NPZ", help=f"predictions for test_{suffix}")
    parser.add_argument("--out", type=path, required=True, metavar="FILE", help="the .npz to write")
    add_check_arguments(parser, data_required=True)


def add_check_arguments(parser: argparse.ArgumentParser, *, data_required: bool) -> None:
    """Add the arguments that define what a file is checked against."""
    parser.add_argument("--task", choices=sorted(KEYS), default="is2re", help="OC20 task (default: is2re)")
    parser.add_argument(
        "--data",
        type=path,
        required=data_required,
        metavar="ROOT",
        help="folder with test_id/data.lmdb or test_id.lmdb and so on",
    )
    parser.add_argument(
        "--prefix", choices=("test", "val"), default="test", help="val: a practice file from the validation splits"
    )
    parser.add_argument(
        "--counts",
        choices=("official", "any"),
        help="whether the number of systems must be OC20's (default: official for test, any for val)",
    )
    add_data_format_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Verify, write, and print how to upload."""
    arrays = make_submission(
        {suffix: getattr(args, suffix) for suffix in SUFFIXES},
        args.out,
        expected_systems(args.data, args.prefix, data_format=args.data_format),
        task=args.task,
        official_counts=official_counts(args),
    )
    print(f"{args.out}: verified and written\n{summary(arrays)}")
    print(
        upload_text(args.task)
        if args.prefix == "test"
        else "A practice file: the leaderboard accepts test splits only."
    )


def official_counts(args: argparse.Namespace) -> bool:
    """Whether the arguments require OC20's number of systems.

    Raises:
        ConfigError: for validation splits.
    """
    if args.prefix == "val" and args.counts == "official":
        raise ConfigError("--counts official: OC20's test splits only; leave it out with --prefix val")
    return (args.counts or {"test": "official", "val": "any"}[args.prefix]) == "official"


def summary(arrays: Arrays) -> str:
    """One line per split: systems and spread of the energies."""
    lines = []
    for suffix in SUFFIXES:
        energy = arrays[f"{suffix}_energy"]
        lines.append(
            f"  {suffix:<9} {len(energy):>9,} systems   energy {energy.mean():.3f} ± {energy.std():.3f} eV, "
            f"from {energy.min():.2f} to {energy.max():.2f} eV"
        )
    return "\n".join(lines)
