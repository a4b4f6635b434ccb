"""Matrix products with their own precision, also in the backward pass.

torch's own products obey the setting for TF32 and the autocast of the moment. Those that autograd records run backward
when the code that recorded them has long ended.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fairchem_hdgnn.models.arithmetic.tf32 import allow_tf32


def product(
    a: Float[Tensor, "*batch rows inner"], b: Float[Tensor, "*batches inner columns"], *, tf32: bool = False
) -> Float[Tensor, "*batches rows columns"]:
    """``a @ b`` in the wider of their dtypes, exact unless ``tf32``; one ``a`` may serve a whole batch of ``b``."""
    dtype = torch.promote_types(a.dtype, b.dtype)
    return _Product.apply(a.to(dtype), b.to(dtype), tf32)


def linear(
    x: Float[Tensor, "*batch inputs"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, "outputs"] | None = None,
    *,
    tf32: bool = False,
) -> Float[Tensor, "*batch outputs"]:
    """``x weight^T + bias`` in their dtype, exact unless ``tf32``."""
    rows = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias, tf32)
    return rows.view(*x.shape[:-1], weight.shape[0])


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, tf32: bool) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.tf32 = tf32
        with torch.autocast(a.device.type, enabled=False), allow_tf32(tf32):
            return a @ b

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        a, b = ctx.saved_tensors
        a_wanted, b_wanted, _ = ctx.needs_input_grad
        return (
            product(gradient, b.mT, tf32=ctx.tf32).sum_to_size(a.shape) if a_wanted else None,
            product(a.mT, gradient, tf32=ctx.tf32) if b_wanted else None,
            None,
        )


class _Linear(torch.autograd.Function):
    """Not a ``_Product`` with the transposed weight: DistributedDataParallel wants gradients laid out as weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, tf32: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.tf32 = tf32
        with torch.autocast(x.device.type, enabled=False), allow_tf32(tf32):
            return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        x_wanted, weight_wanted, bias_wanted, _ = ctx.needs_input_grad
        return (
            product(gradient, weight, tf32=ctx.tf32) if x_wanted else None,
            product(gradient.mT, x, tf32=ctx.tf32) if weight_wanted else None,
            gradient.sum(0) if bias_wanted else None,
            None,
        )
