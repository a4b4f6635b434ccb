"""Rotations into and out of edge frames as Triton kernels, for GPUs.

``torch.bmm(matrices, x[index])`` writes ``x[index]``, ``[edges, coefficients, channels]``, to memory and reads it back;
here each edge's block of x goes straight from x into the product. The sum over the edges into an atom is formed in
registers, edge after edge, so that it is written once and in a fixed order.

Runs in Triton's interpreter too (``TRITON_INTERPRET=1``, set before the first import), which is how it is tested
where there is no GPU. It needs the annotations below as objects, so they are not postponed in this module.
"""

from typing import Literal

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

_WIDEST_BLOCK = 64
"""Channels that one program works on."""

_SMALLEST_SIDE = 16
"""``tl.dot`` takes no smaller sides."""

Precision = Literal["ieee", "tf32", "tf32x3"]
"""Of products: exact, TF32, or almost exact from three products in TF32. torch's setting for TF32 does not matter."""


@triton.jit
def _gather_rotate_kernel(
    x, matrices, index, out,
    rows: tl.constexpr, columns: tl.constexpr, channels: tl.constexpr,
    row_block: tl.constexpr, column_block: tl.constexpr, channel_block: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    edge = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * channel_block + tl.arange(0, channel_block)
    row, column = tl.arange(0, row_block), tl.arange(0, column_block)
    node = tl.load(index + edge)
    matrix = tl.load(
        matrices + edge * rows * columns + row[:, None] * columns + column[None, :],
        mask=(row[:, None] < rows) & (column[None, :] < columns),
        other=0.0,
    )
    values = tl.load(
        x + node * columns * channels + column[:, None] * channels + channel[None, :],
        mask=(column[:, None] < columns) & (channel[None, :] < channels),
        other=0.0,
    )
    rotated = tl.dot(matrix, values, input_precision=precision)
    tl.store(
        out + edge * rows * channels + row[:, None] * channels + channel[None, :],
        rotated,
        mask=(row[:, None] < rows) & (channel[None, :] < channels),
    )


@triton.jit
def _rotate_back_sum_kernel(
    y, matrices, ends, out,
    rows: tl.constexpr, columns: tl.constexpr, channels: tl.constexpr,
    row_block: tl.constexpr, column_block: tl.constexpr, channel_block: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    node = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * channel_block + tl.arange(0, channel_block)
    row, column = tl.arange(0, row_block), tl.arange(0, column_block)
    edge = tl.load(ends + node)
    end = tl.load(ends + node + 1)
    total = tl.zeros((column_block, channel_block), dtype=tl.float32)
    while edge < end:
        transposed = tl.load(
            matrices + edge * rows * columns + row[None, :] * columns + column[:, None],
            mask=(row[None, :] < rows) & (column[:, None] < columns),
            other=0.0,
        )
        values = tl.load(
            y + edge * rows * channels + row[:, None] * channels + channel[None, :],
            mask=(row[:, None] < rows) & (channel[None, :] < channels),
            other=0.0,
        )
        total += tl.dot(transposed, values, input_precision=precision)
        edge += 1
    place = out + node * columns * channels + column[:, None] * channels + channel[None, :]
    inside = (column[:, None] < columns) & (channel[None, :] < channels)
    tl.store(place, tl.load(place, mask=inside, other=0.0) + total, mask=inside)


def gather_rotate(
    matrices: Float[Tensor, "edges rows columns"],
    x: Float[Tensor, "nodes columns channels"],
    index: Int[Tensor, "edges"],
    precision: Precision = "ieee",
) -> Float[Tensor, "edges rows channels"]:
    """``matrices[e] @ x[index[e]]``; float32."""
    edges, rows, columns = matrices.shape
    out = x.new_empty(edges, rows, x.shape[2])
    if out.numel() > 0:
        grid, blocks = _layout(edges, rows, columns, x.shape[2], precision)
        with torch.cuda.device_of(x):
            _gather_rotate_kernel[grid](x.contiguous(), matrices.contiguous(), index.contiguous(), out, **blocks)
    return out


def rotate_back_sum(
    matrices: Float[Tensor, "edges rows columns"],
    y: Float[Tensor, "edges rows channels"],
    ends: Int[Tensor, "nodes_plus_one"],
    out: Float[Tensor, "nodes columns channels"],
    precision: Precision = "ieee",
) -> None:
    """Add ``sum_e matrices[e]^T @ y[e]`` over the edges ``ends[n]:ends[n + 1]`` of each atom n to ``out``; float32.

    Raises:
        ValueError: ``out`` is not contiguous.
    """
    if not out.is_contiguous():
        raise ValueError(f"rotate_back_sum: out must be contiguous; its strides are {out.stride()}")
    edges, rows, columns = matrices.shape
    if edges > 0 and out.numel() > 0:
        grid, blocks = _layout(len(out), rows, columns, y.shape[2], precision)
        with torch.cuda.device_of(out):
            _rotate_back_sum_kernel[grid](y.contiguous(), matrices.contiguous(), ends.contiguous(), out, **blocks)


def _layout(
    programs: int, rows: int, columns: int, channels: int, precision: Precision
) -> tuple[tuple[int, int], dict[str, object]]:
    """Grid, and the kernels' sizes."""
    channel_block = min(_WIDEST_BLOCK, _block(channels))
    blocks: dict[str, object] = {
        "rows": rows, "columns": columns, "channels": channels, "row_block": _block(rows),
        "column_block": _block(columns), "channel_block": channel_block, "precision": precision,
    }  # fmt: skip
    return (programs, triton.cdiv(channels, channel_block)), blocks


def _block(size: int) -> int:
    return max(_SMALLEST_SIDE, triton.next_power_of_2(size))
