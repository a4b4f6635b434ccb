"""The learned terms of eq. 11 weighed by attention, and the equivariant one, in one pass.

The plain form is in :func:`~fairchem_hdgnn.models.ops.gated_network.add_gated_network`, term by term: SiLU of the
networks' results, their sum, times a, plus what there is already. Here each result is read once, and the sum written
once.

Annotations are not postponed, because Triton reads those of the kernels.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from fairchem_hdgnn.models.kernels import launching
from fairchem_hdgnn.models.kernels.launching import block_of, register

ROW_BLOCK, EDGE_BLOCK = 8, 8
MOST_TERMS = 3
"""Terms that one kernel reads."""


@triton.jit
def _add_term(
    total, result, a, term: tl.constexpr, num_edges, edge, row, channel, inside,
    rows: tl.constexpr, channels: tl.constexpr, evaluations: tl.constexpr, activated: tl.constexpr,
):  # fmt: skip
    """``total + a sum_v SiLU(result_v)`` for a tile of rows and channels of one edge."""
    weight = tl.load(a + (term * num_edges + edge) * channels + channel, mask=channel < channels, other=0.0)
    summed = tl.zeros_like(total)
    for v in tl.static_range(evaluations):
        at = ((v * num_edges + edge) * rows + row)[:, None] * channels + channel[None, :]
        value = tl.load(result + at, mask=inside, other=0.0).to(tl.float32)
        if activated:
            value = value * tl.sigmoid(value)
        summed += value
    return total + weight[None, :] * summed


@triton.jit(do_not_specialize=["num_edges"])
def _combine_kernel(
    low, low_of_row, first, second, third, a, out, num_edges,
    rows: tl.constexpr, network_rows: tl.constexpr, low_rows: tl.constexpr, channels: tl.constexpr,
    row_block: tl.constexpr, channel_block: tl.constexpr, terms: tl.constexpr, v_first: tl.constexpr,
    v_second: tl.constexpr, v_third: tl.constexpr, activated: tl.constexpr,
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
        total = _add_term(
            total, first, a, 0, edges, edge, row, channel, inside, network_rows, channels, v_first, activated
        )
        if terms > 1:
            total = _add_term(
                total, second, a, 1, edges, edge, row, channel, inside, network_rows, channels, v_second, activated
            )
        if terms > 2:
            total = _add_term(
                total, third, a, 2, edges, edge, row, channel, inside, network_rows, channels, v_third, activated
            )
        to = out + (edge * rows + row)[:, None] * channels + channel[None, :]
        tl.store(to, total, mask=(row < rows)[:, None] & in_channels[None, :])


@triton.jit(do_not_specialize=["num_edges"])
def _combine_backward_kernel(
    gradient, result, a, of_result, of_a, of_bias, num_edges,
    rows: tl.constexpr, network_rows: tl.constexpr, channels: tl.constexpr, edge_block: tl.constexpr,
    channel_block: tl.constexpr, evaluations: tl.constexpr, activated: tl.constexpr,
):  # fmt: skip
    """Some edges and channels of one term, row by row; the bias gets one sum from each program."""
    part = tl.program_id(0).to(tl.int64)
    edge = part * edge_block + tl.arange(0, edge_block)
    edges = num_edges.to(tl.int64)
    channel = tl.program_id(1) * channel_block + tl.arange(0, channel_block)
    in_channels = channel < channels
    inside = (edge < edges)[:, None] & in_channels[None, :]
    of_edge = edge[:, None] * channels + channel[None, :]
    weight = tl.load(a + of_edge, mask=inside, other=0.0)
    of_weight = tl.zeros_like(weight)
    for row in range(network_rows):
        at = (edge * rows + row)[:, None] * channels + channel[None, :]
        upstream = tl.load(gradient + at, mask=inside, other=0.0)
        of_value = upstream * weight
        total = tl.zeros((channel_block,), dtype=tl.float32)
        for v in tl.static_range(evaluations):
            at = ((v * edges + edge) * network_rows + row)[:, None] * channels + channel[None, :]
            value = tl.load(result + at, mask=inside, other=0.0).to(tl.float32)
            slope = tl.full(value.shape, 1.0, tl.float32)
            if activated:
                s = tl.sigmoid(value)
                slope = s * (1.0 + value * (1.0 - s))
                value = value * s
            of_weight += upstream * value
            slope *= of_value
            total += tl.sum(slope, axis=0)
            tl.store(of_result + at, slope.to(of_result.dtype.element_ty), mask=inside)
        tl.store(of_bias + (part * network_rows + row) * channels + channel, total, mask=in_channels)
    tl.store(of_a + of_edge, of_weight, mask=inside)


def _combine(
    low: Float[Tensor, "edges low_rows channels"],
    low_of_row: Int[Tensor, "rows"],
    low_positions: Int[Tensor, "low_rows"],
    results: list[Float[Tensor, "_evaluations edges network_rows channels"]],
    a: Float[Tensor, "terms edges channels"],
    activated: bool,
) -> Float[Tensor, "edges rows channels"]:
    edges, low_rows, channels = low.shape
    rows = len(low_of_row)
    if not 1 <= len(results) <= MOST_TERMS or any(result.shape[1::2] != (edges, channels) for result in results):
        shapes = [tuple(result.shape) for result in results]
        raise ValueError(
            f"combine: one to {MOST_TERMS} results of {edges} edges and {channels} channels; got shapes {shapes}"
        )
    out = low.new_empty(edges, rows, channels)
    results = [result.contiguous() for result in results]
    first, second, third = (results * MOST_TERMS)[:MOST_TERMS]
    channel_block = min(128, block_of(channels))
    sizes = {
        "rows": rows, "network_rows": first.shape[2], "low_rows": low_rows, "channels": channels,
        "row_block": ROW_BLOCK, "channel_block": channel_block, "terms": len(results), "v_first": len(first),
        "v_second": len(second), "v_third": len(third), "activated": activated,
    }  # fmt: skip
    tensors = (low.contiguous(), low_of_row, first, second, third, a.contiguous(), out, edges)
    launching.launch(_combine_kernel, (edges, triton.cdiv(channels, channel_block)), tensors, **sizes, num_warps=4)
    return out


def _combine_backward(
    gradient: Float[Tensor, "edges rows channels"],
    result: Float[Tensor, "evaluations edges network_rows channels"],
    a: Float[Tensor, "edges channels"],
    activated: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    edges, rows, channels = gradient.shape
    result, a = result.contiguous(), a.contiguous()
    of_result, of_a = result.new_empty(result.shape), a.new_empty(a.shape)
    programs = triton.cdiv(edges, EDGE_BLOCK)
    of_bias = a.new_empty(programs, result.shape[2] * channels)
    channel_block = min(128, block_of(channels))
    sizes = {
        "rows": rows, "network_rows": result.shape[2], "channels": channels, "edge_block": EDGE_BLOCK,
        "channel_block": channel_block, "evaluations": len(result), "activated": activated,
    }  # fmt: skip
    tensors = (gradient.contiguous(), result, a, of_result, of_a, of_bias, edges)
    grid = (programs, triton.cdiv(channels, channel_block))
    launching.launch(_combine_backward_kernel, grid, tensors, **sizes, num_warps=4)
    return of_result, of_a, of_bias.sum(0)


combine = register(
    "combine",
    "(Tensor low, Tensor low_of_row, Tensor low_positions, Tensor[] results, Tensor a, bool activated) -> Tensor",
    _combine,
    lambda low, low_of_row, low_positions, results, a, activated: low.new_empty(
        len(low), len(low_of_row), low.shape[2]
    ),
)
"""``low + sum_t a_t sum_v SiLU(results_tv)``, without SiLU unless ``activated``: ``[edges, rows, channels]``.

``low_positions`` are the rows of the sum that ``low`` belongs to, ``low_of_row`` the row of ``low`` for each row of the
sum, or -1; the networks' rows come first. Up to :data:`MOST_TERMS` terms.
"""

combine_backward = register(
    "combine_backward",
    "(Tensor gradient, Tensor result, Tensor a, bool activated) -> (Tensor, Tensor, Tensor)",
    _combine_backward,
    lambda gradient, result, a, activated: (
        result.new_empty(result.shape),
        a.new_empty(a.shape),
        a.new_empty(result.shape[2] * result.shape[3]),
    ),
)
"""Gradients of one term's results, of its a, and of a bias that all results and edges share."""


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, _, low_positions, results, a, ctx.activated = inputs
    ctx.save_for_backward(low_positions, a, *results)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    low_positions, a, *results = ctx.saved_tensors
    pairs = [combine_backward(gradient, result, of_term, ctx.activated) for result, of_term in zip(results, a)]
    of_results, of_a, _ = zip(*pairs)
    return gradient.index_select(1, low_positions), None, None, list(of_results), torch.stack(of_a), None


combine.register_autograd(_backward, setup_context=_keep)
