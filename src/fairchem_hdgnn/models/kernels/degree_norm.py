"""The layer norm of each degree, with weight and bias, in one pass.

The plain form is :class:`~fairchem_hdgnn.models.hdgnn.norm.DegreeLayerNorm`.

Annotations are not postponed, because Triton reads those of the kernels.
"""

from typing import Any, Optional

import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from fairchem_hdgnn.models.kernels import launching
from fairchem_hdgnn.models.kernels.launching import block_of, register


@triton.jit
def _load_degree(
    x, node, degree, offset, channel,
    degrees: tl.constexpr, channels: tl.constexpr, centred: tl.constexpr, epsilon: tl.constexpr,
):  # fmt: skip
    """Where it is and which of it exists; x of a degree, without its mean if that is 0; 1 / root mean square; count."""
    inside = (offset < 2 * degree + 1)[:, None] & (channel < channels)[None, :]
    at = (node * degrees * degrees + degree * degree + offset)[:, None] * channels + channel[None, :]
    values = tl.load(x + at, mask=inside, other=0.0)
    if centred:
        mean = tl.sum(tl.sum(values, axis=0), axis=0) / channels
        values = tl.where(inside & (degree == 0), values - mean, values)
    count = (2 * degree + 1) * channels
    mean_square = tl.sum(tl.sum(values * values, axis=0), axis=0) / count
    return at, inside, values, 1.0 / tl.sqrt(mean_square + epsilon), count


@triton.jit
def _degree_norm_kernel(
    x, weight, bias, out,
    degrees: tl.constexpr, channels: tl.constexpr, column_block: tl.constexpr, channel_block: tl.constexpr,
    centred: tl.constexpr, epsilon: tl.constexpr,
):  # fmt: skip
    """One atom, degree by degree."""
    node = tl.program_id(0).to(tl.int64)
    offset, channel = tl.arange(0, column_block), tl.arange(0, channel_block)
    b = tl.load(bias + channel, mask=channel < channels, other=0.0)
    for degree in range(degrees):
        at, inside, values, scale, _ = _load_degree(
            x, node, degree, offset, channel, degrees, channels, centred, epsilon
        )
        w = tl.load(weight + degree * channels + channel, mask=channel < channels, other=0.0)
        values = values * (scale * w)[None, :]
        tl.store(out + at, tl.where(degree == 0, values + b[None, :], values), mask=inside)


@triton.jit
def _degree_norm_backward_kernel(
    gradient, x, weight, of_x, of_weight,
    degrees: tl.constexpr, channels: tl.constexpr, column_block: tl.constexpr, channel_block: tl.constexpr,
    centred: tl.constexpr, epsilon: tl.constexpr,
):  # fmt: skip
    """The same; weight and bias get one sum from each atom."""
    node = tl.program_id(0).to(tl.int64)
    offset, channel = tl.arange(0, column_block), tl.arange(0, channel_block)
    in_channels = channel < channels
    to_weight = of_weight + node * (degrees + 1) * channels + channel
    for degree in range(degrees):
        at, inside, values, scale, count = _load_degree(
            x, node, degree, offset, channel, degrees, channels, centred, epsilon
        )
        w = tl.load(weight + degree * channels + channel, mask=in_channels, other=0.0)
        upstream = tl.load(gradient + at, mask=inside, other=0.0)
        tl.store(to_weight + degree * channels, tl.sum(upstream * values, axis=0) * scale, mask=in_channels)
        if degree == 0:
            tl.store(to_weight + degrees * channels, tl.sum(upstream, axis=0), mask=in_channels)
        upstream = upstream * w[None, :]
        along = tl.sum(tl.sum(upstream * values, axis=0), axis=0)
        result = scale * upstream - values * (scale * scale * scale * along / count)
        if centred:
            mean = tl.sum(tl.sum(result, axis=0), axis=0) / channels
            result = tl.where(degree == 0, result - mean, result)
        tl.store(of_x + at, result, mask=inside)


def _sizes(x: Tensor, weight: Tensor, centred: bool, epsilon: float) -> dict[str, Any]:
    degrees, channels = weight.shape
    return {
        "degrees": degrees, "channels": channels, "column_block": block_of(2 * degrees - 1),
        "channel_block": block_of(channels), "centred": centred, "epsilon": epsilon,
    }  # fmt: skip


def _degree_norm(
    x: Float[Tensor, "nodes coefficients channels"],
    weight: Float[Tensor, "degrees channels"],
    bias: Float[Tensor, "channels"],
    centred: bool,
    epsilon: float,
) -> Float[Tensor, "nodes coefficients channels"]:
    out = x.new_empty(x.shape)
    tensors = (x.contiguous(), weight.contiguous(), bias.contiguous(), out)
    launching.launch(_degree_norm_kernel, (len(x),), tensors, **_sizes(x, weight, centred, epsilon), num_warps=4)
    return out


def _degree_norm_backward(
    gradient: Float[Tensor, "nodes coefficients channels"],
    x: Float[Tensor, "nodes coefficients channels"],
    weight: Float[Tensor, "degrees channels"],
    centred: bool,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    of_x, of_weight = x.new_empty(x.shape), x.new_empty(len(x), len(weight) + 1, weight.shape[1])
    tensors = (gradient.contiguous(), x.contiguous(), weight.contiguous(), of_x, of_weight)
    sizes = _sizes(x, weight, centred, epsilon)
    launching.launch(_degree_norm_backward_kernel, (len(x),), tensors, **sizes, num_warps=4)
    return of_x, of_weight


degree_norm = register(
    "degree_norm",
    "(Tensor x, Tensor weight, Tensor bias, bool centred, float epsilon) -> Tensor",
    _degree_norm,
    lambda x, weight, bias, centred, epsilon: x.new_empty(x.shape),
)
"""x with each degree divided by its root mean square, times weight; degree 0 without its mean if centred, plus bias."""

degree_norm_backward = register(
    "degree_norm_backward",
    "(Tensor gradient, Tensor x, Tensor weight, bool centred, float epsilon) -> (Tensor, Tensor)",
    _degree_norm_backward,
    lambda gradient, x, weight, centred, epsilon: (
        x.new_empty(x.shape),
        weight.new_empty(len(x), len(weight) + 1, weight.shape[1]),
    ),
)
"""Gradients of x, and from each atom one of the weight, with that of the bias as its last row."""


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, *ctx.options = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Optional[Tensor], ...]:
    of_x, of_weight = degree_norm_backward(gradient, *ctx.saved_tensors, *ctx.options)
    of_weight = of_weight.sum(0)
    return of_x, of_weight[:-1], of_weight[-1], None, None


degree_norm.register_autograd(_backward, setup_context=_keep)
