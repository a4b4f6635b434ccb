"""What eSCN's SO(2) convolution does to a block of edges, order by order (Passaro & Zitnick, ICML 2023).

In a frame whose y axis points along the edge, the coefficients of order m and -m are the real and imaginary part of a
number that a turn about the edge multiplies by a phase. Rows stand order by order here: degrees ``m..lmax`` of order m,
then those of order -m. The rows of order m form ``[edges, signs, degrees, channels]``, one sign for m = 0 and two
(m, -m) for all others; H hidden channels.

The plain form multiplies rotated features of every edge. The fast form makes use of ``V (D x) = D (V x)`` degree by
degree: V acts once on each atom, and the sum over degrees is part of the product with D.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairchem_hdgnn.models.arithmetic.products import linear
from fairchem_hdgnn.models.edges import EdgeBlock, Rows
from fairchem_hdgnn.models.nn.precision import Compute
from fairchem_hdgnn.models.ops.passes import Pass
from fairchem_hdgnn.models.so3.layout import num_coefficients

ATOMS_PER_CHUNK = 64
"""Atoms whose ``V x`` exists at a time: enough rows for an efficient product, few enough for the cache."""


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
        mmax: largest order that is wanted.
    """

    of_degrees: tuple[Tensor, ...]
    hidden_channels: int
    mmax: int

    @property
    def lmax(self) -> int:
        """Largest degree."""
        return len(self.of_degrees) - 1

    def columns(self, order: int) -> slice:
        """Where an order's terms stand."""
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


class GatherMixRotate(torch.autograd.Function):
    """:func:`mix_orders` of ``D x`` of one atom of each edge, V first: one product for each atom and order."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, run: Pass, block: EdgeBlock, of_source: bool, weights: InnerWeights, *_: Tensor
    ) -> tuple[Tensor, ...]:
        """As :meth:`~fairchem_hdgnn.models.ops.edge_ops.EdgeOps.gather_mix_rotate`; degrees of V once more at last."""
        ctx.x, ctx.run, ctx.block, ctx.of_source, ctx.weights = x, run, block, of_source, weights
        shapes = [
            (1 if m == 0 else 2, len(terms_of_order(m)) * weights.hidden_channels) for m in range(weights.mmax + 1)
        ]
        results = tuple(x.new_empty(len(block.source), *shape, dtype=run.compute.dtype) for shape in shapes)
        for atoms in _chunks(block, of_source):
            mixed = _mix(run, _by_coefficient(x, atoms), weights)
            for order, result in enumerate(results):
                matrices, part = atoms.rotation(order, weights.lmax), mixed[order**2 :, :, weights.columns(order)]
                values = x.new_empty(len(matrices), *result.shape[1:])
                for nodes, edges in atoms.runs():
                    rows = _of_each(values, nodes, edges)
                    torch.bmm(_of_each(matrices, nodes, edges), part[:, nodes].transpose(0, 1), out=rows)
                result[atoms.edges] = values.to(result.dtype)
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Add to the sums of x's and V's gradients."""
        x, run, weights = ctx.x, ctx.run, ctx.weights
        width = num_terms(weights.mmax) * weights.hidden_channels
        for atoms in _chunks(ctx.block, ctx.of_source):
            of_mixed = x.new_zeros(num_coefficients(weights.lmax), len(atoms.counts), width)
            for order, gradient in enumerate(gradients):
                matrices, part = atoms.rotation(order, weights.lmax), of_mixed[order**2 :, :, weights.columns(order)]
                upstream = gradient[atoms.edges].to(x.dtype).contiguous()
                for nodes, edges in atoms.runs():
                    product = torch.bmm(_of_each(matrices, nodes, edges).mT, _of_each(upstream, nodes, edges))
                    part[:, nodes] = product.transpose(0, 1)
            _add_mix_gradients(run, x, atoms, weights, of_mixed)
        return (None,) * (5 + len(weights.of_degrees))


class _Atoms(NamedTuple):
    """Some atoms with the edges that start, or end, at them.

    Attributes:
        nodes: the atoms.
        edges: which edges of the block, those of each atom together.
        counts: how many edges each atom has.
        wigner: entries of D of the edges.
    """

    nodes: Tensor | slice
    edges: Tensor | slice
    counts: list[int]
    wigner: Float[Tensor, "edges orders coefficients"]

    def rotation(self, order: int, lmax: int) -> Float[Tensor, "edges signs columns"]:
        """Rows m and -m of D, all degrees in one row, from degree m on."""
        centre = self.wigner.shape[1] // 2
        columns = slice(order**2, num_coefficients(lmax))
        if order == 0:
            return self.wigner[:, centre : centre + 1, columns].contiguous()
        return torch.stack([self.wigner[:, centre + order, columns], self.wigner[:, centre - order, columns]], 1)

    def runs(self) -> Iterator[tuple[slice, slice]]:
        """Atoms with equally many edges that follow one another, and their edges, both counted within these."""
        node = edge = 0
        for count, run in itertools.groupby(self.counts):
            length = len(list(run))
            if count > 0:
                yield slice(node, node + length), slice(edge, edge + length * count)
            node, edge = node + length, edge + length * count


def _chunks(block: EdgeBlock, of_source: bool) -> Iterator[_Atoms]:
    nodes, edges, counts = block.by_source_count if of_source else (None, None, block.counts)
    first = first_edge = 0
    while first < len(counts):
        part = counts[first : first + ATOMS_PER_CHUNK]
        of_nodes, of_edges = slice(first, first + len(part)), slice(first_edge, first_edge + sum(part))
        if nodes is None or edges is None:
            base = block.first_node
            yield _Atoms(slice(base + first, base + of_nodes.stop), of_edges, part, block.wigner[of_edges])
        else:
            yield _Atoms(nodes[of_nodes], edges[of_edges], part, block.wigner[edges[of_edges]])
        first, first_edge = of_nodes.stop, of_edges.stop


def _of_each(
    values: Float[Tensor, "edges signs n"], nodes: slice, edges: slice
) -> Float[Tensor, "nodes rows_of_node n"]:
    """The rows of each of some atoms."""
    return values[edges].view(nodes.stop - nodes.start, -1, values.shape[2])


def _by_coefficient(x: Tensor, atoms: _Atoms) -> Float[Tensor, "coefficients nodes channels"]:
    return x[atoms.nodes].transpose(0, 1).contiguous()


def _degrees(weights: InnerWeights) -> Iterator[tuple[Tensor, slice, int]]:
    """V of each degree, where its coefficients stand, and how many columns are wanted."""
    for degree, weight in enumerate(weights.of_degrees):
        coefficients = slice(num_coefficients(degree - 1), num_coefficients(degree))
        yield weight, coefficients, num_terms(min(degree, weights.mmax)) * weights.hidden_channels


def _mix(
    run: Pass, x: Float[Tensor, "coefficients nodes channels"], weights: InnerWeights
) -> Float[Tensor, "coefficients nodes term_hidden"]:
    """``V x``."""
    mixed = x.new_empty(*x.shape[:2], num_terms(weights.mmax) * weights.hidden_channels)
    for weight, coefficients, width in _degrees(weights):
        with run.compute.products():
            values = x[coefficients].flatten(0, 1).to(run.compute.dtype) @ weight.to(run.compute.dtype)
        mixed[coefficients, :, :width] = values.view(-1, x.shape[1], width)
    return mixed


def _add_mix_gradients(
    run: Pass, x: Tensor, atoms: _Atoms, weights: InnerWeights, of_mixed: Float[Tensor, "coefficients nodes hidden"]
) -> None:
    values = _by_coefficient(x, atoms)
    of_values = torch.empty_like(values)
    for weight, coefficients, width in _degrees(weights):
        upstream = of_mixed[coefficients, :, :width].flatten(0, 1).to(run.compute.dtype)
        if weight.requires_grad:
            rows = values[coefficients].flatten(0, 1).to(run.compute.dtype)
            run.compute.add_product(run.gradient(weight), rows.T, upstream)
        if x.requires_grad:
            with run.compute.products():
                of_x = upstream @ weight.T.to(run.compute.dtype)
            of_values[coefficients] = of_x.view(-1, *values.shape[1:])
    if x.requires_grad:
        run.gradient(x)[atoms.nodes] += of_values.transpose(0, 1)
