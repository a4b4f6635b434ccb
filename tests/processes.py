"""Which processes there are, and such as a test ends in the middle of their work."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

from tqdm import tqdm


def forked(work: Callable[..., Any], *args: Any) -> ForkProcess:
    """A started copy of this process that does ``work``, to be ended at any moment."""

    def alone() -> None:
        # tqdm's own lock is one for both processes; this one would wait for ever if the copy ended with it.
        tqdm.set_lock(threading.RLock())
        work(*args)

    process = multiprocessing.get_context("fork").Process(target=alone)
    process.start()
    return process


def session_members(session: int) -> list[int]:
    """Processes of a session (``start_new_session=True``: the process id of its first) that have not ended."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, of_session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(of_session) == session and state != "Z":
                members.append(int(stat.parent.name))
    return members
