"""The networks with GPU kernels on a GPU that does not exist: no wait for it, no copy to it, nothing on another device.

A CUDA graph needs such a step.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

pytest.importorskip("triton", reason="no Triton for this platform")


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no devices that are written in Python",
)
@pytest.mark.parametrize("check", ["notices", "escn", "hdgnn"])
def test_fake_gpu(check: str) -> None:
    """In a process of its own: a device stays registered, and constants stay on it."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(Path(__file__).with_name("fake_gpu_checks.py")), check],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stdout == "right\n", done.stderr
