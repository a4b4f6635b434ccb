"""Other processes on one thread each, and the CPU time they took."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def cpu_minutes(command: Sequence[str], log: Path) -> float:
    """Run ``command`` with its output in ``log``; minutes of CPU time it took, whatever else the machine did.

    Raises:
        SystemExit: it failed; names the log.
    """
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=ENVIRONMENT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"a run failed; see {log}")
    return (usage.ru_utime + usage.ru_stime) / 60
