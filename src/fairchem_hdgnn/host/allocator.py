"""Make the process keep the memory it frees: on a CPU, page faults can take as long as the arithmetic.

By default glibc requests memory from the kernel for each large tensor and returns it when the tensor is freed. Every
page is then mapped and cleared again on first use, thousands of times per step.
"""

from __future__ import annotations

import ctypes
import os
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""Parameters of ``mallopt``, from glibc's ``malloc.h``."""

SETTINGS = {TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 64 * 2**20, MMAP_THRESHOLD: 2**30}
CHOSEN_BY_USER = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks of up to 1 GiB for the next tensor.

    Peak memory is unchanged; between steps the process holds what its largest step needed.

    Returns:
        Whether the setting took effect. It does not with another C library, or if the environment already configures
        the allocator (``MALLOC_MMAP_THRESHOLD_``, ``MALLOC_TRIM_THRESHOLD_``, ``GLIBC_TUNABLES``, ``LD_PRELOAD``).
    """
    if sys.platform != "linux" or any(os.environ.get(name) for name in CHOSEN_BY_USER):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(parameter, value) == 1 for parameter, value in SETTINGS.items())
