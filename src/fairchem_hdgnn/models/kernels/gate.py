"""The gate of an equivariant product, weighed by attention, in one pass.

The plain form is :func:`fairchem_hdgnn.models.ops.gate.gated`: bias, SiLU of the scalars, a sigmoid for each degree,
copied to its rows, products, and a concatenation. The product's columns are planes of channels: degree 0, the gates of
degrees 1 to lmax, and rows (l, m) of degrees 1 to lmax.

Annotations are not postponed, because Triton reads those of the kernels.
"""

from typing import Any, Optional

import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from fairchem_hdgnn.models.kernels import launching
from fairchem_hdgnn.models.kernels.launching import block_of, register

WIDEST_BLOCK = 128
"""Channels that one program works on."""


@triton.jit
def _gate_kernel(
    joint, bias, a, out, silu_scale: tl.constexpr, sigmoid_scale: tl.constexpr,
    degrees: tl.constexpr, channels: tl.constexpr, row_block: tl.constexpr, channel_block: tl.constexpr,
    weighed: tl.constexpr,
):  # fmt: skip
    """One edge and some channels, degree by degree."""
    edge = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * channel_block + tl.arange(0, channel_block)
    in_channels = channel < channels
    offset = tl.arange(0, row_block)
    planes = joint + edge * (degrees + degrees * degrees - 1) * channels + channel
    to = out + edge * degrees * degrees * channels + channel
    weight = tl.full((channel_block,), 1.0, tl.float32)
    if weighed:
        weight = tl.load(a + edge * channels + channel, mask=in_channels, other=0.0)
    scalar = tl.load(planes, mask=in_channels, other=0.0) + tl.load(bias + channel, mask=in_channels, other=0.0)
    tl.store(to, weight * silu_scale * scalar * tl.sigmoid(scalar), mask=in_channels)
    for degree in range(1, degrees):
        gate = tl.load(planes + degree * channels, mask=in_channels, other=0.0)
        gate += tl.load(bias + degree * channels + channel, mask=in_channels, other=0.0)
        factor = weight * sigmoid_scale * tl.sigmoid(gate)
        row = degree * degree + offset
        inside = (offset < 2 * degree + 1)[:, None] & in_channels[None, :]
        values = tl.load(planes[None, :] + (degrees - 1 + row)[:, None] * channels, mask=inside, other=0.0)
        tl.store(to[None, :] + row[:, None] * channels, values * factor[None, :], mask=inside)


@triton.jit
def _gate_backward_kernel(
    gradient, joint, bias, a, of_joint, of_a, silu_scale: tl.constexpr, sigmoid_scale: tl.constexpr,
    degrees: tl.constexpr, channels: tl.constexpr, row_block: tl.constexpr, channel_block: tl.constexpr,
    weighed: tl.constexpr,
):  # fmt: skip
    """The same."""
    edge = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * channel_block + tl.arange(0, channel_block)
    in_channels = channel < channels
    offset = tl.arange(0, row_block)
    start = edge * (degrees + degrees * degrees - 1) * channels + channel
    upstream = gradient + edge * degrees * degrees * channels + channel
    weight = tl.full((channel_block,), 1.0, tl.float32)
    if weighed:
        weight = tl.load(a + edge * channels + channel, mask=in_channels, other=0.0)
    scalar = tl.load(joint + start, mask=in_channels, other=0.0)
    scalar += tl.load(bias + channel, mask=in_channels, other=0.0)
    s = tl.sigmoid(scalar)
    g = silu_scale * tl.load(upstream, mask=in_channels, other=0.0)
    of_weight = g * scalar * s
    tl.store(of_joint + start, g * weight * s * (1.0 + scalar * (1.0 - s)), mask=in_channels)
    for degree in range(1, degrees):
        gate = tl.load(joint + start + degree * channels, mask=in_channels, other=0.0)
        gate += tl.load(bias + degree * channels + channel, mask=in_channels, other=0.0)
        s = tl.sigmoid(gate)
        row = degree * degree + offset
        inside = (offset < 2 * degree + 1)[:, None] & in_channels[None, :]
        at = start[None, :] + (degrees - 1 + row)[:, None] * channels
        values = tl.load(joint + at, mask=inside, other=0.0)
        gradients = sigmoid_scale * tl.load(upstream[None, :] + row[:, None] * channels, mask=inside, other=0.0)
        tl.store(of_joint + at, gradients * (weight * s)[None, :], mask=inside)
        summed = tl.sum(gradients * values, axis=0)
        of_weight += summed * s
        tl.store(of_joint + start + degree * channels, summed * weight * s * (1.0 - s), mask=in_channels)
    if weighed:
        tl.store(of_a + edge * channels + channel, of_weight, mask=in_channels)


def _layout(joint: Tensor, bias: Tensor, channels: int, scales: list[float], a: Optional[Tensor]) -> tuple[tuple, dict]:
    """Grid, and the kernels' constants."""
    degrees = len(bias) // channels
    channel_block = min(WIDEST_BLOCK, block_of(channels))
    sizes = {
        "silu_scale": scales[0], "sigmoid_scale": scales[1], "degrees": degrees, "channels": channels,
        "row_block": block_of(2 * degrees - 1), "channel_block": channel_block, "weighed": a is not None,
    }  # fmt: skip
    return (len(joint), triton.cdiv(channels, channel_block)), sizes


def _gate(
    joint: Float[Tensor, "edges plane_channels"],
    bias: Float[Tensor, "degree_channels"],
    a: Optional[Float[Tensor, "edges channels"]],
    channels: int,
    scales: list[float],
) -> Float[Tensor, "edges rows channels"]:
    out = joint.new_empty(len(joint), (len(bias) // channels) ** 2, channels)
    grid, sizes = _layout(joint, bias, channels, scales, a)
    joint = joint.contiguous()
    tensors = (joint, bias.contiguous(), joint if a is None else a.contiguous(), out)
    launching.launch(_gate_kernel, grid, tensors, **sizes, num_warps=4)
    return out


def _gate_backward(
    gradient: Float[Tensor, "edges rows channels"],
    joint: Float[Tensor, "edges plane_channels"],
    bias: Float[Tensor, "degree_channels"],
    a: Optional[Float[Tensor, "edges channels"]],
    channels: int,
    scales: list[float],
) -> tuple[Float[Tensor, "edges plane_channels"], Tensor]:
    joint = joint.contiguous()
    of_joint, of_a = joint.new_empty(joint.shape), _of_a(joint, a)
    grid, sizes = _layout(joint, bias, channels, scales, a)
    weight = joint if a is None else a.contiguous()
    tensors = (gradient.contiguous(), joint, bias.contiguous(), weight, of_joint, of_a)
    launching.launch(_gate_backward_kernel, grid, tensors, **sizes, num_warps=4)
    return of_joint, of_a


def _of_a(joint: Tensor, a: Optional[Tensor]) -> Tensor:
    return joint.new_empty(0) if a is None else joint.new_empty(a.shape)


gate = register(
    "gate",
    "(Tensor joint, Tensor bias, Tensor? a, int channels, float[] scales) -> Tensor",
    _gate,
    lambda joint, bias, a, channels, scales: joint.new_empty(len(joint), (len(bias) // channels) ** 2, channels),
)
"""Rows (l, m) of the gated product, times a: ``[edges, rows, channels]``; ``scales`` are those of SiLU and sigmoid."""

gate_backward = register(
    "gate_backward",
    "(Tensor gradient, Tensor joint, Tensor bias, Tensor? a, int channels, float[] scales) -> (Tensor, Tensor)",
    _gate_backward,
    lambda gradient, joint, bias, a, channels, scales: (joint.new_empty(joint.shape), _of_a(joint, a)),
)
"""Gradients of the product and of a; the latter is empty where there is none."""


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    joint, bias, a, *ctx.options = inputs
    ctx.save_for_backward(joint, bias, a)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Optional[Tensor], ...]:
    joint, bias, a = ctx.saved_tensors
    of_joint, of_a = gate_backward(gradient, joint, bias, a, *ctx.options)
    return of_joint, of_joint[:, : len(bias)].sum(0), None if a is None else of_a, None, None


gate.register_autograd(_backward, setup_context=_keep)
