"""``fairchem-hdgnn cost``: what training a config takes, before it is started."""

from __future__ import annotations

import argparse

from fairchem_hdgnn.cli._flags import require_at_least
from fairchem_hdgnn.host.cost import GPUS


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, or hdgnn:... for a shipped one")
    parser.add_argument("--gpu", choices=GPUS, default="v100", help="default: v100")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="how many (default: 1)")


def run(args: argparse.Namespace) -> None:
    """Measure a small version and print."""
    require_at_least(1, {"--gpus": args.gpus})
    from fairchem_hdgnn.host.fairchem1.cost_report import report  # noqa: PLC0415  needs fairchem in working order

    for heading, text in report(args.config, GPUS[args.gpu], args.gpus).lines():
        print(f"{heading:22}{text}")
