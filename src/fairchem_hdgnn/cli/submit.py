"""``fairchem-hdgnn submit``: a training as a Slurm job."""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Take everything as it comes: most of it is for fairchem's own parser."""
    parser.add_argument("arguments", nargs="*", help="see `fairchem-hdgnn submit --help`")


def run(args: argparse.Namespace) -> None:
    """Submit, or print the script."""
    from fairchem_hdgnn.host.submit import submit  # noqa: PLC0415  needs fairchem in working order

    submit(args.arguments)
