"""A single channel rotated into the frames of edges or back, by the entries of D that are not zero.

The plain forms are :func:`~fairchem_hdgnn.models.ops.rotations.rotate_channel` and ``rotate_channel_back``, whose
products with all entries of D are written before they are summed.

Annotations are not postponed, because Triton reads those of the kernels.
"""

from typing import Any, Optional

import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from fairchem_hdgnn.models.kernels import launching
from fairchem_hdgnn.models.kernels.launching import block_of, register
from fairchem_hdgnn.models.kernels.rotations import Place

NUMBERS_PER_PROGRAM = 2048
"""Entries of one order that a program works on, of several edges."""


@triton.jit(do_not_specialize=["num_edges"])
def _rotate_channel_kernel(
    values, wigner, place, out, num_edges,
    degrees: tl.constexpr, orders: tl.constexpr, wigner_orders: tl.constexpr, wigner_columns: tl.constexpr,
    rows: tl.constexpr, edge_block: tl.constexpr, degree_block: tl.constexpr, column_block: tl.constexpr,
    back: tl.constexpr,
):  # fmt: skip
    """Some edges, all degrees, order by order."""
    edge = tl.program_id(0).to(tl.int64) * edge_block + tl.arange(0, edge_block)
    in_edges = edge < num_edges
    degree = tl.arange(0, degree_block)
    in_degrees = degree < degrees
    offset = tl.arange(0, column_block)
    column = (degree * degree)[:, None] + offset[None, :]
    in_columns = (offset[None, :] < (2 * degree + 1)[:, None]) & in_degrees[:, None]
    inside = in_edges[:, None, None] & in_columns[None, :, :]
    coefficients = edge[:, None, None] * degrees * degrees + column[None, :, :]
    first_order = (wigner_orders - orders) // 2
    entries = wigner + edge[:, None, None] * wigner_orders * wigner_columns + column[None, :, :]
    total = tl.zeros((edge_block, degree_block, column_block), dtype=tl.float32)
    x = total
    if not back:
        x = tl.load(values + coefficients, mask=inside, other=0.0)
    for order in range(orders):
        row = tl.load(place + degree * orders + order, mask=in_degrees, other=-1)
        at = edge[:, None] * rows + row[None, :]
        wanted = in_edges[:, None] & (row >= 0)[None, :]
        d = tl.load(entries + (first_order + order) * wigner_columns, mask=inside, other=0.0)
        if back:
            total += d * tl.load(values + at, mask=wanted, other=0.0)[:, :, None]
        else:
            tl.store(out + at, tl.sum(d * x, axis=2), mask=wanted)
    if back:
        tl.store(out + coefficients, total, mask=inside)


def _rotate_channel(
    values: Float[Tensor, "edges _values"],
    wigner: Float[Tensor, "edges wigner_orders wigner_columns"],
    place: Place,
    rows: int,
    back: bool,
) -> Float[Tensor, "edges _rotated"]:
    degrees, orders = place.shape
    out = _out(values, wigner, place, rows, back)
    degree_block, column_block = block_of(degrees), block_of(2 * degrees - 1)
    edge_block = max(1, NUMBERS_PER_PROGRAM // (degree_block * column_block))
    sizes = {
        "degrees": degrees, "orders": orders, "wigner_orders": wigner.shape[1], "wigner_columns": wigner.shape[2],
        "rows": rows, "edge_block": edge_block, "degree_block": degree_block, "column_block": column_block,
        "back": back,
    }  # fmt: skip
    tensors = (values.contiguous(), wigner.contiguous(), place, out, len(values))
    launching.launch(_rotate_channel_kernel, (triton.cdiv(len(values), edge_block),), tensors, **sizes, num_warps=4)
    return out


def _out(values: Tensor, wigner: Tensor, place: Tensor, rows: int, back: bool) -> Tensor:
    return values.new_empty(len(values), len(place) ** 2 if back else rows)


rotate_channel = register(
    "rotate_channel",
    "(Tensor values, Tensor wigner, Tensor place, int rows, bool back) -> Tensor",
    _rotate_channel,
    _out,
)
"""Rows of ``D x`` of each edge, x ``[edges, coefficients]``; with ``back`` ``D^T y``, y ``[edges, rows]``."""


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, wigner, place, *ctx.options = inputs
    ctx.save_for_backward(wigner, place)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Optional[Tensor], ...]:
    rows, back = ctx.options
    return rotate_channel(gradient, *ctx.saved_tensors, rows, not back), None, None, None, None


rotate_channel.register_autograd(_backward, setup_context=_keep)
