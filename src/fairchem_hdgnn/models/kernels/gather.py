"""Features of an atom of each edge; backward the sum over each atom's edges, in a fixed order."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fairchem_hdgnn.models.kernels.launching import register
from fairchem_hdgnn.models.kernels.sum_edges import sum_edges

gather = register(
    "gather",
    "(Tensor x, Tensor index, Tensor? edges, Tensor offsets) -> Tensor",
    lambda x, index, edges, offsets: x.index_select(0, index),
    lambda x, index, edges, offsets: x.new_empty(len(index), x.shape[1]),
)
"""``x[index]``; ``edges[offsets[n]:offsets[n + 1]]`` are the edges of atom n, or these positions are."""


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[2:])


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return sum_edges(gradient, *ctx.saved_tensors), None, None, None


gather.register_autograd(_backward, setup_context=_keep)
