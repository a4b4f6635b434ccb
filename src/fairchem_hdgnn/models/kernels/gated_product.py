"""An equivariant product of a single channel, its gate, and attention's weights, in one pass.

The plain form is a product with one matrix for all orders, then :func:`fairchem_hdgnn.models.ops.gate.gated`: bias,
SiLU of the scalars, a sigmoid for each degree, copied to its rows, products, and a concatenation. The matrix's columns
are planes of channels: degree 0, the gates of degrees 1 to lmax, and rows (l, m) of degrees 1 to lmax. Here they need
no memory in the forward pass: the factor is small, and the backward pass, which writes their gradient, forms them
again. Products are sums of three TF32 products of a factor's leading and trailing digits, as exact as float32.

Annotations are not postponed, because Triton reads those of the kernels.
"""

from typing import Any, Optional

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fairchem_hdgnn.models.arithmetic.products import product
from fairchem_hdgnn.models.kernels import launching
from fairchem_hdgnn.models.kernels.launching import block_of, register, with_unit_stride
from fairchem_hdgnn.models.kernels.silu import silu

EDGE_BLOCK, WIDEST_BLOCK, SMALLEST_BLOCK = 16, 64, 16
"""Edges and channels that a program works on, and the smallest side of a product."""


@triton.jit
def _load_matrix(
    matrix, plane, row, channel, inputs: tl.constexpr, planes: tl.constexpr, channels: tl.constexpr
):  # fmt: skip
    """One plane's columns."""
    inside = (row < inputs)[:, None] & (channel < channels)[None, :]
    at = (row[:, None] * planes + plane) * channels + channel[None, :]
    return tl.load(matrix + at, mask=inside, other=0.0)


@triton.jit
def _plane(
    u, matrix, plane, row, channel, inputs: tl.constexpr, planes: tl.constexpr, channels: tl.constexpr
):  # fmt: skip
    """One plane of the product of some edges."""
    return tl.dot(u, _load_matrix(matrix, plane, row, channel, inputs, planes, channels), input_precision="tf32x3")


@triton.jit(do_not_specialize=["num_edges"])
def _gated_product_kernel(
    u, matrix, bias, a, out, num_edges, silu_scale: tl.constexpr, sigmoid_scale: tl.constexpr, a_stride: tl.constexpr,
    inputs: tl.constexpr, degrees: tl.constexpr, channels: tl.constexpr, edge_block: tl.constexpr,
    input_block: tl.constexpr, channel_block: tl.constexpr, weighed: tl.constexpr,
):  # fmt: skip
    """Some edges and channels, degree by degree."""
    edge = tl.program_id(0).to(tl.int64) * edge_block + tl.arange(0, edge_block)
    channel = tl.program_id(1) * channel_block + tl.arange(0, channel_block)
    row = tl.arange(0, input_block)
    planes: tl.constexpr = degrees * degrees + degrees - 1
    in_channels = channel < channels
    inside = (edge < num_edges)[:, None] & in_channels[None, :]
    in_inputs = (edge < num_edges)[:, None] & (row < inputs)[None, :]
    factor = tl.load(u + edge[:, None] * inputs + row[None, :], mask=in_inputs, other=0.0)
    weight = tl.full((edge_block, channel_block), 1.0, tl.float32)
    if weighed:
        weight = tl.load(a + edge[:, None] * a_stride + channel[None, :], mask=inside, other=0.0)
    to = out + edge[:, None] * degrees * degrees * channels + channel[None, :]
    scalar = _plane(factor, matrix, 0, row, channel, inputs, planes, channels)
    scalar += tl.load(bias + channel, mask=in_channels, other=0.0)[None, :]
    value, _ = silu(scalar)
    tl.store(to, weight * silu_scale * value, mask=inside)
    for degree in range(1, degrees):
        gate = _plane(factor, matrix, degree, row, channel, inputs, planes, channels)
        gate += tl.load(bias + degree * channels + channel, mask=in_channels, other=0.0)[None, :]
        gate = weight * sigmoid_scale * tl.sigmoid(gate)
        for out_row in range(degree * degree, (degree + 1) * (degree + 1)):
            value = _plane(factor, matrix, degrees - 1 + out_row, row, channel, inputs, planes, channels)
            tl.store(to + out_row * channels, value * gate, mask=inside)


@triton.jit(do_not_specialize=["num_edges"])
def _gated_product_backward_kernel(
    gradient, u, matrix, bias, a, of_planes, of_a, num_edges, silu_scale: tl.constexpr, sigmoid_scale: tl.constexpr,
    a_stride: tl.constexpr, inputs: tl.constexpr, degrees: tl.constexpr, channels: tl.constexpr,
    edge_block: tl.constexpr, input_block: tl.constexpr, channel_block: tl.constexpr, weighed: tl.constexpr,
):  # fmt: skip
    """The same."""
    edge = tl.program_id(0).to(tl.int64) * edge_block + tl.arange(0, edge_block)
    channel = tl.program_id(1) * channel_block + tl.arange(0, channel_block)
    row = tl.arange(0, input_block)
    planes: tl.constexpr = degrees * degrees + degrees - 1
    in_channels = channel < channels
    inside = (edge < num_edges)[:, None] & in_channels[None, :]
    in_inputs = (edge < num_edges)[:, None] & (row < inputs)[None, :]
    factor = tl.load(u + edge[:, None] * inputs + row[None, :], mask=in_inputs, other=0.0)
    weight = tl.full((edge_block, channel_block), 1.0, tl.float32)
    if weighed:
        weight = tl.load(a + edge[:, None] * a_stride + channel[None, :], mask=inside, other=0.0)
    upstream = gradient + edge[:, None] * degrees * degrees * channels + channel[None, :]
    to = of_planes + edge[:, None] * planes * channels + channel[None, :]
    scalar = _plane(factor, matrix, 0, row, channel, inputs, planes, channels)
    scalar += tl.load(bias + channel, mask=in_channels, other=0.0)[None, :]
    value, slope = silu(scalar)
    g = silu_scale * tl.load(upstream, mask=inside, other=0.0)
    of_weight = g * value
    tl.store(to, g * weight * slope, mask=inside)
    for degree in range(1, degrees):
        gate = _plane(factor, matrix, degree, row, channel, inputs, planes, channels)
        gate += tl.load(bias + degree * channels + channel, mask=in_channels, other=0.0)[None, :]
        s = tl.sigmoid(gate)
        summed = tl.zeros((edge_block, channel_block), dtype=tl.float32)
        for out_row in range(degree * degree, (degree + 1) * (degree + 1)):
            g = sigmoid_scale * tl.load(upstream + out_row * channels, mask=inside, other=0.0)
            summed += g * _plane(factor, matrix, degrees - 1 + out_row, row, channel, inputs, planes, channels)
            tl.store(to + (degrees - 1 + out_row) * channels, g * weight * s, mask=inside)
        of_weight += summed * s
        tl.store(to + degree * channels, summed * weight * s * (1.0 - s), mask=inside)
    if weighed:
        tl.store(of_a + edge[:, None] * channels + channel[None, :], of_weight, mask=inside)


def _sizes(u: Tensor, bias: Tensor, a: Optional[Tensor], channels: int, scales: list[float]) -> dict[str, Any]:
    """The kernels' constants."""
    return {
        "silu_scale": scales[0], "sigmoid_scale": scales[1], "a_stride": 0 if a is None else a.stride(0),
        "inputs": u.shape[1], "degrees": len(bias) // channels, "channels": channels, "edge_block": EDGE_BLOCK,
        "input_block": max(SMALLEST_BLOCK, block_of(u.shape[1])),
        "channel_block": min(WIDEST_BLOCK, max(SMALLEST_BLOCK, block_of(channels))), "weighed": a is not None,
    }  # fmt: skip


def _gated_product(
    u: Float[Tensor, "edges inputs"],
    matrix: Float[Tensor, "inputs plane_channels"],
    bias: Float[Tensor, "degree_channels"],
    a: Optional[Float[Tensor, "edges channels"]],
    channels: int,
    scales: list[float],
) -> Float[Tensor, "edges rows channels"]:
    out, u, a = _out(u, bias, channels), u.contiguous(), None if a is None else with_unit_stride(a)
    sizes = _sizes(u, bias, a, channels, scales)
    tensors = (u, matrix.contiguous(), bias.contiguous(), u if a is None else a, out, len(u))
    grid = (triton.cdiv(len(u), EDGE_BLOCK), triton.cdiv(channels, sizes["channel_block"]))
    launching.launch(_gated_product_kernel, grid, tensors, **sizes, num_warps=4)
    return out


def _out(u: Tensor, bias: Tensor, channels: int) -> Tensor:
    return u.new_empty(len(u), (len(bias) // channels) ** 2, channels)


def _gated_product_backward(
    gradient: Float[Tensor, "edges rows channels"],
    u: Float[Tensor, "edges inputs"],
    matrix: Float[Tensor, "inputs plane_channels"],
    bias: Float[Tensor, "degree_channels"],
    a: Optional[Float[Tensor, "edges channels"]],
    channels: int,
    scales: list[float],
) -> tuple[Float[Tensor, "edges plane_channels"], Tensor]:
    u, a = u.contiguous(), None if a is None else with_unit_stride(a)
    of_planes, of_a = _empty_gradients(u, matrix, a)
    sizes = _sizes(u, bias, a, channels, scales)
    tensors = (
        gradient.contiguous(), u, matrix.contiguous(), bias.contiguous(), u if a is None else a, of_planes, of_a,
        len(u),
    )  # fmt: skip
    grid = (triton.cdiv(len(u), EDGE_BLOCK), triton.cdiv(channels, sizes["channel_block"]))
    launching.launch(_gated_product_backward_kernel, grid, tensors, **sizes, num_warps=4)
    return of_planes, of_a


def _empty_gradients(u: Tensor, matrix: Tensor, a: Optional[Tensor]) -> tuple[Tensor, Tensor]:
    return u.new_empty(len(u), matrix.shape[1]), u.new_empty(0 if a is None else a.shape)


gated_product = register(
    "gated_product",
    "(Tensor u, Tensor matrix, Tensor bias, Tensor? a, int channels, float[] scales) -> Tensor",
    _gated_product,
    lambda u, matrix, bias, a, channels, scales: _out(u, bias, channels),
)
"""Rows (l, m) of the gate of ``u matrix``, times a: ``[edges, rows, channels]``; ``scales`` of SiLU and of sigmoid."""

gated_product_backward = register(
    "gated_product_backward",
    "(Tensor gradient, Tensor u, Tensor matrix, Tensor bias, Tensor? a, int channels, float[] scales) "
    "-> (Tensor, Tensor)",
    _gated_product_backward,
    lambda gradient, u, matrix, bias, a, channels, scales: _empty_gradients(u, matrix, a),
)
"""Gradients of ``u matrix`` and of a; the latter is empty where there is none."""


@register_flop_formula(torch.ops.fairchem_hdgnn.gated_product)
def _flops(u: torch.Size, matrix: torch.Size, *_: Any, **__: Any) -> int:
    """Of the product, a multiply-add as two."""
    return 2 * u[0] * matrix[0] * matrix[1]


@register_flop_formula(torch.ops.fairchem_hdgnn.gated_product_backward)
def _flops_backward(gradient: torch.Size, u: torch.Size, matrix: torch.Size, *_: Any, **__: Any) -> int:
    return _flops(u, matrix)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.channels, ctx.scales = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Optional[Tensor], ...]:
    u, matrix, bias, a = ctx.saved_tensors
    of_planes, of_a = gated_product_backward(gradient, u, matrix, bias, a, ctx.channels, ctx.scales)
    of_u = product(of_planes, matrix.T) if ctx.needs_input_grad[0] else None
    of_matrix = product(u.T, of_planes) if ctx.needs_input_grad[1] else None
    of_bias = of_planes[:, : len(bias)].sum(0) if ctx.needs_input_grad[2] else None
    return of_u, of_matrix, of_bias, None if a is None else of_a, None, None


gated_product.register_autograd(_backward, setup_context=_keep)
