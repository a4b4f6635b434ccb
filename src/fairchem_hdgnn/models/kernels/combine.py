"""The learned terms of eq. 11 weighed by attention, and the equivariant one, in one pass.

The plain form is in :func:`~fairchem_hdgnn.models.ops.gated_network.add_gated_network`, term by term: SiLU of the
networks' results, their sum, times a, plus what there is already. Here each result is read once, and the sum written
once. A network that serves both atoms of an edge has results of two sides, each with its own a.

Annotations are not postponed, because Triton reads those of the kernels.
"""

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from fairchem_hdgnn.models.kernels import launching
from fairchem_hdgnn.models.kernels.launching import block_of, register, with_unit_stride
from fairchem_hdgnn.models.kernels.silu import silu

ROW_BLOCK, EDGE_BLOCK = 8, 8
MOST_RESULTS, MOST_SIDES = 2, 2
"""Results that one kernel reads, and their sides."""


@triton.jit
def _add_side(
    total, result, side: tl.constexpr, a, a_stride: tl.constexpr, num_edges, edge, row, channel, inside,
    rows: tl.constexpr, channels: tl.constexpr, evaluations: tl.constexpr, activated: tl.constexpr,
):  # fmt: skip
    """``total + a sum_v SiLU(result_v)`` for a tile of rows and channels of one edge and side."""
    weight = tl.load(a + edge * a_stride + channel, mask=channel < channels, other=0.0)
    summed = tl.zeros_like(total)
    for v in tl.static_range(evaluations):
        at = (((side * evaluations + v) * num_edges + edge) * rows + row)[:, None] * channels + channel[None, :]
        value = tl.load(result + at, mask=inside, other=0.0).to(tl.float32)
        if activated:
            value, _ = silu(value)
        summed += value
    return total + weight[None, :] * summed


@triton.jit(do_not_specialize=["num_edges"])
def _combine_kernel(
    low, low_of_row, first, a_first, b_first, second, a_second, b_second, out, num_edges,
    rows: tl.constexpr, network_rows: tl.constexpr, low_rows: tl.constexpr, channels: tl.constexpr,
    row_block: tl.constexpr, channel_block: tl.constexpr, results: tl.constexpr, s_first: tl.constexpr,
    v_first: tl.constexpr, s_second: tl.constexpr, v_second: tl.constexpr, stride_a_first: tl.constexpr,
    stride_b_first: tl.constexpr, stride_a_second: tl.constexpr, stride_b_second: tl.constexpr,
    activated: tl.constexpr,
):  # fmt: skip
    """One edge and some channels, all rows."""
    edge = tl.program_id(0).to(tl.int64)
    edges = num_edges.to(tl.int64)
    channel = tl.program_id(1) * channel_block + tl.arange(0, channel_block)
    in_channels = channel < channels
    for start in range(0, rows, row_block):
        row = start + tl.arange(0, row_block)
        low_row = tl.load(low_of_row + row, mask=row < rows, other=-1)
        has_low = (low_row >= 0)[:, None] & in_channels[None, :]
        at = (edge * low_rows + low_row)[:, None] * channels + channel[None, :]
        total = tl.load(low + at, mask=has_low, other=0.0)
        inside = (row < network_rows)[:, None] & in_channels[None, :]
        total = _add_side(
            total, first, 0, a_first, stride_a_first, edges, edge, row, channel, inside, network_rows, channels,
            v_first, activated,
        )  # fmt: skip
        if s_first > 1:
            total = _add_side(
                total, first, 1, b_first, stride_b_first, edges, edge, row, channel, inside, network_rows, channels,
                v_first, activated,
            )  # fmt: skip
        if results > 1:
            total = _add_side(
                total, second, 0, a_second, stride_a_second, edges, edge, row, channel, inside, network_rows,
                channels, v_second, activated,
            )  # fmt: skip
            if s_second > 1:
                total = _add_side(
                    total, second, 1, b_second, stride_b_second, edges, edge, row, channel, inside, network_rows,
                    channels, v_second, activated,
                )  # fmt: skip
        to = out + (edge * rows + row)[:, None] * channels + channel[None, :]
        tl.store(to, total, mask=(row < rows)[:, None] & in_channels[None, :])


@triton.jit
def _side_backward(
    upstream, result, of_result, weight, total, side: tl.constexpr, edges, edge, row, channel, inside,
    network_rows: tl.constexpr, channels: tl.constexpr, evaluations: tl.constexpr, activated: tl.constexpr,
):  # fmt: skip
    """Writes gradients of one side's results; returns that of its a, and ``total`` with their sum over edges."""
    of_value = upstream * weight
    of_weight = tl.zeros_like(upstream)
    for v in tl.static_range(evaluations):
        at = (((side * evaluations + v) * edges + edge) * network_rows + row)[:, None] * channels + channel[None, :]
        value = tl.load(result + at, mask=inside, other=0.0).to(tl.float32)
        slope = tl.full(value.shape, 1.0, tl.float32)
        if activated:
            value, slope = silu(value)
        of_weight += upstream * value
        slope *= of_value
        total += tl.sum(slope, axis=0)
        tl.store(of_result + at, slope.to(of_result.dtype.element_ty), mask=inside)
    return of_weight, total


@triton.jit(do_not_specialize=["num_edges"])
def _combine_backward_kernel(
    gradient, result, a, b, of_result, of_a, of_bias, num_edges,
    rows: tl.constexpr, network_rows: tl.constexpr, channels: tl.constexpr, edge_block: tl.constexpr,
    channel_block: tl.constexpr, sides: tl.constexpr, evaluations: tl.constexpr, stride_a: tl.constexpr,
    stride_b: tl.constexpr, activated: tl.constexpr,
):  # fmt: skip
    """Some edges and channels of one network, row by row; the bias gets one sum from each program."""
    part = tl.program_id(0).to(tl.int64)
    edge = part * edge_block + tl.arange(0, edge_block)
    edges = num_edges.to(tl.int64)
    channel = tl.program_id(1) * channel_block + tl.arange(0, channel_block)
    in_channels = channel < channels
    inside = (edge < edges)[:, None] & in_channels[None, :]
    of_edge = edge[:, None] * channels + channel[None, :]
    weight_a = tl.load(a + edge[:, None] * stride_a + channel[None, :], mask=inside, other=0.0)
    weight_b = tl.load(b + edge[:, None] * stride_b + channel[None, :], mask=inside, other=0.0)
    of_weight_a, of_weight_b = tl.zeros_like(weight_a), tl.zeros_like(weight_b)
    for row in range(network_rows):
        at = (edge * rows + row)[:, None] * channels + channel[None, :]
        upstream = tl.load(gradient + at, mask=inside, other=0.0)
        total = tl.zeros((channel_block,), dtype=tl.float32)
        more, total = _side_backward(
            upstream, result, of_result, weight_a, total, 0, edges, edge, row, channel, inside, network_rows, channels,
            evaluations, activated,
        )  # fmt: skip
        of_weight_a += more
        if sides > 1:
            more, total = _side_backward(
                upstream, result, of_result, weight_b, total, 1, edges, edge, row, channel, inside, network_rows,
                channels, evaluations, activated,
            )  # fmt: skip
            of_weight_b += more
        tl.store(of_bias + (part * network_rows + row) * channels + channel, total, mask=in_channels)
    tl.store(of_a + of_edge, of_weight_a, mask=inside)
    if sides > 1:
        tl.store(of_a + edges * channels + of_edge, of_weight_b, mask=inside)


def _combine(
    low: Float[Tensor, "edges low_rows channels"],
    low_of_row: Int[Tensor, "rows"],
    low_positions: Int[Tensor, "low_rows"],
    results: list[Float[Tensor, "_sides _evaluations edges network_rows channels"]],
    a: list[Float[Tensor, "edges channels"]],
    activated: bool,
) -> Float[Tensor, "edges rows channels"]:
    edges, low_rows, channels = low.shape
    rows, sides = len(low_of_row), [len(result) for result in results]
    fits = all(result.shape[2::2] == (edges, channels) for result in results)
    if not (1 <= len(results) <= MOST_RESULTS and fits and max(sides) <= MOST_SIDES and sum(sides) == len(a)):
        shapes = [tuple(result.shape) for result in results]
        raise ValueError(
            f"combine: up to {MOST_RESULTS} results with up to {MOST_SIDES} sides of {edges} edges and {channels} "
            f"channels, and as many a as sides; got shapes {shapes} and {len(a)} a"
        )
    out = low.new_empty(edges, rows, channels)
    results = [result.contiguous() for result in results]
    first, second = (results * MOST_RESULTS)[:MOST_RESULTS]
    (a_first, b_first, *strides), (a_second, b_second, *more) = _of_sides(a[: sides[0]]), _of_sides(a[-sides[-1] :])
    channel_block = min(128, block_of(channels))
    sizes = {
        "rows": rows, "network_rows": first.shape[3], "low_rows": low_rows, "channels": channels,
        "row_block": ROW_BLOCK, "channel_block": channel_block, "results": len(results), "s_first": sides[0],
        "v_first": first.shape[1], "s_second": sides[-1], "v_second": second.shape[1], "stride_a_first": strides[0],
        "stride_b_first": strides[1], "stride_a_second": more[0], "stride_b_second": more[1], "activated": activated,
    }  # fmt: skip
    tensors = (
        low.contiguous(), low_of_row, first, a_first, b_first, second, a_second, b_second, out, edges,
    )  # fmt: skip
    launching.launch(_combine_kernel, (edges, triton.cdiv(channels, channel_block)), tensors, **sizes, num_warps=4)
    return out


def _of_sides(a: Sequence[Tensor]) -> tuple[Tensor, Tensor, int, int]:
    """a of one or two sides, which may be columns of a wider tensor, and the distances between their edges."""
    columns = [with_unit_stride(value) for value in a]
    return columns[0], columns[-1], columns[0].stride(0), columns[-1].stride(0)


def _combine_backward(
    gradient: Float[Tensor, "edges rows channels"],
    result: Float[Tensor, "sides evaluations edges network_rows channels"],
    a: list[Float[Tensor, "edges channels"]],
    activated: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    edges, rows, channels = gradient.shape
    result = result.contiguous()
    sides, evaluations, _, network_rows, _ = result.shape
    of_result, of_a = result.new_empty(result.shape), gradient.new_empty(sides, edges, channels)
    programs = triton.cdiv(edges, EDGE_BLOCK)
    of_bias = gradient.new_empty(programs, network_rows * channels)
    a_first, a_second, stride_a, stride_b = _of_sides(a)
    channel_block = min(128, block_of(channels))
    sizes = {
        "rows": rows, "network_rows": network_rows, "channels": channels, "edge_block": EDGE_BLOCK,
        "channel_block": channel_block, "sides": sides, "evaluations": evaluations, "stride_a": stride_a,
        "stride_b": stride_b, "activated": activated,
    }  # fmt: skip
    tensors = (gradient.contiguous(), result, a_first, a_second, of_result, of_a, of_bias, edges)
    grid = (programs, triton.cdiv(channels, channel_block))
    launching.launch(_combine_backward_kernel, grid, tensors, **sizes, num_warps=8)
    return of_result, of_a, of_bias


combine = register(
    "combine",
    "(Tensor low, Tensor low_of_row, Tensor low_positions, Tensor[] results, Tensor[] a, bool activated) -> Tensor",
    _combine,
    lambda low, low_of_row, low_positions, results, a, activated: low.new_empty(
        len(low), len(low_of_row), low.shape[2]
    ),
)
"""``low + sum_s a_s sum_v SiLU(results_sv)``, without SiLU unless ``activated``: ``[edges, rows, channels]``.

``low_positions`` are the rows of the sum that ``low`` belongs to, ``low_of_row`` the row of ``low`` for each row of the
sum, or -1; the networks' rows come first. Up to :data:`MOST_RESULTS` results, each of up to :data:`MOST_SIDES` sides.
"""

combine_backward = register(
    "combine_backward",
    "(Tensor gradient, Tensor result, Tensor[] a, bool activated) -> (Tensor, Tensor, Tensor)",
    _combine_backward,
    lambda gradient, result, a, activated: (
        result.new_empty(result.shape),
        gradient.new_empty(len(result), len(gradient), gradient.shape[2]),
        gradient.new_empty(triton.cdiv(len(gradient), EDGE_BLOCK), result.shape[3] * result.shape[4]),
    ),
)
"""Gradients of one network's results, of the a of its sides, and of a bias of all results, from each program one."""


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, _, low_positions, results, a, ctx.activated = inputs
    ctx.count = len(results)
    ctx.save_for_backward(low_positions, *results, *a)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    low_positions, *kept = ctx.saved_tensors
    of_results, of_a, rest = [], [], kept[ctx.count :]
    for result in kept[: ctx.count]:
        of_result, of_sides, _ = combine_backward(gradient, result, rest[: len(result)], ctx.activated)
        of_results.append(of_result)
        of_a += of_sides.unbind()
        rest = rest[len(result) :]
    return gradient.index_select(1, low_positions), None, None, of_results, of_a, None


combine.register_autograd(_backward, setup_context=_keep)
