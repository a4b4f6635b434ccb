"""Freed memory stays with the process, unless the environment says otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from fairchem_hdgnn.host import allocator

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")

SCRIPT = """
import runpy
from pathlib import Path
import numpy as np

# Without torch and the package, which take seconds to import; numpy asks glibc for memory just as torch does.
keep_freed_memory = runpy.run_path("{module}")["keep_freed_memory"]

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

kept = {call}
before = resident_mib()
arrays = [np.ones(25 * 2**18, dtype=np.float32) for _ in range(8)]
del arrays
print(kept, resident_mib() - before)
"""


def growth(call: str, **environment: str) -> tuple[str, float]:
    """Whether memory is kept, and by how many MiB the process is larger after 200 MiB came and went."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    script = SCRIPT.replace("{call}", call).replace("{module}", allocator.__file__)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={**inherited, **environment}
    )
    kept, mebibytes = done.stdout.split()
    return kept, float(mebibytes)


def test_freed_memory_is_kept() -> None:
    """What eight arrays of 25 MiB leave behind is there for the next ones."""
    kept, mebibytes = growth("keep_freed_memory()")
    assert kept == "True"
    assert mebibytes > 150


def test_without_it_memory_goes_back() -> None:
    """The difference is the call's, not the machine's."""
    _, mebibytes = growth("None", MALLOC_MMAP_THRESHOLD_="1000000")
    assert mebibytes < 50


def test_users_settings_are_left_alone() -> None:
    """Whoever sets glibc's variables means it."""
    kept, mebibytes = growth("keep_freed_memory()", MALLOC_MMAP_THRESHOLD_="1000000")
    assert kept == "False"
    assert mebibytes < 50
