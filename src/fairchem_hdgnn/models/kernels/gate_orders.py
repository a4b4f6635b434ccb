"""The gate of eSCN's SO(2) convolution: ``SiLU`` of an edge's scales, times ``V z`` of both its atoms.

The plain form is :func:`~fairchem_hdgnn.models.ops.so2.gate_order`. Multiplication by i, which exchanges the orders m
and -m, is part of the kernel's addresses; one launch for each order.

Annotations are not postponed, because Triton reads those of the kernels.
"""

from typing import Any

import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from fairchem_hdgnn.models.kernels import launching
from fairchem_hdgnn.models.kernels.launching import block_of, register
from fairchem_hdgnn.models.kernels.silu import silu

WIDEST_BLOCK = 256
"""Hidden channels that one program works on."""

NUM_ATOMS = 2


@triton.jit
def _gate_order_kernel(
    of_source, of_target, before, out,
    hidden: tl.constexpr, before_stride: tl.constexpr, hidden_block: tl.constexpr, signs: tl.constexpr,
):  # fmt: skip
    """One edge, one of its atoms and some hidden channels; as many terms as signs."""
    edge = tl.program_id(0).to(tl.int64)
    atom = tl.program_id(1)
    channel = tl.program_id(2) * hidden_block + tl.arange(0, hidden_block)
    inside = channel < hidden
    z = of_source
    if atom == 1:
        z = of_target
    z += edge * signs * signs * hidden + channel
    before += edge * before_stride + atom * hidden + channel
    out += (edge * signs * signs * 2 + atom) * hidden + channel
    b = tl.load(before, mask=inside, other=0.0).to(tl.float32)
    s, _ = silu(b)
    tl.store(out, (s * tl.load(z, mask=inside, other=0.0).to(tl.float32)).to(out.dtype.element_ty), mask=inside)
    if signs == 2:
        minus = tl.load(z + 2 * hidden, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + 4 * hidden, (s * minus).to(out.dtype.element_ty), mask=inside)
        b = tl.load(before + 2 * hidden, mask=inside, other=0.0).to(tl.float32)
        s, _ = silu(b)
        minus = tl.load(z + 3 * hidden, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + 2 * hidden, (-s * minus).to(out.dtype.element_ty), mask=inside)
        plus = tl.load(z + hidden, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + 6 * hidden, (s * plus).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gate_order_backward_kernel(
    gradient, of_source, of_target, before, to_source, to_target, to_before,
    hidden: tl.constexpr, before_stride: tl.constexpr, hidden_block: tl.constexpr, signs: tl.constexpr,
):  # fmt: skip
    """The same."""
    edge = tl.program_id(0).to(tl.int64)
    atom = tl.program_id(1)
    channel = tl.program_id(2) * hidden_block + tl.arange(0, hidden_block)
    inside = channel < hidden
    z, to_z = of_source, to_source
    if atom == 1:
        z, to_z = of_target, to_target
    z += edge * signs * signs * hidden + channel
    to_z += edge * signs * signs * hidden + channel
    before += edge * before_stride + atom * hidden + channel
    to_before += edge * before_stride + atom * hidden + channel
    gradient += (edge * signs * signs * 2 + atom) * hidden + channel
    b = tl.load(before, mask=inside, other=0.0).to(tl.float32)
    s, slope = silu(b)
    g = tl.load(gradient, mask=inside, other=0.0).to(tl.float32)
    of_scale = g * tl.load(z, mask=inside, other=0.0).to(tl.float32)
    tl.store(to_z, (g * s).to(to_z.dtype.element_ty), mask=inside)
    if signs == 2:
        g = tl.load(gradient + 4 * hidden, mask=inside, other=0.0).to(tl.float32)
        of_scale += g * tl.load(z + 2 * hidden, mask=inside, other=0.0).to(tl.float32)
        tl.store(to_z + 2 * hidden, (g * s).to(to_z.dtype.element_ty), mask=inside)
    tl.store(to_before, (of_scale * slope).to(to_before.dtype.element_ty), mask=inside)
    if signs == 2:
        b = tl.load(before + 2 * hidden, mask=inside, other=0.0).to(tl.float32)
        s, slope = silu(b)
        g = tl.load(gradient + 2 * hidden, mask=inside, other=0.0).to(tl.float32)
        of_scale = -g * tl.load(z + 3 * hidden, mask=inside, other=0.0).to(tl.float32)
        tl.store(to_z + 3 * hidden, (-g * s).to(to_z.dtype.element_ty), mask=inside)
        g = tl.load(gradient + 6 * hidden, mask=inside, other=0.0).to(tl.float32)
        of_scale += g * tl.load(z + hidden, mask=inside, other=0.0).to(tl.float32)
        tl.store(to_z + hidden, (g * s).to(to_z.dtype.element_ty), mask=inside)
        of_before = (of_scale * slope).to(to_before.dtype.element_ty)
        tl.store(to_before + 2 * hidden, of_before, mask=inside)


def _by_order(before: Tensor, like: list[Tensor]) -> list[Tensor]:
    """The scales of each order's terms, which are as many as its signs."""
    hidden = like[0].shape[2]
    return list(before.split([NUM_ATOMS * values.shape[1] * hidden for values in like], dim=1))


def _launch(kernel: Any, tensors: tuple[Tensor, ...], values: Tensor, before: Tensor) -> None:
    edges, signs, _ = values.shape
    hidden = values.shape[2] // signs
    sizes = {
        "hidden": hidden, "before_stride": before.stride(0), "hidden_block": min(WIDEST_BLOCK, block_of(hidden)),
        "signs": signs,
    }  # fmt: skip
    grid = (edges, NUM_ATOMS, triton.cdiv(hidden, sizes["hidden_block"]))
    launching.launch(kernel, grid, tensors, **sizes, num_warps=2)


def _gate_orders(
    of_source: list[Float[Tensor, "edges _signs _term_hidden"]],
    of_target: list[Float[Tensor, "edges _signs _term_hidden"]],
    before: Float[Tensor, "edges term_atom_hidden"],
) -> list[Float[Tensor, "edges _signs _term_atom_hidden"]]:
    before, results = before.contiguous(), _like(of_source)
    for source, target, scale, out in zip(of_source, of_target, _by_order(before, of_source), results):
        _launch(_gate_order_kernel, (source.contiguous(), target.contiguous(), scale, out), source, before)
    return results


def _like(of_source: list[Tensor]) -> list[Tensor]:
    return [values.new_empty(*values.shape[:2], NUM_ATOMS * values.shape[2]) for values in of_source]


def _gate_orders_backward(
    gradients: list[Float[Tensor, "edges _signs _term_atom_hidden"]],
    of_source: list[Float[Tensor, "edges _signs _term_hidden"]],
    of_target: list[Float[Tensor, "edges _signs _term_hidden"]],
    before: Float[Tensor, "edges term_atom_hidden"],
) -> list[Tensor]:
    before = before.contiguous()
    to_source, to_target, to_before = _empty(of_source), _empty(of_target), before.new_empty(before.shape)
    scales, to_scales = _by_order(before, of_source), _by_order(to_before, of_source)
    orders = zip(gradients, of_source, of_target, scales, to_source, to_target, to_scales)
    for gradient, source, target, scale, *results in orders:
        tensors = (gradient.contiguous(), source.contiguous(), target.contiguous(), scale, *results)
        _launch(_gate_order_backward_kernel, tensors, source, before)
    return [*to_source, *to_target, to_before]


def _empty(values: list[Tensor]) -> list[Tensor]:
    return [tensor.new_empty(tensor.shape) for tensor in values]


gate_orders = register(
    "gate_orders",
    "(Tensor[] of_source, Tensor[] of_target, Tensor before) -> Tensor[]",
    _gate_orders,
    lambda of_source, of_target, before: _like(of_source),
)
"""For each order :func:`~fairchem_hdgnn.models.ops.so2.gate_order` of ``V z``, by ``SiLU`` of all terms' ``before``."""

gate_orders_backward = register(
    "gate_orders_backward",
    "(Tensor[] gradients, Tensor[] of_source, Tensor[] of_target, Tensor before) -> Tensor[]",
    _gate_orders_backward,
    lambda gradients, of_source, of_target, before: [
        *_empty(of_source),
        *_empty(of_target),
        before.new_empty(before.shape),
    ],
)
"""Gradients of sources, of targets, and of ``before``."""


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    of_source, of_target, before = inputs
    ctx.save_for_backward(*of_source, *of_target, before)


def _backward(ctx: Any, gradients: list[Tensor]) -> tuple[Any, ...]:
    *values, before = ctx.saved_tensors
    count = len(values) // NUM_ATOMS
    found = gate_orders_backward(list(gradients), values[:count], values[count:], before)
    return found[:count], found[count:-1], found[-1]


gate_orders.register_autograd(_backward, setup_context=_keep)
