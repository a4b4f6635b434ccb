"""``fairchem-hdgnn``: one entry point, one module of this package per sub-command."""

from __future__ import annotations

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
from fairchem_hdgnn_command import COMMANDS, make_parsers

ONLY_UNDER = {
    **dict.fromkeys(("train", "submit", "check", "recipe", "cost", "target-stats"), Host.FAIRCHEM_1),
    "make-aselmdb": Host.FAIRCHEM_2,
}
"""Commands that need one generation of fairchem-core."""

INSTEAD = {"train": "; train with `fairchem -c CONFIG` here", "submit": "; submit with `fairchem -c CONFIG` here"}
"""What to do under the other generation, appended to the refusal."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``fairchem-hdgnn``; the exit status is 2 for a ``UserError`` or an unusable file, printed as one line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in (["train"], ["submit"]):
        # fairchem's parser reads these, including overrides such as --model.lmax=4.
        arguments.insert(1, "--")
    _refuse_other_hosts(arguments[:1])
    parser, of_commands = make_parsers()
    name = arguments[0] if arguments else ""
    if name in COMMANDS:
        module = importlib.import_module(f"fairchem_hdgnn.cli.{COMMANDS[name][0]}")
        module.configure(of_commands[name])
        of_commands[name].set_defaults(run=module.run)
    args = parser.parse_args(arguments)
    interrupts: list[int] = []
    try:
        with _remembering_interrupts(interrupts):
            return int(args.run(args) or 0)
    except UserError as error:
        print(f"fairchem-hdgnn {args.command}: error: {_node()}{error}", file=sys.stderr)
        return 2
    except OSError as error:
        # Such as a file that must not be read.
        if error.filename is None:
            raise
        print(f"fairchem-hdgnn {args.command}: error: {_node()}{error.filename}: {error.strerror}", file=sys.stderr)
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
