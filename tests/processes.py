"""Which processes there are."""

from __future__ import annotations

import contextlib
from pathlib import Path


def session_members(session: int) -> list[int]:
    """Processes of a session (``start_new_session=True``: the process id of its first) that have not ended."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, of_session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(of_session) == session and state != "Z":
                members.append(int(stat.parent.name))
    return members
