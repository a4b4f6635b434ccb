"""``fairchem-hdgnn train``: train, validate, predict or relax, with the flags of `fairchem`."""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Take everything as it comes: fairchem's own parser reads it."""
    parser.add_argument("arguments", nargs="*", help="as for `fairchem`; see `fairchem --help`")


def run(args: argparse.Namespace) -> None:
    """Hand over to fairchem."""
    from fairchem_hdgnn.host import command_line  # noqa: PLC0415  needs fairchem in working order

    command_line.run(args.arguments)
