"""What Triton's interpreter leaves out of a GPU: the rounding of TF32, and programs that run in another order."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DROPPED_BITS = 13
"""Of float32's 23, TF32 keeps 10."""


def round_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Factors of ``tl.dot`` lose the digits that TF32 lacks, where a kernel asks for it."""
    exact: Any = InterpreterBuilder.create_dot

    def create_dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, *options: Any) -> Any:
        if str(input_precision).endswith(".TF32") and a.data.dtype == np.float32:
            a, b = rounded(a), rounded(b)
        return exact(self, a, b, d, input_precision, *options)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)


def rounded(handle: Any) -> Any:
    """To the nearest number of TF32."""
    bits = np.ascontiguousarray(handle.data).view(np.uint32) + np.uint32(1 << (DROPPED_BITS - 1))
    return type(handle)((bits >> DROPPED_BITS << DROPPED_BITS).view(np.float32), handle.dtype)


def reverse_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last program of a launch runs first."""
    forwards: Any = InterpreterBuilder.set_grid_idx

    def set_grid_idx(self: Any, *index: int) -> None:
        forwards(self, *(size - 1 - i for size, i in zip(self.grid_dim, index)))

    monkeypatch.setattr(InterpreterBuilder, "set_grid_idx", set_grid_idx)


@triton.jit
def _square_kernel(x, out, size: tl.constexpr, precision: tl.constexpr):  # type: ignore[no-untyped-def]
    index = tl.arange(0, size)[:, None] * size + tl.arange(0, size)[None, :]
    values = tl.load(x + index)
    tl.store(out + index, tl.dot(values, values, input_precision=precision))


@triton.jit
def _last_kernel(out):  # type: ignore[no-untyped-def]
    tl.store(out, tl.program_id(0))


def error_of_square(device: str, precision: str) -> float:
    """Relative error of a product of random matrices."""
    x = torch.randn(16, 16, device=device)
    out = torch.empty_like(x)
    _square_kernel[1,](x, out, 16, precision)
    exact = x.double() @ x.double()
    return float((out - exact).norm() / exact.norm())


def last_program() -> int:
    """Of seven."""
    out = torch.zeros(1, dtype=torch.int32)
    _last_kernel[7,](out)
    return int(out)
