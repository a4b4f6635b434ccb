"""``fairchem-hdgnn evaluate-qm9``: QM9 test errors from fairchem's prediction files, next to published ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from fairchem_hdgnn.cli._flags import path
from fairchem_hdgnn.data.qm9_scores import score, table


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "predictions", type=path, nargs="+", help="*_predictions.npz from the results folders of QM9 runs"
    )
    parser.add_argument("--data", type=path, default=Path("data/qm9"), help="folder that prepare-qm9 wrote")


def run(args: argparse.Namespace) -> None:
    """Print the table; its published columns are test errors after training on 110,000 molecules."""
    print(table([entry for path in args.predictions for entry in score(path, args.data)]))
