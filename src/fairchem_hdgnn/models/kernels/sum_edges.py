"""The sum of something of each edge into an atom, in a fixed order.

Annotations are not postponed, because Triton reads those of the kernels.
"""

from typing import Optional

import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from fairchem_hdgnn.models.kernels import launching
from fairchem_hdgnn.models.kernels.launching import block_of, register

WIDEST_BLOCK = 128
"""Channels that one program works on."""


@triton.jit
def _sum_edges_kernel(
    values, edges, offsets, out, width: tl.constexpr, channel_block: tl.constexpr, listed: tl.constexpr
):  # fmt: skip
    """One atom and some channels: the sum over its edges, in their order."""
    node = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * channel_block + tl.arange(0, channel_block)
    inside = channel < width
    total = tl.zeros((channel_block,), dtype=tl.float32)
    position = tl.load(offsets + node)
    end = tl.load(offsets + node + 1)
    while position < end:
        edge = position
        if listed:
            edge = tl.load(edges + position)
        total += tl.load(values + edge * width + channel, mask=inside, other=0.0)
        position += 1
    tl.store(out + node * width + channel, total, mask=inside)


def _sum_edges(
    values: Float[Tensor, "edges channels"],
    edges: Optional[Int[Tensor, "edges"]],
    offsets: Int[Tensor, "nodes_plus_one"],
) -> Float[Tensor, "nodes channels"]:
    width, nodes = values.shape[1], len(offsets) - 1
    values, order = values.contiguous(), offsets if edges is None else edges
    out = values.new_empty(nodes, width)
    channel_block = min(WIDEST_BLOCK, block_of(width))
    sizes = {"width": width, "channel_block": channel_block, "listed": edges is not None}
    grid = (nodes, triton.cdiv(width, channel_block))
    launching.launch(_sum_edges_kernel, grid, (values, order, offsets, out), **sizes, num_warps=1)
    return out


sum_edges = register(
    "sum_edges",
    "(Tensor values, Tensor? edges, Tensor offsets) -> Tensor",
    _sum_edges,
    lambda values, edges, offsets: values.new_empty(len(offsets) - 1, values.shape[1]),
)
"""The sum of values over ``edges[offsets[n]:offsets[n + 1]]``, or over these positions, of each atom n."""
