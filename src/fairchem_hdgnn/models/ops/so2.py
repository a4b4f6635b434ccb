"""eSCN's SO(2) convolution on a block of edges, order by order (Passaro & Zitnick, ICML 2023).

In a frame whose y axis points along the edge, the coefficients of order m and -m are the real and imaginary part of a
number that a turn about the edge multiplies by a phase. Rows stand order by order here: degrees ``m..lmax`` of order m,
then those of order -m. The rows of order m form ``[edges, signs, degrees, channels]``, one sign for m = 0 and two
(m, -m) for all others; H hidden channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairchem_hdgnn.models.arithmetic.precision import Compute
from fairchem_hdgnn.models.arithmetic.products import linear
from fairchem_hdgnn.models.edges import Rows

NUM_ATOMS = 2
"""Of an edge."""


def rows_by_order(lmax: int, mmax: int) -> Rows:
    """Rows (l, m) order by order: m = 0, 1, -1, 2, -2, ..."""
    orders = [0] + [signed for order in range(1, mmax + 1) for signed in (order, -order)]
    return tuple((l, m) for m in orders for l in range(abs(m), lmax + 1))


def num_terms(mmax: int) -> int:
    """Real weight blocks of an SO(2) convolution: one for m = 0, a real and an imaginary one for each m > 0."""
    return 1 + 2 * mmax


def order_of_term(term: int) -> int:
    """The order m of a term: terms are numbered 0 (m = 0), 2m - 1 (real part, order m), 2m (imaginary part)."""
    return (term + 1) // 2


def terms_of_order(order: int) -> tuple[int, ...]:
    """Numbers of the terms of order m."""
    return (0,) if order == 0 else (2 * order - 1, 2 * order)


class InnerWeights(NamedTuple):
    """V for one atom of an edge.

    Attributes:
        of_degrees: for each degree l, ``[C, (term, H)]`` of the terms with order <= l.
        hidden_channels: H.
        mmax: largest order to compute.
    """

    of_degrees: tuple[Tensor, ...]
    hidden_channels: int
    mmax: int

    @property
    def lmax(self) -> int:
        """Largest degree."""
        return len(self.of_degrees) - 1

    @property
    def width(self) -> int:
        """Columns of V of all terms."""
        return num_terms(self.mmax) * self.hidden_channels

    def columns(self, order: int) -> slice:
        """Columns of an order's terms."""
        terms = terms_of_order(order)
        return slice(terms[0] * self.hidden_channels, (terms[-1] + 1) * self.hidden_channels)

    def of_order(self, order: int) -> Float[Tensor, "degree_channels term_hidden"]:
        """V of an order, all degrees below one another."""
        return torch.cat([weight[:, self.columns(order)] for weight in self.of_degrees[order:]])


def split_orders(y: Float[Tensor, "edges rows channels"], lmax: int, mmax: int) -> list[Tensor]:
    """The rows of each order, ``[edges, signs, degrees, channels]``."""
    shapes = [(1 if order == 0 else 2, lmax + 1 - order) for order in range(mmax + 1)]
    parts = y.split([signs * degrees for signs, degrees in shapes], dim=1)
    return [part.unflatten(1, shape) for part, shape in zip(parts, shapes)]


def mix_orders(
    rotated: Float[Tensor, "edges rows channels"], weights: InnerWeights, compute: Compute
) -> tuple[Float[Tensor, "edges _signs _term_hidden"], ...]:
    """``V_r z`` and ``V_i z`` side by side for each order, both signs of z from rows of D x; in the networks' dtype."""
    results = []
    for order, part in enumerate(split_orders(rotated, weights.lmax, weights.mmax)):
        matrix = weights.of_order(order).to(compute.dtype)
        results.append(linear(part.flatten(2).to(compute.dtype), matrix.T, tf32=compute.tf32))
    return tuple(results)


def gate_order(
    of_source: Float[Tensor, "edges signs term_hidden"],
    of_target: Float[Tensor, "edges signs term_hidden"],
    scales: Float[Tensor, "edges terms atoms hidden"],
) -> Float[Tensor, "edges signs term_atom_hidden"]:
    """``s * V_r z`` and ``s * V_i (i z)`` of both atoms, from ``V z``: (m, -m) of i z are (-z_-m, z_m)."""
    values = torch.stack([hidden.unflatten(2, scales.shape[1::2]) for hidden in (of_source, of_target)], 3)
    if values.shape[2] == 2:
        real, imaginary = values.unbind(2)
        turned = torch.stack([-imaginary[:, 1], imaginary[:, 0]], 1)
        values = torch.stack([real, turned], 2)
    return (values * scales.unsqueeze(1)).flatten(2)


class GateOrder(torch.autograd.Function):
    """:func:`gate_order` in one pass over memory each way."""

    @staticmethod
    def forward(ctx: Any, of_source: Tensor, of_target: Tensor, scales: Tensor) -> Tensor:
        """As :func:`gate_order`."""
        ctx.save_for_backward(of_source, of_target, scales)
        edges, signs, _ = of_source.shape
        _, terms, atoms, hidden = scales.shape
        out = of_source.new_empty(edges, signs, terms, atoms, hidden)
        for atom, values in enumerate((of_source, of_target)):
            torch.mul(values[..., :hidden], scales[:, None, 0, atom], out=out[:, :, 0, atom])
            if terms == 2:
                imaginary, scale = values[..., hidden:], scales[:, 1, atom]
                torch.mul(imaginary[:, 1], -scale, out=out[:, 0, 1, atom])
                torch.mul(imaginary[:, 0], scale, out=out[:, 1, 1, atom])
        return out.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        """Of both atoms' values, and of the scales."""
        *inputs, scales = ctx.saved_tensors
        _, terms, atoms, hidden = scales.shape
        upstream = gradient.unflatten(2, (terms, atoms, hidden))
        of_scales, of_inputs = torch.empty_like(scales), [torch.empty_like(values) for values in inputs]
        for atom, (values, of_values) in enumerate(zip(inputs, of_inputs)):
            of_real = upstream[:, :, 0, atom]
            torch.sum(of_real * values[..., :hidden], 1, out=of_scales[:, 0, atom])
            torch.mul(of_real, scales[:, None, 0, atom], out=of_values[..., :hidden])
            if terms == 2:
                plus, minus = upstream[:, 0, 1, atom], upstream[:, 1, 1, atom]
                imaginary, scale = values[..., hidden:], scales[:, 1, atom]
                torch.mul(minus, imaginary[:, 0], out=of_scales[:, 1, atom])
                of_scales[:, 1, atom].addcmul_(plus, imaginary[:, 1], value=-1)
                torch.mul(minus, scale, out=of_values[:, 0, hidden:])
                torch.mul(plus, -scale, out=of_values[:, 1, hidden:])
        return of_inputs[0], of_inputs[1], of_scales
