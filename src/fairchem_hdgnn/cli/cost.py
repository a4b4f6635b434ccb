"""``fairchem-hdgnn cost``: estimate the cost of training a config before it starts."""

from __future__ import annotations

import argparse

from fairchem_hdgnn.cli._flags import require_at_least
from fairchem_hdgnn.host.cost import GPUS


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, or hdgnn:... for a shipped one")
    parser.add_argument("--gpu", choices=GPUS, default="v100", help="GPU type (default: v100)")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="number of GPUs (default: 1)")


def run(args: argparse.Namespace) -> None:
    """Measure a scaled-down version of the model and print the estimate."""
    require_at_least(1, {"--gpus": args.gpus})
    from fairchem_hdgnn.host.fairchem1.cost_report import report  # noqa: PLC0415  needs a working fairchem

    for heading, text in report(args.config, GPUS[args.gpu], args.gpus).lines():
        print(f"{heading:22}{text}")
