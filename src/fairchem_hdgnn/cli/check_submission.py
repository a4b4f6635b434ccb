"""``fairchem-hdgnn check-submission``: what is wrong with a leaderboard file, if anything."""

from __future__ import annotations

import argparse

from fairchem_hdgnn.cli._flags import path
from fairchem_hdgnn.cli.make_submission import add_check_arguments, official_counts, summary
from fairchem_hdgnn.evaluation.expected import expected_systems
from fairchem_hdgnn.evaluation.submission import check_submission, upload_text


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("file", type=path, help="a submission .npz, from whatever program")
    add_check_arguments(parser, data_required=False)


def run(args: argparse.Namespace) -> None:
    """Verify and report."""
    data_format = args.data_format
    expected = None if args.data is None else expected_systems(args.data, args.prefix, data_format=data_format)
    arrays = check_submission(args.file, task=args.task, expected=expected, official_counts=official_counts(args))
    print(f"{args.file}: no fault found\n{summary(arrays)}")
    if expected is None:
        print("Not checked: whether the ids are those of the test sets, and in the right splits (give --data ROOT).")
    if args.prefix == "test":
        print(upload_text(args.task))
