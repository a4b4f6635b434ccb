"""A program that ends in one line and together with what it started, on a mistake, Ctrl-C, SIGTERM and SIGHUP."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from fairchem_hdgnn.errors import UserError

GRACE = 60.0
"""Seconds that a child has to save its state once it was told to end; a slow training step can take several."""


class Ended(BaseException):
    """A signal that ends this program; raised where the program happens to be, so that every ``finally`` runs."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


@contextmanager
def ended_in_one_line(program: str, advice: str) -> Iterator[None]:
    """A block that ends in good order: with status 2 on a ``UserError``, 128 + signal on SIGINT, SIGTERM and SIGHUP.

    A signal that the parent had this program ignore (``nohup``) stays ignored.
    """

    def end(signum: int, frame: FrameType | None) -> None:
        raise Ended(signum)

    watched = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    former = {signum: signal.getsignal(signum) for signum in watched if signal.getsignal(signum) != signal.SIG_IGN}
    try:
        for signum in former:
            signal.signal(signum, end)
        yield
    except UserError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Ended as ended:
        print(f"{program}: ended by {signal.Signals(ended.signum).name}; {advice}", file=sys.stderr)
        raise SystemExit(128 + ended.signum) from None
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)


@contextmanager
def child(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that runs no longer than the block: SIGTERM when the block ends early, SIGKILL if that does not help.

    Ctrl-C, which a terminal sends to both, is this process's business alone: the child has SIGINT blocked.

    Args:
        command: what to run; text in, text out.
        options: as for ``subprocess.Popen``.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with subprocess.Popen(command, text=True, **options) as process:
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                yield process
            finally:
                _end(process)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
    except Ended:
        process.kill()
        raise
