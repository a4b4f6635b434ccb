"""Rotations into and out of the frames of edges, by the entries of D that are not zero.

The plain forms are :meth:`~fairchem_hdgnn.models.ops.edge_ops.EdgeOps.gather_rotate` and ``rotate_scatter``. There D is
a dense matrix of each edge, and features of atoms are copied to edges, rotated in a batched product, and summed by a
third operation. Here a row (l, m) reads the 2 l + 1 entries that it has, features go straight from the atom into the
product, and the sum over the edges of an atom is formed in registers, edge after edge: written once, in a fixed order,
so that results repeat to the last bit. Products and sums are in float32.

Annotations are not postponed, because Triton reads those of the kernels.
"""

from typing import Any, Optional

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from fairchem_hdgnn.models.kernels import launching
from fairchem_hdgnn.models.kernels.launching import block_of, register, with_unit_stride

WIDEST_BLOCK = 64
"""Channels that one program works on: with up to 16 columns of a degree, 32 registers of a warp's threads."""

Place = Int[Tensor, "degrees orders"]
"""The position of row (l, m) among the rows that are wanted, or -1; orders are ascending and symmetric."""


@triton.jit
def _gather_rotate_kernel(
    x_source, x_target, source, target, wigner, place, out, out_target, out_both,
    degrees: tl.constexpr, orders: tl.constexpr, wigner_orders: tl.constexpr, wigner_columns: tl.constexpr,
    rows: tl.constexpr, channels: tl.constexpr, column_block: tl.constexpr, channel_block: tl.constexpr,
    pair: tl.constexpr,
):  # fmt: skip
    """One edge and some channels: rows of D x of one atom, or of both atoms and their sum."""
    edge = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * channel_block + tl.arange(0, channel_block)
    in_channels = channel < channels
    offset = tl.arange(0, column_block)
    x_of_source = x_source + tl.load(source + edge) * degrees * degrees * channels
    x_of_target = x_of_source
    if pair:
        x_of_target = x_target + tl.load(target + edge) * degrees * degrees * channels
    entries = wigner + (edge * wigner_orders + (wigner_orders - orders) // 2) * wigner_columns
    for degree in range(degrees):
        column = degree * degree + offset
        in_degree = offset < 2 * degree + 1
        inside = in_degree[:, None] & in_channels[None, :]
        at = column[:, None] * channels + channel[None, :]
        first = tl.load(x_of_source + at, mask=inside, other=0.0)
        second = first
        if pair:
            second = tl.load(x_of_target + at, mask=inside, other=0.0)
        for order in range(orders):
            row = tl.load(place + degree * orders + order)
            if row >= 0:
                d = tl.load(entries + order * wigner_columns + column, mask=in_degree, other=0.0)
                to = (edge * rows + row) * channels + channel
                rotated = tl.sum(d[:, None] * first, axis=0)
                tl.store(out + to, rotated.to(out.dtype.element_ty), mask=in_channels)
                if pair:
                    other = tl.sum(d[:, None] * second, axis=0)
                    tl.store(out_target + to, other.to(out.dtype.element_ty), mask=in_channels)
                    tl.store(out_both + to, (rotated + other).to(out.dtype.element_ty), mask=in_channels)


@triton.jit
def _rotate_sum_kernel(
    y, y_other, u, a, wigner, place, edges, offsets, out,
    degrees: tl.constexpr, orders: tl.constexpr, wigner_orders: tl.constexpr, wigner_columns: tl.constexpr,
    rows: tl.constexpr, channels: tl.constexpr, column_block: tl.constexpr, channel_block: tl.constexpr,
    two: tl.constexpr, outer: tl.constexpr, listed: tl.constexpr, a_stride: tl.constexpr,
):  # fmt: skip
    """One atom, degree and some channels: the sum over the atom's edges."""
    node = tl.program_id(0).to(tl.int64)
    degree = tl.program_id(1)
    channel = tl.program_id(2) * channel_block + tl.arange(0, channel_block)
    in_channels = channel < channels
    offset = tl.arange(0, column_block)
    column = degree * degree + offset
    in_degree = offset < 2 * degree + 1
    total = tl.zeros((column_block, channel_block), dtype=tl.float32)
    position = tl.load(offsets + node)
    end = tl.load(offsets + node + 1)
    while position < end:
        edge = position
        if listed:
            edge = tl.load(edges + position)
        entries = wigner + (edge * wigner_orders + (wigner_orders - orders) // 2) * wigner_columns
        for order in range(orders):
            row = tl.load(place + degree * orders + order)
            if row >= 0:
                d = tl.load(entries + order * wigner_columns + column, mask=in_degree, other=0.0)
                at = (edge * rows + row) * channels + channel
                values = tl.load(y + at, mask=in_channels, other=0.0).to(tl.float32)
                if two:
                    values += tl.load(y_other + at, mask=in_channels, other=0.0).to(tl.float32)
                total += d[:, None] * values[None, :]
        if outer:
            left = tl.load(u + edge * degrees * degrees + column, mask=in_degree, other=0.0)
            right = tl.load(a + edge * a_stride + channel, mask=in_channels, other=0.0)
            total += left[:, None] * right[None, :]
        position += 1
    to = out + (node * degrees * degrees + column[:, None]) * channels + channel[None, :]
    tl.store(to, total, mask=in_degree[:, None] & in_channels[None, :])


@triton.jit
def _outer_backward_kernel(
    gradient, u, a, target, of_u, of_a, a_stride: tl.constexpr, columns: tl.constexpr, channels: tl.constexpr,
    channel_block: tl.constexpr,
):  # fmt: skip
    """One edge: the gradients of both factors of ``sum_e u_e a_e``."""
    edge = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, channel_block)
    in_channels = channel < channels
    right = tl.load(a + edge * a_stride + channel, mask=in_channels, other=0.0)
    upstream = gradient + tl.load(target + edge) * columns * channels
    total = tl.zeros((channel_block,), dtype=tl.float32)
    for start in range(0, columns, 16):
        column = start + tl.arange(0, 16)
        inside = (column < columns)[:, None] & in_channels[None, :]
        values = tl.load(upstream + column[:, None] * channels + channel[None, :], mask=inside, other=0.0)
        left = tl.load(u + edge * columns + column, mask=column < columns, other=0.0)
        total += tl.sum(left[:, None] * values, axis=0)
        tl.store(of_u + edge * columns + column, tl.sum(values * right[None, :], axis=1), mask=column < columns)
    tl.store(of_a + edge * channels + channel, total, mask=in_channels)


def _sizes(wigner: Tensor, place: Tensor, channels: int) -> dict[str, Any]:
    """The kernels' constants."""
    degrees, orders = place.shape
    return {
        "degrees": degrees, "orders": orders, "wigner_orders": wigner.shape[1], "wigner_columns": wigner.shape[2],
        "channels": channels, "column_block": block_of(2 * degrees - 1),
        "channel_block": min(WIDEST_BLOCK, block_of(channels)),
    }  # fmt: skip


def _gather_rotate(
    x: Float[Tensor, "nodes coefficients channels"],
    index: Int[Tensor, "edges"],
    edges: Optional[Int[Tensor, "edges"]],
    offsets: Int[Tensor, "nodes_plus_one"],
    wigner: Float[Tensor, "edges wigner_orders wigner_columns"],
    place: Place,
    rows: int,
    dtype: torch.dtype,
) -> Float[Tensor, "edges rows channels"]:
    out = x.new_empty(len(index), rows, x.shape[2], dtype=dtype)
    sizes = _sizes(wigner, place, x.shape[2])
    grid = (len(index), triton.cdiv(x.shape[2], sizes["channel_block"]))
    x, index = x.contiguous(), index.contiguous()
    tensors = (x, x, index, index, wigner.contiguous(), place, out, out, out)
    launching.launch(_gather_rotate_kernel, grid, tensors, **sizes, rows=rows, pair=False, num_warps=1)
    return out


def _gather_rotate_pair(
    x_source: Float[Tensor, "nodes coefficients channels"],
    x_target: Float[Tensor, "nodes coefficients channels"],
    source: Int[Tensor, "edges"],
    target: Int[Tensor, "edges"],
    edges_by_source: Int[Tensor, "edges"],
    source_offsets: Int[Tensor, "nodes_plus_one"],
    target_offsets: Int[Tensor, "nodes_plus_one"],
    wigner: Float[Tensor, "edges wigner_orders wigner_columns"],
    place: Place,
    rows: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    channels = x_source.shape[2]
    outs = _empty_pair(x_source, source, rows, dtype)
    sizes = _sizes(wigner, place, channels)
    grid = (len(source), triton.cdiv(channels, sizes["channel_block"]))
    tensors = (
        x_source.contiguous(), x_target.contiguous(), source.contiguous(), target.contiguous(), wigner.contiguous(),
        place, *outs,
    )  # fmt: skip
    launching.launch(_gather_rotate_kernel, grid, tensors, **sizes, rows=rows, pair=True, num_warps=1)
    return outs


def _empty_pair(x: Tensor, source: Tensor, rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    first, second, both = (x.new_empty(len(source), rows, x.shape[2], dtype=dtype) for _ in range(3))
    return first, second, both


def _rotate_sum(
    y: Float[Tensor, "edges rows channels"],
    y_other: Optional[Float[Tensor, "edges rows channels"]],
    u: Optional[Float[Tensor, "edges coefficients"]],
    a: Optional[Float[Tensor, "edges channels"]],
    target: Int[Tensor, "edges"],
    edges: Optional[Int[Tensor, "edges"]],
    offsets: Int[Tensor, "nodes_plus_one"],
    wigner: Float[Tensor, "edges wigner_orders wigner_columns"],
    place: Place,
) -> Float[Tensor, "nodes coefficients channels"]:
    rows, channels = y.shape[1:]
    degrees, nodes = place.shape[0], len(offsets) - 1
    out = y.new_empty(nodes, degrees**2, channels, dtype=torch.float32)
    sizes = _sizes(wigner, place, channels)
    grid = (nodes, degrees, triton.cdiv(channels, sizes["channel_block"]))
    y = y.contiguous()
    options = {"two": y_other is not None, "outer": u is not None, "listed": edges is not None}
    other, left, order = (y if tensor is None else tensor.contiguous() for tensor in (y_other, u, edges))
    right = y if a is None else with_unit_stride(a)
    tensors = (y, other, left, right, wigner.contiguous(), place, order, offsets, out)
    stride = right.stride(0) if a is not None else 0
    launching.launch(_rotate_sum_kernel, grid, tensors, **sizes, rows=rows, **options, a_stride=stride, num_warps=1)
    return out


def _outer_backward(
    gradient: Float[Tensor, "nodes coefficients channels"],
    u: Float[Tensor, "edges coefficients"],
    a: Float[Tensor, "edges channels"],
    target: Int[Tensor, "edges"],
) -> tuple[Float[Tensor, "edges coefficients"], Float[Tensor, "edges channels"]]:
    u, a = u.contiguous(), with_unit_stride(a)
    of_u, of_a = u.new_empty(u.shape), a.new_empty(a.shape)
    tensors = (gradient.contiguous(), u, a, target.contiguous(), of_u, of_a)
    sizes = {
        "a_stride": a.stride(0), "columns": u.shape[1], "channels": a.shape[1], "channel_block": block_of(a.shape[1]),
    }  # fmt: skip
    launching.launch(_outer_backward_kernel, (len(u),), tensors, **sizes, num_warps=4)
    return of_u, of_a


gather_rotate = register(
    "gather_rotate",
    "(Tensor x, Tensor index, Tensor? edges, Tensor offsets, Tensor wigner, Tensor place, int rows, ScalarType dtype) "
    "-> Tensor",
    _gather_rotate,
    lambda x, index, edges, offsets, wigner, place, rows, dtype: x.new_empty(len(index), rows, x.shape[2], dtype=dtype),
)
"""Rows of ``D x`` of one atom, ``index``, of each edge: ``[edges, rows, channels]``.

For the backward pass: the edges of atom n are ``edges[offsets[n]:offsets[n + 1]]``, or these positions themselves.
"""

gather_rotate_pair = register(
    "gather_rotate_pair",
    "(Tensor x_source, Tensor x_target, Tensor source, Tensor target, Tensor edges_by_source, Tensor source_offsets, "
    "Tensor target_offsets, Tensor wigner, Tensor place, int rows, ScalarType dtype) -> (Tensor, Tensor, Tensor)",
    _gather_rotate_pair,
    lambda x_source, x_target, source, target, edges_by_source, source_offsets, target_offsets, wigner, place, rows,
    dtype: _empty_pair(x_source, source, rows, dtype),
)  # fmt: skip
"""Rows of ``D x`` of the sources, of the targets, and their sum: each ``[edges, rows, channels]``."""

rotate_sum = register(
    "rotate_sum",
    "(Tensor y, Tensor? y_other, Tensor? u, Tensor? a, Tensor target, Tensor? edges, Tensor offsets, Tensor wigner, "
    "Tensor place) -> Tensor",
    _rotate_sum,
    lambda y, y_other, u, a, target, edges, offsets, wigner, place: y.new_empty(
        len(offsets) - 1, place.shape[0] ** 2, y.shape[2], dtype=torch.float32
    ),
)
"""``sum_e D^T (y_e + y_other_e) + u_e a_e`` over the edges of each atom: ``[nodes, coefficients, channels]``.

The edges of atom n are ``edges[offsets[n]:offsets[n + 1]]``, or these positions themselves. Differentiable in y, u and
a if they are the positions themselves; ``target`` is then the atom of each edge.
"""

outer_backward = register(
    "outer_backward",
    "(Tensor gradient, Tensor u, Tensor a, Tensor target) -> (Tensor, Tensor)",
    _outer_backward,
    lambda gradient, u, a, target: (u.new_empty(u.shape), a.new_empty(a.shape)),
)
"""The gradients of u and a in ``sum_e u_e a_e`` over the edges into each atom."""


def _keep_gather(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, index, edges, offsets, wigner, place, _, _ = inputs
    ctx.save_for_backward(index, edges, offsets, wigner, place)


def _gather_backward(ctx: Any, gradient: Tensor) -> tuple[Optional[Tensor], ...]:
    index, edges, offsets, wigner, place = ctx.saved_tensors
    of_x = rotate_sum(gradient, None, None, None, index, edges, offsets, wigner, place)
    return of_x, *(None,) * 7


def _keep_pair(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[2:9])


def _pair_backward(ctx: Any, of_source: Tensor, of_target: Tensor, of_both: Tensor) -> tuple[Optional[Tensor], ...]:
    source, target, edges, source_offsets, target_offsets, wigner, place = ctx.saved_tensors
    grads = (
        rotate_sum(of_source, of_both, None, None, source, edges, source_offsets, wigner, place),
        rotate_sum(of_target, of_both, None, None, target, None, target_offsets, wigner, place),
    )
    return *grads, *(None,) * 9


def _keep_sum(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    y, y_other, u, a, target, edges, offsets, wigner, place = inputs
    ctx.dtype, ctx.rows, ctx.outer = y.dtype, y.shape[1], u is not None
    ctx.is_gradient = y_other is not None or edges is not None
    ctx.save_for_backward(target, offsets, wigner, place, *([u, a] if u is not None else []))


def _sum_backward(ctx: Any, gradient: Tensor) -> tuple[Optional[Tensor], ...]:
    if ctx.is_gradient:
        raise NotImplementedError("the gradient of rotate_sum of two y or of listed edges, which is one itself")
    target, offsets, wigner, place, *factors = ctx.saved_tensors
    of_y = gather_rotate(gradient, target, None, offsets, wigner, place, ctx.rows, ctx.dtype)
    of_u, of_a = outer_backward(gradient, *factors, target) if ctx.outer else (None, None)
    return of_y, None, of_u, of_a, *(None,) * 5


gather_rotate.register_autograd(_gather_backward, setup_context=_keep_gather)
gather_rotate_pair.register_autograd(_pair_backward, setup_context=_keep_pair)
rotate_sum.register_autograd(_sum_backward, setup_context=_keep_sum)
