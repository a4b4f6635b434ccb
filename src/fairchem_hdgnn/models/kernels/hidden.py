"""Hidden layers of the gated networks of eq. 10, for one or two inputs made from ``D x`` and x.

The plain form is in :func:`~fairchem_hdgnn.models.ops.gated_network.add_gated_network`: gather ``W_1 x``, add bias and
``W_1 D x`` by the factors of an input, SiLU, times c. Each of these is one pass over memory there; here all are one,
for both atoms of an edge where they share a network, and with the SiLU that ends c.

Annotations are not postponed, because Triton reads those of the kernels.
"""

from typing import Any, NamedTuple, Optional

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from fairchem_hdgnn.models.kernels import launching
from fairchem_hdgnn.models.kernels.launching import block_of, register
from fairchem_hdgnn.models.kernels.silu import silu
from fairchem_hdgnn.models.kernels.sum_edges import sum_edges

WIDEST_BLOCK = 128
"""Hidden channels that one program works on."""

EDGES_FORWARD, EDGES_BACKWARD = 4, 32
"""Edges that one program works on, backward those whose gradients of the bias it sums."""


@triton.jit
def _load_inputs(
    rotated, of_source, of_target, source, target, size, edge, channel, inside,
    width: tl.constexpr, side: tl.constexpr, sides: tl.constexpr, has_rotated: tl.constexpr, has_source: tl.constexpr,
    has_target: tl.constexpr,
):  # fmt: skip
    """``W_1 D x``, and ``W_1`` of x_j, of x_i or of their sum; of two sides, the first is j and the second i."""
    wr = tl.zeros_like(channel).to(tl.float32)
    wx = tl.zeros_like(wr)
    if has_rotated:
        wr = tl.load(rotated + side * size + edge * width + channel, mask=inside, other=0.0).to(tl.float32)
    if has_source and side == 0:
        wx += tl.load(of_source + tl.load(source + edge) * width + channel, mask=inside, other=0.0)
    if has_target and side == sides - 1:
        wx += tl.load(of_target + tl.load(target + edge) * width + channel, mask=inside, other=0.0)
    return wr, wx


@triton.jit(do_not_specialize=["num_edges"])
def _hidden_kernel(
    rotated, of_source, of_target, source, target, bias, c, out, num_edges,
    width: tl.constexpr, channel_block: tl.constexpr, edges_per_program: tl.constexpr, sides: tl.constexpr,
    summed: tl.constexpr, has_rotated: tl.constexpr, has_source: tl.constexpr, has_target: tl.constexpr,
    evaluations: tl.constexpr, r_first: tl.constexpr, p_first: tl.constexpr, r_second: tl.constexpr,
    p_second: tl.constexpr,
):  # fmt: skip
    """Some edges and hidden channels."""
    channel = tl.program_id(1) * channel_block + tl.arange(0, channel_block)
    inside = channel < width
    b = tl.load(bias + channel, mask=inside, other=0.0)
    edge = tl.program_id(0).to(tl.int64) * edges_per_program
    end = tl.minimum(edge + edges_per_program, num_edges)
    size = num_edges.to(tl.int64) * width
    of_side: tl.constexpr = 1 if summed else evaluations
    while edge < end:
        at = edge * width + channel
        gate, _ = silu(tl.load(c + at, mask=inside, other=0.0).to(tl.float32))
        for side in tl.static_range(sides):
            wr, wx = _load_inputs(
                rotated, of_source, of_target, source, target, size, edge, channel, inside,
                width, side, sides, has_rotated, has_source, has_target,
            )  # fmt: skip
            value, _ = silu(b + r_first * wr + p_first * wx)
            to = out + side * of_side * size + at
            if evaluations == 2:
                second, _ = silu(b + r_second * wr + p_second * wx)
                if summed:
                    value += second
                else:
                    tl.store(to + size, (second * gate).to(out.dtype.element_ty), mask=inside)
            tl.store(to, (value * gate).to(out.dtype.element_ty), mask=inside)
        edge += 1


@triton.jit(do_not_specialize=["num_edges"])
def _hidden_backward_kernel(
    gradient, rotated, of_source, of_target, source, target, bias, c, of_rotated, of_projected, of_c, of_bias,
    num_edges,
    width: tl.constexpr, channel_block: tl.constexpr, edges_per_program: tl.constexpr, sides: tl.constexpr,
    summed: tl.constexpr, has_rotated: tl.constexpr, has_source: tl.constexpr, has_target: tl.constexpr,
    evaluations: tl.constexpr, r_first: tl.constexpr, p_first: tl.constexpr, r_second: tl.constexpr,
    p_second: tl.constexpr,
):  # fmt: skip
    """The same; the bias gets one sum from each program."""
    channel = tl.program_id(1) * channel_block + tl.arange(0, channel_block)
    inside = channel < width
    b = tl.load(bias + channel, mask=inside, other=0.0)
    edge = tl.program_id(0).to(tl.int64) * edges_per_program
    end = tl.minimum(edge + edges_per_program, num_edges)
    size = num_edges.to(tl.int64) * width
    of_side: tl.constexpr = 1 if summed else evaluations
    total = tl.zeros_like(b)
    while edge < end:
        at = edge * width + channel
        gate, gate_slope = silu(tl.load(c + at, mask=inside, other=0.0).to(tl.float32))
        of_gate = tl.zeros_like(b)
        for side in tl.static_range(sides):
            wr, wx = _load_inputs(
                rotated, of_source, of_target, source, target, size, edge, channel, inside,
                width, side, sides, has_rotated, has_source, has_target,
            )  # fmt: skip
            upstream = gradient + side * of_side * size + at
            g = tl.load(upstream, mask=inside, other=0.0).to(tl.float32)
            value, slope = silu(b + r_first * wr + p_first * wx)
            of_gate += g * value
            first = g * gate * slope
            to_rotated, to_projected = r_first * first, p_first * first
            total += first
            if evaluations == 2:
                if not summed:
                    g = tl.load(upstream + size, mask=inside, other=0.0).to(tl.float32)
                value, slope = silu(b + r_second * wr + p_second * wx)
                of_gate += g * value
                second = g * gate * slope
                to_rotated += r_second * second
                to_projected += p_second * second
                total += second
            if has_rotated:
                to = of_rotated + side * size + at
                tl.store(to, to_rotated.to(of_rotated.dtype.element_ty), mask=inside)
            if has_source or has_target:
                tl.store(of_projected + side * size + at, to_projected, mask=inside)
        tl.store(of_c + at, (of_gate * gate_slope).to(of_c.dtype.element_ty), mask=inside)
        edge += 1
    tl.store(of_bias + tl.program_id(0).to(tl.int64) * width + channel, total, mask=inside)


def _sizes(width: int) -> dict[str, int]:
    return {"width": width, "channel_block": min(WIDEST_BLOCK, block_of(width))}


def _options(
    rotated: Optional[Tensor],
    of_source: Optional[Tensor],
    of_target: Optional[Tensor],
    factors: list[int],
    sides: int,
    summed: bool,
) -> dict[str, Any]:
    """The kernels' constants that say which inputs and results there are.

    Raises:
        ValueError: neither one nor two evaluations, or more sides than atoms.
    """
    if len(factors) not in (2, 4):
        raise ValueError(f"hidden: one or two pairs of factors; got {factors}")
    if sides not in (1, 2):
        raise ValueError(f"hidden: one or two sides; got {sides}")
    r_first, p_first, r_second, p_second = (*factors, 0, 0)[:4]
    return {
        "has_rotated": rotated is not None, "has_source": of_source is not None, "has_target": of_target is not None,
        "evaluations": len(factors) // 2, "r_first": r_first, "p_first": p_first, "r_second": r_second,
        "p_second": p_second, "sides": sides, "summed": summed,
    }  # fmt: skip


def _hidden(
    rotated: Optional[Float[Tensor, "sides edges hidden"]],
    of_source: Optional[Float[Tensor, "nodes hidden"]],
    of_target: Optional[Float[Tensor, "nodes hidden"]],
    source: Int[Tensor, "edges"],
    target: Int[Tensor, "edges"],
    edges_by_source: Int[Tensor, "edges"],
    source_offsets: Int[Tensor, "nodes_plus_one"],
    target_offsets: Int[Tensor, "nodes_plus_one"],
    bias: Float[Tensor, "hidden"],
    c: Float[Tensor, "edges hidden"],
    factors: list[int],
    sides: int,
    summed: bool,
    dtype: torch.dtype,
) -> Float[Tensor, "sides evaluations edges hidden"]:
    edges, width = c.shape
    out = c.new_empty(sides, 1 if summed else len(factors) // 2, edges, width, dtype=dtype)
    c = c.contiguous()
    wr, ws, wt = (c if tensor is None else tensor.contiguous() for tensor in (rotated, of_source, of_target))
    sizes = _sizes(width)
    grid = (triton.cdiv(edges, EDGES_FORWARD), triton.cdiv(width, sizes["channel_block"]))
    tensors = (wr, ws, wt, source.contiguous(), target.contiguous(), bias.contiguous(), c, out, edges)
    options = {**sizes, **_options(rotated, of_source, of_target, factors, sides, summed)}
    launching.launch(_hidden_kernel, grid, tensors, **options, edges_per_program=EDGES_FORWARD, num_warps=1)
    return out


def _hidden_backward(
    gradient: Float[Tensor, "sides evaluations edges hidden"],
    rotated: Optional[Float[Tensor, "sides edges hidden"]],
    of_source: Optional[Float[Tensor, "nodes hidden"]],
    of_target: Optional[Float[Tensor, "nodes hidden"]],
    source: Int[Tensor, "edges"],
    target: Int[Tensor, "edges"],
    bias: Float[Tensor, "hidden"],
    c: Float[Tensor, "edges hidden"],
    factors: list[int],
    sides: int,
    summed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    edges, width = c.shape
    c = c.contiguous()
    wr, ws, wt = (c if tensor is None else tensor.contiguous() for tensor in (rotated, of_source, of_target))
    sizes = _sizes(width)
    programs = triton.cdiv(edges, EDGES_BACKWARD)
    of_rotated, of_projected, of_c = _empty_gradients(rotated, of_source, of_target, c, sides, bias.dtype)
    of_bias = bias.new_empty(programs, width)
    tensors = (
        gradient.contiguous(), wr, ws, wt, source.contiguous(), target.contiguous(), bias.contiguous(), c, of_rotated,
        of_projected, of_c, of_bias, edges,
    )  # fmt: skip
    grid = (programs, triton.cdiv(width, sizes["channel_block"]))
    options = {**sizes, **_options(rotated, of_source, of_target, factors, sides, summed)}
    launching.launch(_hidden_backward_kernel, grid, tensors, **options, edges_per_program=EDGES_BACKWARD, num_warps=1)
    return of_rotated, of_projected, of_c, of_bias


def _empty_gradients(
    rotated: Optional[Tensor],
    of_source: Optional[Tensor],
    of_target: Optional[Tensor],
    c: Tensor,
    sides: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of ``W_1 D x``, of ``W_1 x`` and of c; empty where there is no such input."""
    of_rotated = c.new_empty(0) if rotated is None else rotated.new_empty(rotated.shape)
    sees_x = of_source is not None or of_target is not None
    of_projected = c.new_empty((sides, *c.shape) if sees_x else (0,), dtype=dtype)
    return of_rotated, of_projected, c.new_empty(c.shape)


hidden = register(
    "hidden",
    "(Tensor? rotated, Tensor? of_source, Tensor? of_target, Tensor source, Tensor target, Tensor edges_by_source, "
    "Tensor source_offsets, Tensor target_offsets, Tensor bias, Tensor c, int[] factors, int sides, bool summed, "
    "ScalarType dtype) -> Tensor",
    _hidden,
    lambda rotated, of_source, of_target, source, target, edges_by_source, source_offsets, target_offsets, bias, c,
    factors, sides, summed, dtype: c.new_empty(sides, 1 if summed else len(factors) // 2, *c.shape, dtype=dtype),
)  # fmt: skip
"""``SiLU(r W_1 D x + p W_1 x + b_1) * SiLU(c)`` for each pair (r, p) of ``factors``, or the sum of these if ``summed``.

Of two sides, the first has ``W_1 D x_j`` and ``W_1 x_j``, the second those of x_i. A single side has the sum of
``of_source`` and ``of_target``, ``W_1 x`` of each atom, as far as they are given. One or two evaluations.
"""

hidden_backward = register(
    "hidden_backward",
    "(Tensor gradient, Tensor? rotated, Tensor? of_source, Tensor? of_target, Tensor source, Tensor target, "
    "Tensor bias, Tensor c, int[] factors, int sides, bool summed) -> (Tensor, Tensor, Tensor, Tensor)",
    _hidden_backward,
    lambda gradient, rotated, of_source, of_target, source, target, bias, c, factors, sides, summed: (
        *_empty_gradients(rotated, of_source, of_target, c, sides, bias.dtype),
        bias.new_empty(triton.cdiv(len(c), EDGES_BACKWARD), len(bias)),
    ),
)
"""Gradients of ``W_1 D x``, of ``W_1 x`` of each edge and side, and of c, empty without such an input; of the bias one
from each program."""


class HiddenGradients(NamedTuple):
    """Gradients of the inputs of :data:`hidden`."""

    rotated: Optional[Tensor]
    of_source: Optional[Tensor]
    of_target: Optional[Tensor]
    bias: Tensor
    c: Tensor


def gradients_of_hidden(gradient: Tensor, inputs: tuple[Any, ...]) -> HiddenGradients:
    """From the arguments of :data:`hidden`, whose ``W_1 x`` get the sums over the edges of each atom."""
    rotated, of_source, of_target, source, target, edges, source_offsets, target_offsets, bias, c, *options, _ = inputs
    at_atoms = (rotated, of_source, of_target, source, target, bias, c, *options)
    of_rotated, of_projected, of_c, of_bias = hidden_backward(gradient, *at_atoms)
    return HiddenGradients(
        None if rotated is None else of_rotated,
        None if of_source is None else sum_edges(of_projected[0], edges, source_offsets),
        None if of_target is None else sum_edges(of_projected[-1], None, target_offsets),
        of_bias.sum(0),
        of_c,
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:10])
    ctx.options = inputs[10:]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Optional[Tensor], ...]:
    found = gradients_of_hidden(gradient, (*ctx.saved_tensors, *ctx.options))
    return found.rotated, found.of_source, found.of_target, *(None,) * 5, found.bias, found.c, *(None,) * 4


hidden.register_autograd(_backward, setup_context=_keep)
