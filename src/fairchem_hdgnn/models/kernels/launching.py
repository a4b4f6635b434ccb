"""Launching kernels, and registering what launches them as PyTorch operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor

NAMESPACE = "fairchem_hdgnn"


def register(name: str, schema: str, function: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """An operation that torch.compile, counters of operations and opcheck see as one.

    Args:
        name: of ``torch.ops.fairchem_hdgnn``.
        schema: its arguments and results, in PyTorch's notation.
        function: computes it.
        fake: tensors of the same shapes and dtypes as the results, without values.
    """
    operation = torch.library.custom_op(f"{NAMESPACE}::{name}", function, mutates_args=(), schema=schema)
    operation.register_fake(fake)
    return operation


def launch(kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], **sizes: Any) -> None:
    """Run a kernel on the device of its first argument; nothing if there are no programs."""
    if 0 in grid:
        return
    first: Tensor = arguments[0]
    with torch.cuda.device_of(first):
        kernel[grid](*arguments, **sizes)


def with_unit_stride(tensor: Tensor) -> Tensor:
    """A matrix whose rows are contiguous; it may be some columns of a wider one."""
    return tensor if tensor.stride(1) == 1 else tensor.contiguous()


def block_of(size: int) -> int:
    """The power of two that holds ``size`` numbers."""
    return triton.next_power_of_2(max(1, size))
