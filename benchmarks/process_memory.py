"""Memory of this process that is in RAM."""

from __future__ import annotations

from pathlib import Path


def resident_kib(field: str = "VmRSS") -> int:
    """KiB: current (``VmRSS``) or peak (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])
