"""``fairchem-hdgnn``: one entry point, one module of this package per sub-command."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from fairchem_hdgnn.errors import UserError
from fairchem_hdgnn.host.which import Host, installed_host, refusal

COMMANDS = {
    "evaluate": ("evaluate", "score checkpoints on labelled splits: MAE and EwT with intervals, tables, plots"),
    "predict": ("predict", "predictions for splits with or without labels, as .npz in float32"),
    "make-submission": ("make_submission", "a verified file for the OC20 leaderboard"),
    "check-submission": ("check_submission", "what is wrong with a leaderboard file, if anything"),
    "download": ("download", "OC20 as published: fetched, verified, unpacked, frames turned into LMDBs"),
    "make-lmdb": ("make_lmdb", "OC20-format LMDBs from whatever ASE reads"),
    "make-aselmdb": ("make_aselmdb", "OC20 LMDBs as ASE databases, the format of fairchem-core 2 itself"),
    "inspect": ("inspect_lmdb", "what an LMDB holds: statistics, or one record"),
    "target-stats": ("target_stats", "mean and standard deviation of the labels, beside a config's"),
    "prepare-qm9": ("prepare_qm9", "QM9 as LMDBs for fairchem's trainer, from qm9pack or the original archive"),
    "prepare-gamenet": (
        "prepare_gamenet",
        "GAME-Net's FG set as LMDBs for fairchem's trainer, one for each published fold",
    ),
    "recipe": ("recipe", "a config for your own structures, sized from their number and their atoms"),
    "train": ("train", "train, validate, predict or relax: the flags of `fairchem`, made safer"),
    "submit": ("submit", "the same as a Slurm job on one or several nodes, requeued when interrupted"),
    "convert": ("convert", "checkpoints of fairchem's eSCN or of HDGNN's authors as checkpoints of this package"),
    "card": ("card", "a model card of a checkpoint: Markdown for the Hugging Face Hub"),
    "equivariance": ("equivariance", "how far energies depend on orientation and on edge frames, meV"),
    "cost": ("cost", "parameters, arithmetic, memory and hours per epoch of a config, from the config alone"),
    "evaluate-qm9": ("evaluate_qm9", "test errors on QM9 in the literature's units, beside published ones"),
    "check": ("check", "what would fail or go wrong in a training, found in seconds from its config"),
    "doctor": ("doctor", "versions, how fairchem sees the plugin, and remedies"),
}
"""Name of each sub-command -> (module in ``fairchem_hdgnn.cli``, one line of help).

A module defines ``configure(parser)``, which adds its arguments, and ``run(args)``, which
returns an exit status or ``None``.
"""

ONLY_UNDER = {
    **dict.fromkeys(("train", "submit", "check", "recipe", "cost", "target-stats"), Host.FAIRCHEM_1),
    "make-aselmdb": Host.FAIRCHEM_2,
}
"""Commands that one generation of fairchem-core serves."""

INSTEAD = {"train": "; train with `fairchem -c CONFIG` here", "submit": "; submit with `fairchem -c CONFIG` here"}
"""What to do under the other."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``fairchem-hdgnn``; the exit status is 2 for a ``UserError``, printed as one line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in (["train"], ["submit"]):
        # These are for fairchem's parser, overrides such as --model.lmax=4 among them.
        arguments.insert(1, "--")
    parser = argparse.ArgumentParser(prog="fairchem-hdgnn", description="HDGNN and eSCN for fairchem-core")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _refuse_other_hosts(arguments[:1])
    for name, (module_name, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        if arguments[:1] == [name]:
            module = importlib.import_module(f"fairchem_hdgnn.cli.{module_name}")
            module.configure(subparser)
            subparser.set_defaults(run=module.run)
    args = parser.parse_args(arguments)
    try:
        return int(args.run(args) or 0)
    except UserError as error:
        print(f"fairchem-hdgnn {args.command}: error: {_node()}{error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"fairchem-hdgnn {args.command}: interrupted; every file is whole or absent", file=sys.stderr)
        return 130


def _refuse_other_hosts(command: Sequence[str]) -> None:
    """End with status 2 and one line for a command that the installed fairchem-core does not serve."""
    for name in command:
        needed, here = ONLY_UNDER.get(name), installed_host()
        if needed is not None and here is not None and here is not needed:
            reason = refusal(f"`fairchem-hdgnn {name}`", needed) + INSTEAD.get(name, "")
            print(f"fairchem-hdgnn {name}: error: {reason}", file=sys.stderr)
            raise SystemExit(2)


def _node() -> str:
    """Where this is, in a job of several nodes: a file may be missing on one of them only."""
    several = int(os.environ.get("SLURM_STEP_NUM_NODES", "1")) > 1
    return f"{os.environ.get('SLURMD_NODENAME', '')}: " if several else ""
