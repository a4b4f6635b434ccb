"""``fairchem-hdgnn check-submission``: verify a file for the OC20 leaderboard."""

from __future__ import annotations

import argparse

from fairchem_hdgnn.cli._flags import path
from fairchem_hdgnn.cli.make_submission import add_check_arguments, official_counts, summary
from fairchem_hdgnn.evaluation.expected import expected_systems
from fairchem_hdgnn.evaluation.submission import check_submission, upload_text


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("file", type=path, help="a submission .npz, written by any program")
    add_check_arguments(parser, data_required=False)


def run(args: argparse.Namespace) -> None:
    """Verify and report."""
    data_format = args.data_format
    expected = None if args.data is None else expected_systems(args.data, args.prefix, data_format=data_format)
    arrays = check_submission(args.file, task=args.task, expected=expected, official_counts=official_counts(args))
    print(f"{args.file}: no errors found\n{summary(arrays)}")
    if expected is None:
        print("Not checked: whether the ids are those of the test sets, each in its split (add --data ROOT to check).")
    if args.prefix == "test":
        print(upload_text(args.task))
