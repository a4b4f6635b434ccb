"""The kernels for GPUs against plain equations: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.models.hdgnn.network import HDGNNNetwork

pytest.importorskip("triton", reason="no Triton for this platform")

GROUPS = (
    ("rotations", "single_channels", "gather"), ("terms", "gate", "registered", "gate_features"),
    ("so2", "sphere", "norm"), ("networks",), ("device", "repeats", "launches", "counted", "frozen", "benchmark"),
    ("tf32", "combinations"),
)  # fmt: skip


ORDER = pytest.param(
    ("order",), marks=pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU chooses the order of programs itself")
)


@pytest.mark.parametrize("checks", [*GROUPS, ORDER], ids="-".join)
def test_kernels(checks: tuple[str, ...]) -> None:
    """In a process of its own, as the interpreter is chosen when Triton is imported."""
    # Older torch wants the setting before products may run with deterministic algorithms.
    settings = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    settings |= {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(Path(__file__).with_name("kernel_checks.py")), *checks],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stdout == "right\n", done.stderr


def test_kernels_need_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ConfigError, match="implementation: triton runs on GPUs only"):
        HDGNNNetwork({"implementation": "triton", "lmax": 1, "num_layers": 1, "sphere_channels": 2})(
            torch.tensor([1, 1]),
            torch.tensor([[0, 1], [1, 0]]),
            torch.ones(2, 3),
            torch.tensor([0, 0]),
            1,
        )
