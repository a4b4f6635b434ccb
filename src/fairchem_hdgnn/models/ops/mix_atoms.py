"""``V (D x)`` of one atom of each edge on a CPU, as ``D (V x)`` degree by degree.

V acts once on each atom instead of once on each edge, and the sum over degrees is part of the product with D: a third
of the arithmetic. All edges of an atom, and all atoms with equally many, are one batched product.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairchem_hdgnn.models.edges import EdgeBlock
from fairchem_hdgnn.models.ops.passes import Pass
from fairchem_hdgnn.models.ops.so2 import InnerWeights, terms_of_order
from fairchem_hdgnn.models.so3.layout import num_coefficients

ATOMS_PER_CHUNK = 64
"""Atoms whose ``V x`` exists at a time: enough rows for an efficient product, few enough for the cache."""


class GatherMixRotate(torch.autograd.Function):
    """:func:`~fairchem_hdgnn.models.ops.so2.mix_orders` of ``D x`` of one atom of each edge of a batch."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, run: Pass, block: EdgeBlock, of_source: bool, weights: InnerWeights, *_: Tensor
    ) -> tuple[Tensor, ...]:
        """As :meth:`~fairchem_hdgnn.models.ops.edge_ops.EdgeOps.gather_mix_rotate`; ``_`` repeats the degrees of V."""
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
        for atoms in _chunks(ctx.block, ctx.of_source):
            of_mixed = x.new_zeros(num_coefficients(weights.lmax), len(atoms.counts), weights.width)
            for order, gradient in enumerate(gradients):
                matrices, part = atoms.rotation(order, weights.lmax), of_mixed[order**2 :, :, weights.columns(order)]
                upstream = gradient[atoms.edges].to(x.dtype).contiguous()
                for nodes, edges in atoms.runs():
                    product = torch.bmm(_of_each(matrices, nodes, edges).mT, _of_each(upstream, nodes, edges))
                    part[:, nodes] = product.transpose(0, 1)
            _add_mix_gradients(run, x, atoms, weights, of_mixed)
        return run.returned(x), *(None,) * 4, *(run.returned(weight) for weight in weights.of_degrees)


class _Atoms(NamedTuple):
    """Some atoms in the order of their number of edges.

    Attributes:
        nodes: the atoms.
        edges: their edges, grouped by atom.
        counts: number of edges of each atom.
        wigner: entries of D of the edges.
    """

    nodes: Int[Tensor, "nodes"]
    edges: Int[Tensor, "edges"]
    counts: list[int]
    wigner: Float[Tensor, "edges orders coefficients"]

    def rotation(self, order: int, lmax: int) -> Float[Tensor, "edges signs columns"]:
        """Rows m and -m of D, all degrees in one row, from degree m on."""
        centre = self.wigner.shape[1] // 2
        rows = [centre] if order == 0 else [centre + order, centre - order]
        return torch.stack([self.wigner[:, row, order**2 : num_coefficients(lmax)] for row in rows], 1)

    def runs(self) -> Iterator[tuple[slice, slice]]:
        """Slices of :attr:`nodes` with the same number of edges, and of their :attr:`edges`."""
        node = edge = 0
        for count, run in itertools.groupby(self.counts):
            length = len(list(run))
            if count > 0:
                yield slice(node, node + length), slice(edge, edge + length * count)
            node, edge = node + length, edge + length * count


def _chunks(block: EdgeBlock, of_source: bool) -> Iterator[_Atoms]:
    nodes, edges, counts = block.sources_by_count if of_source else block.targets_by_count
    sizes = [counts[first : first + ATOMS_PER_CHUNK] for first in range(0, len(counts), ATOMS_PER_CHUNK)]
    of_chunks = edges.split([sum(size) for size in sizes])
    for part, of_edges, size in zip(nodes.split(ATOMS_PER_CHUNK), of_chunks, sizes):
        yield _Atoms(part, of_edges, size, block.wigner[of_edges])


def _of_each(
    values: Float[Tensor, "edges signs n"], nodes: slice, edges: slice
) -> Float[Tensor, "nodes rows_of_node n"]:
    """The rows of each of some atoms."""
    return values[edges].view(nodes.stop - nodes.start, -1, values.shape[2])


def _by_coefficient(x: Tensor, atoms: _Atoms) -> Float[Tensor, "coefficients nodes channels"]:
    return x[atoms.nodes].transpose(0, 1).contiguous()


def _degrees(weights: InnerWeights) -> Iterator[tuple[Tensor, slice]]:
    """V of each degree, and the positions of its coefficients."""
    for degree, weight in enumerate(weights.of_degrees):
        yield weight, slice(num_coefficients(degree - 1), num_coefficients(degree))


def _mix(
    run: Pass, x: Float[Tensor, "coefficients nodes channels"], weights: InnerWeights
) -> Float[Tensor, "coefficients nodes term_hidden"]:
    """``V x``."""
    mixed = x.new_empty(*x.shape[:2], weights.width)
    for weight, coefficients in _degrees(weights):
        with run.compute.products():
            values = x[coefficients].flatten(0, 1).to(run.compute.dtype) @ weight.to(run.compute.dtype)
        mixed[coefficients, :, : weight.shape[1]] = values.view(-1, x.shape[1], weight.shape[1])
    return mixed


def _add_mix_gradients(
    run: Pass, x: Tensor, atoms: _Atoms, weights: InnerWeights, of_mixed: Float[Tensor, "coefficients nodes hidden"]
) -> None:
    values = _by_coefficient(x, atoms)
    of_values = torch.empty_like(values)
    for weight, coefficients in _degrees(weights):
        upstream = of_mixed[coefficients, :, : weight.shape[1]].flatten(0, 1).to(run.compute.dtype)
        if weight.requires_grad:
            rows = values[coefficients].flatten(0, 1).to(run.compute.dtype)
            run.compute.add_product(run.gradient(weight), rows.T, upstream)
        if x.requires_grad:
            with run.compute.products():
                of_x = upstream @ weight.T.to(run.compute.dtype)
            of_values[coefficients] = of_x.view(-1, *values.shape[1:])
    if x.requires_grad:
        run.gradient(x)[atoms.nodes] += of_values.transpose(0, 1)
