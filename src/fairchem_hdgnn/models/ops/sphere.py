"""A point-wise network on the sphere: ``FromGrid( SiLU(W_2 SiLU(ToGrid(f) + b_1) + b_2) )``.

f is given by coefficients on which the network's first layer has acted already, and its last one acts on the result:
linear layers act on channels, so they commute with the transforms, and there are four times fewer coefficients than
points. The fast form never keeps values at points.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

from fairchem_hdgnn.models.arithmetic.precision import Compute, full_precision
from fairchem_hdgnn.models.arithmetic.products import linear, product
from fairchem_hdgnn.models.ops.silu import silu_backward

NUMBERS_ON_CPU = 400_000
"""Values at points that exist at a time; they stay in the cache."""

NUMBERS_ON_GPU = 200_000_000
"""The same elsewhere: 0.8 GB in float32."""


class PointwiseNetwork(NamedTuple):
    """Transforms and weights; without ``weight`` it ends after the first SiLU.

    Attributes:
        to_grid: from coefficients to points.
        from_grid: from points to coefficients.
        first_bias: b_1.
        weight: W_2.
        bias: b_2.
    """

    to_grid: Float[Tensor, "points rows"]
    from_grid: Float[Tensor, "rows_out points"]
    first_bias: Float[Tensor, "channels"] | None = None
    weight: Float[Tensor, "channels channels"] | None = None
    bias: Float[Tensor, "channels"] | None = None


def on_sphere(
    x: Float[Tensor, "n rows channels"], network: PointwiseNetwork, compute: Compute
) -> Float[Tensor, "n rows_out channels"]:
    """The network's result; its widest product uses the precision of ``compute``."""
    values = product(network.to_grid, x)
    hidden = silu(values if network.first_bias is None else values + network.first_bias)
    if network.weight is not None:
        hidden = silu(_second(network, hidden, compute))
    return product(network.from_grid, hidden)


def on_sphere_fast(
    x: Float[Tensor, "n rows channels"], network: PointwiseNetwork, compute: Compute, *, values: bool = True
) -> Float[Tensor, "n rows_out channels"]:
    """As :func:`on_sphere`, a few at a time, forward and backward; without ``values`` for its gradients alone."""
    return _OnSphere.apply(compute, values, x, *network)


def number_per_chunk(x: Float[Tensor, "n rows channels"], points: int) -> int:
    """How many functions are on the grid at a time."""
    numbers = NUMBERS_ON_CPU if x.device.type == "cpu" else NUMBERS_ON_GPU
    return max(1, numbers // (points * x.shape[2]))


class _OnSphere(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compute: Compute, values: bool, x: Tensor, *tensors: Any) -> Tensor:
        ctx.save_for_backward(x, *tensors)
        ctx.compute = compute
        network = PointwiseNetwork(*tensors)
        out = x.new_empty(len(x), len(network.from_grid), x.shape[2])
        if not values:
            return out
        size = number_per_chunk(x, len(network.to_grid))
        with full_precision(x):
            for part, result in zip(x.split(size), out.split(size)):
                hidden = silu(_first(network, part), inplace=True)
                if network.weight is not None:
                    hidden = silu(_second(network, hidden, compute), inplace=True)
                torch.bmm(network.from_grid.expand(len(part), -1, -1), hidden, out=result)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        network, compute = PointwiseNetwork(*tensors), ctx.compute
        of_x = torch.empty_like(x)
        # As all sums over blocks, in at least float32.
        sums = [
            None if tensor is None else torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))
            for tensor in network[2:]
        ]
        of_first_bias, of_weight, of_bias = sums
        size = number_per_chunk(x, len(network.to_grid))
        with full_precision(x):
            for part, of_part, upstream in zip(x.split(size), of_x.split(size), gradient.split(size)):
                first = _first(network, part)
                of_values = torch.bmm(network.from_grid.T.expand(len(part), -1, -1), upstream)
                if network.weight is not None:
                    hidden = silu(first)
                    silu_backward(of_values, _second(network, hidden, compute), out=of_values)
                    if of_bias is not None:
                        of_bias += of_values.sum((0, 1))
                    rounded = of_values.flatten(0, 1).to(compute.dtype)
                    compute.add_product(of_weight, rounded.T, hidden.flatten(0, 1).to(compute.dtype))
                    weight = network.weight.to(compute.dtype)
                    of_values = linear(rounded, weight.T, tf32=compute.tf32).to(first.dtype).view_as(first)
                silu_backward(of_values, first, out=of_values)
                if of_first_bias is not None:
                    of_first_bias += of_values.sum((0, 1))
                torch.bmm(network.to_grid.T.expand(len(part), -1, -1), of_values, out=of_part)
        of_network = (None if total is None else total.to(tensor.dtype) for total, tensor in zip(sums, tensors[2:]))
        return None, None, of_x, None, None, *of_network


def _first(network: PointwiseNetwork, x: Tensor) -> Float[Tensor, "n points channels"]:
    """Before the first SiLU."""
    values = torch.bmm(network.to_grid.expand(len(x), -1, -1), x)
    return values if network.first_bias is None else values.add_(network.first_bias)


def _second(network: PointwiseNetwork, hidden: Tensor, compute: Compute) -> Float[Tensor, "n points channels"]:
    """Before the second SiLU."""
    assert network.weight is not None
    bias = None if network.bias is None else network.bias.to(compute.dtype)
    weight = network.weight.to(compute.dtype)
    return linear(hidden.to(compute.dtype), weight, bias, tf32=compute.tf32).to(hidden.dtype)
