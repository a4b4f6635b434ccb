"""Each Triton kernel compiled for GPUs where there is none: it compiles, and keeps to its registers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="no Triton for this platform")

CAPABILITIES = ("80", "90", "100")
"""A100, H100 and H200, B200."""

KERNELS = {
    "_gather_rotate_kernel", "_rotate_sum_kernel", "_outer_backward_kernel", "_hidden_kernel",
    "_hidden_backward_kernel", "_sum_edges_kernel", "_combine_kernel", "_combine_backward_kernel",
    "_gated_product_kernel", "_gated_product_backward_kernel", "_sphere_silu_kernel", "_sphere_silu_backward_kernel",
    "_rotate_channel_kernel", "_gate_order_kernel", "_gate_order_backward_kernel", "_degree_norm_kernel",
    "_degree_norm_backward_kernel",
}  # fmt: skip
MOST_REGISTERS, MOST_STACK = 128, 8
"""Of a thread up to L = 6: at least 16 warps fit on a multiprocessor, and two numbers are in memory at most."""

MOST_STACK_AT_8 = 192
"""The same at L = 8, where products of one channel have 81 inputs."""

MOST_SHARED = 99 * 1024
"""Bytes of shared memory of a program: what every card since Ampere has."""

LIMITS = {("80", "_sphere_silu_backward_kernel"): 208}
LIMITS |= {(c, f"_gated_product{end}_kernel"): 168 for c in CAPABILITIES for end in ("", "_backward")}
"""More registers: tensor cores of an A100 take both factors from them, and the fifth term's first factor, 49 numbers of
each edge, stays in them."""


def test_kernels_compile() -> None:
    """In a process of its own, as another test may have chosen Triton's interpreter."""
    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):
        pytest.skip(f"Triton {triton.__version__} compiles without a GPU by another interface")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("compiled_kernels.py")), *CAPABILITIES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {(capability, kernel) for capability, kernel, *_ in found} == {(c, k) for c in CAPABILITIES for k in KERNELS}
    wasteful = [
        (capability, kernel, lmax, registers, stack, shared)
        for capability, kernel, lmax, registers, stack, shared in found
        if (lmax <= 6 and (registers > LIMITS.get((capability, kernel), MOST_REGISTERS) or stack > MOST_STACK))
        or stack > MOST_STACK_AT_8
        or shared > MOST_SHARED
    ]
    assert not wasteful
