"""``fairchem-hdgnn``: one entry point, one module of this package per sub-command."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

from fairchem_hdgnn.errors import UserError
from fairchem_hdgnn.host.which import Host, installed_host, refusal

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

ONLY_UNDER = {
    **dict.fromkeys(("train", "submit", "check", "recipe", "cost", "target-stats"), Host.FAIRCHEM_1),
    "make-aselmdb": Host.FAIRCHEM_2,
}
"""Commands that need one generation of fairchem-core."""

INSTEAD = {"train": "; train with `fairchem -c CONFIG` here", "submit": "; submit with `fairchem -c CONFIG` here"}
"""What to do under the other generation, appended to the refusal."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``fairchem-hdgnn``; the exit status is 2 for a ``UserError``, printed as one line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in (["train"], ["submit"]):
        # fairchem's parser reads these, including overrides such as --model.lmax=4.
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
    interrupts: list[int] = []
    try:
        with _remembering_interrupts(interrupts):
            return int(args.run(args) or 0)
    except UserError as error:
        print(f"fairchem-hdgnn {args.command}: error: {_node()}{error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    except RuntimeError as error:
        if not (interrupts and "DataLoader worker" in str(error)):
            raise
    print(f"fairchem-hdgnn {args.command}: interrupted; no file is half-written", file=sys.stderr)
    # CPython remembers an interrupt that passed a string given to exec, as in dataclasses, until the next such string;
    # started with -m, it would end by the signal instead of with the status.
    exec("")
    return 130


@contextlib.contextmanager
def _remembering_interrupts(interrupts: list[int]) -> Iterator[None]:
    """Append each Ctrl-C to a list: Python drops its exception in a hook, such as those that fork data workers."""
    previous = signal.getsignal(signal.SIGINT)
    if previous is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _refuse_other_hosts(command: Sequence[str]) -> None:
    """Exit with status 2 and a one-line message if the command needs the other generation of fairchem-core."""
    for name in command:
        needed, here = ONLY_UNDER.get(name), installed_host()
        if needed is not None and here is not None and here is not needed:
            reason = refusal(f"`fairchem-hdgnn {name}`", needed) + INSTEAD.get(name, "")
            print(f"fairchem-hdgnn {name}: error: {reason}", file=sys.stderr)
            raise SystemExit(2)


def _node() -> str:
    """Prefix with the node name in a multi-node job: a file may be missing on one node only."""
    several = int(os.environ.get("SLURM_STEP_NUM_NODES", "1")) > 1
    return f"{os.environ.get('SLURMD_NODENAME', '')}: " if several else ""
