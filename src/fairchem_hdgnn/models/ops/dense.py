"""A linear layer whose weight all blocks of edges share."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairchem_hdgnn.models.ops.passes import Pass


class Dense(torch.autograd.Function):
    """``x weight^T + bias``, or ``x weight``; the weight is laid out once, and its gradient goes to the pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, run: Pass, weight: Tensor, bias: Tensor | None, transposed: bool
    ) -> Float[Tensor, "rows outputs"]:
        """As :meth:`~fairchem_hdgnn.models.ops.edge_ops.EdgeOps.linear`."""
        inputs = x.to(run.compute.dtype)
        ctx.run, ctx.weight, ctx.bias, ctx.transposed, ctx.dtype = run, weight, bias, transposed, x.dtype
        ctx.save_for_backward(inputs)
        rounded = None if bias is None else bias.to(inputs.dtype)
        return run.packed(weight, transposed=transposed).product(inputs, rounded).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of x; adds those of weight and bias to the pass, which may return them."""
        (inputs,) = ctx.saved_tensors
        run, weight, bias = ctx.run, ctx.weight, ctx.bias
        upstream = gradient.to(inputs.dtype)
        if weight.requires_grad:
            a, b = (inputs, upstream) if ctx.transposed else (upstream, inputs)
            run.compute.add_product(run.gradient(weight), a.T, b)
        if bias is not None and bias.requires_grad:
            run.gradient(bias).add_(gradient.sum(0))
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = run.packed(weight, transposed=not ctx.transposed).product(upstream).to(ctx.dtype)
        return of_x, None, run.returned(weight), None if bias is None else run.returned(bias), None
