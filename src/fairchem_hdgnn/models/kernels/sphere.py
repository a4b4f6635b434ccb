"""A SiLU at points of the sphere, with the transforms around it, in one pass: values at points need no memory.

The plain form is in :func:`~fairchem_hdgnn.models.ops.sphere.on_sphere`: a product with the matrix to the grid, a bias,
SiLU, and a product with the matrix from the grid. Products are sums of three TF32 products of a factor's leading and
trailing digits, as exact as float32.

Annotations are not postponed, because Triton reads those of the kernels.
"""

import math
from typing import Any, Optional

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fairchem_hdgnn.models.kernels import launching
from fairchem_hdgnn.models.kernels.launching import block_of, register
from fairchem_hdgnn.models.kernels.silu import silu

Shape = torch.Size

POINT_BLOCK = 16
"""Points that a program works on at a time."""

SMALLEST_BLOCK = 16
"""Of each side of a product."""

NUMBERS_PER_PROGRAM = 2048
"""Of the coefficients that a program holds; with twice as many, it needs more than 128 registers."""


@triton.jit
def _load_transposed(matrix, row, column, rows: tl.constexpr, columns: tl.constexpr):
    """``matrix^T``, from a matrix of rows and columns."""
    inside = (row < rows)[None, :] & (column < columns)[:, None]
    return tl.load(matrix + row[None, :] * columns + column[:, None], mask=inside, other=0.0)


@triton.jit
def _load(matrix, row, column, rows: tl.constexpr, columns: tl.constexpr):
    """Rows and columns of a matrix; 0 outside it."""
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    return tl.load(matrix + row[:, None] * columns + column[None, :], mask=inside, other=0.0)


@triton.jit
def _before_silu(
    x, to_grid, coefficients, b, point, row, channel,
    points: tl.constexpr, rows: tl.constexpr, channels: tl.constexpr, has_to_grid: tl.constexpr,
):  # fmt: skip
    """Values at some points, from coefficients or as given, plus the bias."""
    if has_to_grid:
        values = tl.dot(_load(to_grid, point, row, points, rows), coefficients, input_precision="tf32x3")
    else:
        values = _load(x, point, channel, points, channels).to(tl.float32)
    return values + b[None, :]


@triton.jit
def _sphere_silu_kernel(
    x, to_grid, bias, from_grid, out,
    points: tl.constexpr, rows: tl.constexpr, rows_out: tl.constexpr, channels: tl.constexpr,
    point_block: tl.constexpr, row_block: tl.constexpr, row_out_block: tl.constexpr, channel_block: tl.constexpr,
    has_to_grid: tl.constexpr, has_bias: tl.constexpr, has_from_grid: tl.constexpr,
):  # fmt: skip
    """One function and some of its channels."""
    function = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * channel_block + tl.arange(0, channel_block)
    in_channels = channel < channels
    row = tl.arange(0, row_block)
    row_out = tl.arange(0, row_out_block)
    x += function * (rows if has_to_grid else points) * channels
    out += function * (rows_out if has_from_grid else points) * channels
    b = tl.zeros((channel_block,), dtype=tl.float32)
    if has_bias:
        b = tl.load(bias + channel, mask=in_channels, other=0.0)
    coefficients = tl.zeros((row_block, channel_block), dtype=tl.float32)
    total = tl.zeros((row_out_block, channel_block), dtype=tl.float32)
    if has_to_grid:
        coefficients = _load(x, row, channel, rows, channels).to(tl.float32)
    for start in range(0, points, point_block):
        point = start + tl.arange(0, point_block)
        values = _before_silu(x, to_grid, coefficients, b, point, row, channel, points, rows, channels, has_to_grid)
        values, _ = silu(values)
        if has_from_grid:
            total += tl.dot(_load(from_grid, row_out, point, rows_out, points), values, input_precision="tf32x3")
        else:
            to = out + point[:, None] * channels + channel[None, :]
            inside = (point < points)[:, None] & in_channels[None, :]
            tl.store(to, values.to(out.dtype.element_ty), mask=inside)
    if has_from_grid:
        to = out + row_out[:, None] * channels + channel[None, :]
        tl.store(to, total, mask=(row_out < rows_out)[:, None] & in_channels[None, :])


@triton.jit
def _sphere_silu_backward_kernel(
    gradient, x, to_grid, bias, from_grid, of_x, of_bias,
    points: tl.constexpr, rows: tl.constexpr, rows_out: tl.constexpr, channels: tl.constexpr,
    point_block: tl.constexpr, row_block: tl.constexpr, row_out_block: tl.constexpr, channel_block: tl.constexpr,
    has_to_grid: tl.constexpr, has_bias: tl.constexpr, has_from_grid: tl.constexpr,
):  # fmt: skip
    """The same; the bias gets one sum from each function."""
    function = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * channel_block + tl.arange(0, channel_block)
    in_channels = channel < channels
    row = tl.arange(0, row_block)
    row_out = tl.arange(0, row_out_block)
    start_of_x = function * (rows if has_to_grid else points) * channels
    x += start_of_x
    of_x += start_of_x
    gradient += function * (rows_out if has_from_grid else points) * channels
    b = tl.zeros((channel_block,), dtype=tl.float32)
    of_b = tl.zeros((channel_block,), dtype=tl.float32)
    if has_bias:
        b = tl.load(bias + channel, mask=in_channels, other=0.0)
    coefficients = tl.zeros((row_block, channel_block), dtype=tl.float32)
    of_coefficients = tl.zeros((row_out_block, channel_block), dtype=tl.float32)
    total = tl.zeros((row_block, channel_block), dtype=tl.float32)
    if has_to_grid:
        coefficients = _load(x, row, channel, rows, channels).to(tl.float32)
    if has_from_grid:
        of_coefficients = _load(gradient, row_out, channel, rows_out, channels)
    for start in range(0, points, point_block):
        point = start + tl.arange(0, point_block)
        values = _before_silu(x, to_grid, coefficients, b, point, row, channel, points, rows, channels, has_to_grid)
        if has_from_grid:
            transposed = _load_transposed(from_grid, row_out, point, rows_out, points)
            upstream = tl.dot(transposed, of_coefficients, input_precision="tf32x3")
        else:
            upstream = _load(gradient, point, channel, points, channels).to(tl.float32)
        _, slope = silu(values)
        upstream *= slope
        of_b += tl.sum(upstream, axis=0)
        if has_to_grid:
            transposed = _load_transposed(to_grid, point, row, points, rows)
            total += tl.dot(transposed, upstream, input_precision="tf32x3")
        else:
            to = of_x + point[:, None] * channels + channel[None, :]
            inside = (point < points)[:, None] & in_channels[None, :]
            tl.store(to, upstream.to(of_x.dtype.element_ty), mask=inside)
    if has_to_grid:
        to = of_x + row[:, None] * channels + channel[None, :]
        tl.store(to, total.to(of_x.dtype.element_ty), mask=(row < rows)[:, None] & in_channels[None, :])
    if has_bias:
        tl.store(of_bias + function * channels + channel, of_b, mask=in_channels)


def _sizes(x: Tensor, to_grid: Optional[Tensor], bias: Optional[Tensor], from_grid: Optional[Tensor]) -> dict[str, int]:
    """The kernels' constants."""
    points = x.shape[1] if to_grid is None else to_grid.shape[0]
    rows = 1 if to_grid is None else to_grid.shape[1]
    rows_out = 1 if from_grid is None else from_grid.shape[0]
    row_block, row_out_block = (max(SMALLEST_BLOCK, block_of(count)) for count in (rows, rows_out))
    widest = max(SMALLEST_BLOCK, NUMBERS_PER_PROGRAM // max(row_block, row_out_block))
    return {
        "points": points, "rows": rows, "rows_out": rows_out, "channels": x.shape[2], "point_block": POINT_BLOCK,
        "row_block": row_block, "row_out_block": row_out_block,
        "channel_block": min(128, widest, max(SMALLEST_BLOCK, block_of(x.shape[2]))),
        "has_to_grid": to_grid is not None, "has_bias": bias is not None, "has_from_grid": from_grid is not None,
    }  # fmt: skip


def _grid(x: Tensor, sizes: dict[str, int]) -> tuple[int, int]:
    return len(x), triton.cdiv(sizes["channels"], sizes["channel_block"])


def _sphere_silu(
    x: Float[Tensor, "n _points_or_rows channels"],
    to_grid: Optional[Float[Tensor, "points rows"]],
    bias: Optional[Float[Tensor, "channels"]],
    from_grid: Optional[Float[Tensor, "rows_out points"]],
    dtype: torch.dtype,
) -> Float[Tensor, "n _points_or_rows_out channels"]:
    out, sizes = _out(x, to_grid, bias, from_grid, dtype), _sizes(x, to_grid, bias, from_grid)
    x = x.contiguous()
    matrices = (x if tensor is None else tensor.contiguous() for tensor in (to_grid, bias, from_grid))
    launching.launch(_sphere_silu_kernel, _grid(x, sizes), (x, *matrices, out), **sizes, num_warps=4)
    return out


def _out(
    x: Tensor, to_grid: Optional[Tensor], bias: Optional[Tensor], from_grid: Optional[Tensor], dtype: torch.dtype
) -> Tensor:
    points = x.shape[1] if to_grid is None else to_grid.shape[0]
    rows_out = points if from_grid is None else from_grid.shape[0]
    return x.new_empty(len(x), rows_out, x.shape[2], dtype=dtype if from_grid is None else torch.float32)


def _sphere_silu_backward(
    gradient: Float[Tensor, "n _points_or_rows_out channels"],
    x: Float[Tensor, "n _points_or_rows channels"],
    to_grid: Optional[Float[Tensor, "points rows"]],
    bias: Optional[Float[Tensor, "channels"]],
    from_grid: Optional[Float[Tensor, "rows_out points"]],
) -> tuple[Tensor, Tensor]:
    of_x, sizes = x.new_empty(x.shape), _sizes(x, to_grid, bias, from_grid)
    of_bias = x.new_empty(0 if bias is None else len(x), x.shape[2], dtype=torch.float32)
    x = x.contiguous()
    matrices = (x if tensor is None else tensor.contiguous() for tensor in (to_grid, bias, from_grid))
    tensors = (gradient.contiguous(), x, *matrices, of_x, of_bias)
    launching.launch(_sphere_silu_backward_kernel, _grid(x, sizes), tensors, **sizes, num_warps=8)
    return of_x, of_bias


sphere_silu = register(
    "sphere_silu",
    "(Tensor x, Tensor? to_grid, Tensor? bias, Tensor? from_grid, ScalarType dtype) -> Tensor",
    _sphere_silu,
    _out,
)
"""``FromGrid SiLU(ToGrid x + bias)``: ``[n, rows_out, channels]``, float32.

Without ``to_grid``, x has values at the points; without ``from_grid``, the result has, in ``dtype``.
"""

sphere_silu_backward = register(
    "sphere_silu_backward",
    "(Tensor gradient, Tensor x, Tensor? to_grid, Tensor? bias, Tensor? from_grid) -> (Tensor, Tensor)",
    _sphere_silu_backward,
    lambda gradient, x, to_grid, bias, from_grid: (
        x.new_empty(x.shape),
        x.new_empty(0 if bias is None else len(x), x.shape[2], dtype=torch.float32),
    ),
)
"""Gradients of x, and of the bias one from each function, if there is a bias."""


@register_flop_formula(torch.ops.fairchem_hdgnn.sphere_silu)
def _flops(x: Shape, to_grid: Optional[Shape], bias: Any, from_grid: Optional[Shape], *_: Any, **__: Any) -> int:
    """Of the products, a multiply-add as two."""
    entries = sum(math.prod(shape) for shape in (to_grid, from_grid) if shape is not None)
    return 2 * x[0] * x[2] * entries


@register_flop_formula(torch.ops.fairchem_hdgnn.sphere_silu_backward)
def _flops_backward(
    gradient: Shape, x: Shape, to_grid: Optional[Shape], bias: Any, from_grid: Optional[Shape], *_: Any, **__: Any
) -> int:
    again = 0 if to_grid is None else _flops(x, to_grid, bias, None)
    return _flops(x, to_grid, bias, from_grid) + again


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])


def _backward(ctx: Any, gradient: Tensor) -> tuple[Optional[Tensor], ...]:
    inputs = ctx.saved_tensors
    of_x, of_bias = sphere_silu_backward(gradient, *inputs)
    return of_x, None, None if inputs[2] is None else of_bias.sum(0), None, None


sphere_silu.register_autograd(_backward, setup_context=_keep)
