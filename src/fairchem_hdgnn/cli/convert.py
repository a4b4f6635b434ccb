"""``fairchem-hdgnn convert``: convert checkpoints of other implementations, or for the other fairchem-core."""

from __future__ import annotations

import argparse

from fairchem_hdgnn.cli._flags import path
from fairchem_hdgnn.cli._inference import add_trust_argument
from fairchem_hdgnn.convert.checkpoints import SOURCES, convert_checkpoint
from fairchem_hdgnn.convert.generations import FIRST, GENERATIONS, SECOND, convert_generation
from fairchem_hdgnn.errors import ConfigError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("checkpoint", type=path, help="the checkpoint to convert")
    parser.add_argument("out", type=path, help="the file to write; must not exist")
    descriptions = {name: source.description for name, source in SOURCES.items()} | GENERATIONS
    sources = "; ".join(f"{name}: {description}" for name, description in descriptions.items())
    parser.add_argument("--from", dest="source", required=True, choices=list(descriptions), help=sources)
    parser.add_argument(
        "--to",
        dest="target",
        choices=list(GENERATIONS),
        help=f"default: the other of {FIRST} and {SECOND} if --from is one of them, else {FIRST}",
    )
    parser.add_argument(
        "--raw-weights", action="store_true", help="use the raw weights even if the file has averaged ones (EMA)"
    )
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Convert and report what was written."""
    options = {"raw_weights": args.raw_weights, "trusted": args.trust_checkpoint}
    if args.source in GENERATIONS:
        other = SECOND if args.source == FIRST else FIRST
        if args.target == args.source:
            raise ConfigError(f"--to {args.target}: is the same as --from; nothing to convert")
        done = convert_generation(other, args.checkpoint, args.out, **options)
    elif args.target == SECOND:
        raise ConfigError(f"--from {args.source} --to {SECOND}: needs two steps; convert to {FIRST} first")
    else:
        done = convert_checkpoint(args.source, args.checkpoint, args.out, **options)
    weights = "averaged weights (EMA)" if done.averaged else "raw weights"
    print(f"{done.path}: {done.model_name}, {done.num_parameters:,} parameters, {weights}; no optimiser state")
