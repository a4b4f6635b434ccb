"""Entry point of ``fairchem-hdgnn``, and its commands; it imports the package, which takes seconds, for one of them."""

from __future__ import annotations

import argparse
import importlib
import io
import signal
import sys

COMMANDS = {
    "evaluate": ("evaluate", "score checkpoints on labelled splits: MAE and EwT with intervals, tables, plots"),
    "predict": ("predict", "predict splits with or without labels; writes .npz files in float32"),
    "make-submission": ("make_submission", "write a verified file for the OC20 leaderboard"),
    "check-submission": ("check_submission", "verify a file for the OC20 leaderboard"),
    "download": ("download", "download OC20: fetch, verify and unpack it, convert S2EF frames to LMDBs"),
    "make-lmdb": ("make_lmdb", "write OC20-format LMDBs from any files that ASE reads"),
    "make-aselmdb": ("make_aselmdb", "convert OC20 LMDBs to ASE databases, the native format of fairchem-core 2"),
    "inspect": ("inspect_lmdb", "show the contents of an LMDB: statistics, or one record"),
    "target-stats": ("target_stats", "mean and standard deviation of the labels, compared with a config's"),
    "prepare-qm9": ("prepare_qm9", "convert QM9 to LMDBs for fairchem's trainer, from qm9pack or the original archive"),
    "prepare-gamenet": (
        "prepare_gamenet",
        "convert GAME-Net's FG set to LMDBs for fairchem's trainer, one per published fold",
    ),
    "recipe": ("recipe", "write a config for your own structures, sized to their number and atom counts"),
    "train": ("train", "train, validate, predict or relax: takes the flags of `fairchem`, with more checks"),
    "submit": ("submit", "run `train` as a Slurm job on one or more nodes, requeued when interrupted"),
    "convert": (
        "convert",
        "convert checkpoints from fairchem's eSCN, the HDGNN authors' code, or the other fairchem-core",
    ),
    "card": ("card", "write a model card for a checkpoint: Markdown for the Hugging Face Hub"),
    "equivariance": ("equivariance", "measure how much energies depend on orientation and on edge frames (meV)"),
    "cost": ("cost", "estimate parameters, FLOPs, memory and hours per epoch from a config alone"),
    "evaluate-qm9": ("evaluate_qm9", "test errors on QM9 in the literature's units, next to published ones"),
    "check": ("check", "find within seconds, from a config, what would make a training fail"),
    "doctor": ("doctor", "check the installation: versions, whether fairchem finds the plugin, remedies"),
}
"""Name of each sub-command -> (module in ``fairchem_hdgnn.cli``, one line of help).

A module defines ``configure(parser)``, which adds its arguments, and ``run(args)``, which
returns an exit status or ``None``.
"""


def main() -> int:
    """Run the command; SIGUSR1 is blocked before the imports, until a training can handle it (``PreemptionWatch``)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Where the locale's encoding lacks Å or …, a question mark is better than a failure after hours.
            stream.reconfigure(errors="replace")
    if not sys.argv[1:] or sys.argv[1] not in COMMANDS:
        # Help, or an error.
        make_parsers()[0].parse_args()
    return importlib.import_module("fairchem_hdgnn.cli").main()


def make_parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser and, by command, those of the commands, which have no arguments yet."""
    parser = argparse.ArgumentParser(prog="fairchem-hdgnn", description="HDGNN and eSCN for fairchem-core")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    of_commands = {name: commands.add_parser(name, help=text, description=text) for name, (_, text) in COMMANDS.items()}
    return parser, of_commands


if __name__ == "__main__":
    sys.exit(main())
