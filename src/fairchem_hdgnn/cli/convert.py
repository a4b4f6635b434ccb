"""``fairchem-hdgnn convert``: checkpoints of other implementations as checkpoints of this package."""

from __future__ import annotations

import argparse

from fairchem_hdgnn.cli._flags import path
from fairchem_hdgnn.cli._inference import add_trust_argument
from fairchem_hdgnn.convert.checkpoints import SOURCES, convert_checkpoint


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("checkpoint", type=path, help="the checkpoint to convert")
    parser.add_argument("out", type=path, help="the file to write; must not exist")
    sources = "; ".join(f"{name}: {source.description}" for name, source in SOURCES.items())
    parser.add_argument("--from", dest="source", required=True, choices=list(SOURCES), help=sources)
    parser.add_argument(
        "--raw-weights", action="store_true", help="take the raw weights although the file has averaged ones (EMA)"
    )
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Convert and say what was written."""
    done = convert_checkpoint(
        args.source, args.checkpoint, args.out, raw_weights=args.raw_weights, trusted=args.trust_checkpoint
    )
    weights = "averaged weights (EMA)" if done.averaged else "raw weights"
    print(f"{done.path}: {done.model_name}, {done.num_parameters:,} parameters, {weights}; no optimiser state")
