"""``fairchem-hdgnn check``: find what would make a training fail or go wrong, before it starts."""

from __future__ import annotations

import argparse
from pathlib import Path

from fairchem_hdgnn.cli._flags import path, require_at_least


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("config", metavar="CONFIG", help="a fairchem config; hdgnn:oc20/... for a shipped one")
    parser.add_argument(
        "--run-dir",
        type=path,
        default=Path(),
        metavar="DIR",
        help="the training's --run-dir, for checkpoints (default: .)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override as for train, e.g. --set dataset.train.src=data.lmdb; may be repeated",
    )
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="GPUs per node, as for train (default: 1)")
    parser.add_argument("--num-nodes", type=int, default=1, metavar="N", help="nodes, as for train (default: 1)")


def run(args: argparse.Namespace) -> int:
    """Print one line per finding; the exit status is 1 if the run would fail."""
    require_at_least(1, {"--num-gpus": args.num_gpus, "--num-nodes": args.num_nodes})
    from fairchem_hdgnn.checks.config import config_findings  # noqa: PLC0415
    from fairchem_hdgnn.host.fairchem1.config_files import read_config  # noqa: PLC0415  needs a working fairchem

    config = read_config(args.config, [f"--{override}" for override in args.set])
    errors = warnings = 0
    for finding in config_findings(config, args.run_dir, args.num_nodes * args.num_gpus):
        errors += finding.fatal
        warnings += not finding.fatal
        print(f"{'error' if finding.fatal else 'warning'}: {finding}", flush=True)
    print(f"{args.config}: {errors} errors, {warnings} warnings")
    return int(errors > 0)
