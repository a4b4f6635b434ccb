"""Gathering, rotating and summing features of atoms over a block of edges.

The plain forms are products of one matrix for each edge. The fast forms differ in three ways. Edges are sorted by
target, so on a CPU all edges of an atom rotate its features, or are rotated back and summed, in one product. On a GPU
sums run edge by edge in a fixed order, so that they repeat to the last bit. Gradients of what all blocks read are added
to one sum in place. Matrices are constants wherever the argument is the entries of D: no gradient flows through frames.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairchem_hdgnn.models.arithmetic.products import linear, product
from fairchem_hdgnn.models.arithmetic.sums import sum_in_order
from fairchem_hdgnn.models.edges import EdgeBlock, Rows
from fairchem_hdgnn.models.ops.passes import Pass
from fairchem_hdgnn.models.so3.constants import cached_constants
from fairchem_hdgnn.models.so3.layout import degree_index, num_coefficients

_PER_NODE_SIZE = 50_000
"""Smallest size of an atom's edge features in the global frame (edges x columns x channels) at which one call per atom
costs less than writing them."""


def rotate(
    matrices: Float[Tensor, "edges rows columns"], x: Float[Tensor, "edges columns channels"]
) -> Float[Tensor, "edges rows channels"]:
    """``matrices[e] @ x[e]``."""
    if x.shape[2] == 1:
        # torch is several times as fast at vector times matrix as at matrix times vector.
        return product(x.mT, matrices.mT).mT
    return product(matrices, x)


def rotate_channel(
    entries: Float[Tensor, "edges orders all_coefficients"], x: Float[Tensor, "edges coefficients"], rows: Rows
) -> Float[Tensor, "edges rows"]:
    """Rows (l, m) of ``D x`` for a single channel: products with the entries of D, summed over each degree."""
    lmax = round(x.shape[1] ** 0.5) - 1
    of_degree, place = _channel_constants(entries.shape[1] // 2, lmax, rows, x.dtype, x.device)
    by_order = linear(entries[..., : x.shape[1]] * x.unsqueeze(1), of_degree.T)
    return by_order.flatten(1).index_select(1, place)


def rotate_channel_back(
    entries: Float[Tensor, "edges orders all_coefficients"], y: Float[Tensor, "edges rows"], lmax: int, rows: Rows
) -> Float[Tensor, "edges coefficients"]:
    """``D^T y`` for a single channel with rows (l, m)."""
    orders = entries.shape[1]
    of_degree, place = _channel_constants(orders // 2, lmax, rows, y.dtype, y.device)
    by_order = y.new_zeros(len(y), orders * (lmax + 1)).index_copy_(1, place, y).unflatten(1, (orders, -1))
    return (linear(by_order, of_degree) * entries[..., : of_degree.shape[0]]).sum(1)


@cached_constants
def _channel_constants(
    mmax: int, lmax: int, rows: Rows, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The degree of each column, and the position of each row (l, m) in a table of orders and degrees."""
    of_degree = torch.nn.functional.one_hot(degree_index(lmax), lmax + 1).to(device, dtype)
    return of_degree, torch.tensor([(m + mmax) * (lmax + 1) + l for l, m in rows], device=device)


class BatchedRotations:
    """Products with one matrix for each edge, without autograd: per atom on a CPU, batched elsewhere."""

    def of_source(self, matrices: Tensor, x: Tensor, block: EdgeBlock) -> Float[Tensor, "edges rows channels"]:
        """``matrices[e] @ x[source(e)]``."""
        return torch.bmm(matrices, x.index_select(0, block.source))

    def of_target(self, matrices: Tensor, x: Tensor, block: EdgeBlock) -> Float[Tensor, "edges rows channels"]:
        """``matrices[e] @ x[target(e)]``."""
        if not _per_node(matrices, x.shape[2], block):
            return torch.bmm(matrices, x.index_select(0, block.target))
        result = x.new_empty(matrices.shape[0], matrices.shape[1], x.shape[2])
        for node, start, end in block.edges_of_nodes():
            torch.mm(matrices[start:end].flatten(0, 1), x[node], out=result[start:end].view(-1, x.shape[2]))
        return result

    def add_to_source(self, matrices: Tensor, y: Tensor, block: EdgeBlock, total: Tensor) -> None:
        """Add ``matrices[e]^T @ y[e]`` to the source of each edge."""
        add_by_source(torch.bmm(matrices.mT, y), block, total)

    def add_to_target(self, matrices: Tensor, y: Tensor, block: EdgeBlock, total: Tensor) -> None:
        """Add ``matrices[e]^T @ y[e]`` to the target of each edge."""
        if not _per_node(matrices, y.shape[2], block):
            add_by_target(torch.bmm(matrices.mT, y), block, total)
            return
        for node, start, end in block.edges_of_nodes():
            total[node].addmm_(matrices[start:end].flatten(0, 1).T, y[start:end].flatten(0, 1))


def _per_node(matrices: Tensor, channels: int, block: EdgeBlock) -> bool:
    """Whether one product per atom beats batched ones: on a CPU, where each is large."""
    if not block.on_cpu:
        return False
    edges_per_node = matrices.shape[0] / max(1, block.num_nodes)
    return edges_per_node * matrices.shape[2] * channels > _PER_NODE_SIZE


def add_by_target(values: Float[Tensor, "edges ..."], block: EdgeBlock, total: Float[Tensor, "nodes ..."]) -> None:
    """Add each edge's values to its target's, in the order of the edges."""
    if block.on_cpu:
        total.index_add_(0, block.target, values)
    else:
        total[block.first_node : block.last_node].add_(sum_in_order(values, block.first_edge))


def add_by_source(values: Float[Tensor, "edges ..."], block: EdgeBlock, total: Float[Tensor, "nodes ..."]) -> None:
    """Add each edge's values to its source's, in the order of the edges."""
    if block.on_cpu:
        total.index_add_(0, block.source, values)
    else:
        order, offsets = block.by_source
        total.add_(sum_in_order(values.index_select(0, order), offsets))


class Gather(torch.autograd.Function):
    """x of one atom of each edge."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, run: Pass, block: EdgeBlock, of_source: bool) -> Tensor:
        """As :meth:`~fairchem_hdgnn.models.ops.edge_ops.EdgeOps.gather`."""
        ctx.x, ctx.run, ctx.block, ctx.of_source = x, run, block, of_source
        return x.index_select(0, block.source if of_source else block.target)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Add to the sum of x's gradients."""
        add = add_by_source if ctx.of_source else add_by_target
        add(gradient, ctx.block, ctx.run.gradient(ctx.x))
        return ctx.run.returned(ctx.x), None, None, None


class GatherRotate(torch.autograd.Function):
    """Rows of ``D x`` of one atom of each edge."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, run: Pass, block: EdgeBlock, of_source: bool, lmax: int, rows: Rows,
        kernels: BatchedRotations,
    ) -> Tensor:  # fmt: skip
        """As :meth:`~fairchem_hdgnn.models.ops.edge_ops.EdgeOps.gather_rotate`."""
        ctx.x, ctx.run, ctx.block, ctx.of_source, ctx.rotation = x, run, block, of_source, (lmax, rows)
        ctx.kernels = kernels
        rotate_atoms = kernels.of_source if of_source else kernels.of_target
        return rotate_atoms(block.rotation(lmax, rows), x, block)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Rotate back, and add to the sum of x's gradients."""
        add = ctx.kernels.add_to_source if ctx.of_source else ctx.kernels.add_to_target
        add(ctx.block.rotation(*ctx.rotation), gradient.contiguous(), ctx.block, ctx.run.gradient(ctx.x))
        return ctx.run.returned(ctx.x), *(None,) * 6


class RotateScatter(torch.autograd.Function):
    """``sum_e D^T y`` into each atom of the block."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, block: EdgeBlock, lmax: int, rows: Rows, kernels: BatchedRotations, values: bool
    ) -> Tensor:
        """As :meth:`~fairchem_hdgnn.models.ops.edge_ops.EdgeOps.rotate_scatter`."""
        ctx.block, ctx.rotation, ctx.kernels = block, (lmax, rows), kernels
        out = y.new_zeros(block.num_nodes, num_coefficients(lmax), y.shape[2])
        if values:
            kernels.add_to_target(block.rotation(lmax, rows), y.contiguous(), block.alone, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Rotate the atoms' gradients into the edges' frames."""
        matrices = ctx.block.rotation(*ctx.rotation)
        return ctx.kernels.of_target(matrices, gradient.contiguous(), ctx.block.alone), *(None,) * 5


class MultiplyScatter(torch.autograd.Function):
    """``sum_e matrices^T y`` into each atom of the block, with gradients of both factors."""

    @staticmethod
    def forward(ctx: Any, matrices: Tensor, y: Tensor, block: EdgeBlock, kernels: BatchedRotations) -> Tensor:
        """As :meth:`~fairchem_hdgnn.models.ops.edge_ops.EdgeOps.multiply_scatter`."""
        ctx.save_for_backward(matrices, y)
        ctx.block, ctx.kernels, own = block, kernels, block.alone
        out = y.new_zeros(own.num_nodes, matrices.shape[2], y.shape[2])
        kernels.add_to_target(matrices.contiguous(), y.contiguous(), own, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of the matrices, and of y."""
        matrices, y = ctx.saved_tensors
        own = ctx.block.alone
        of_matrices = of_y = None
        if ctx.needs_input_grad[0]:
            of_matrices = ctx.kernels.of_target(y.contiguous(), gradient.mT.contiguous(), own)
        if ctx.needs_input_grad[1]:
            of_y = ctx.kernels.of_target(matrices.contiguous(), gradient.contiguous(), own)
        return of_matrices, of_y, None, None


class Scatter(torch.autograd.Function):
    """Sum over the edges into each atom of the block."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, block: EdgeBlock) -> Tensor:
        """As :meth:`~fairchem_hdgnn.models.ops.edge_ops.EdgeOps.scatter`."""
        ctx.block, own = block, block.alone
        out = values.new_zeros(own.num_nodes, *values.shape[1:])
        add_by_target(values, own, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """To each edge its target's."""
        return gradient.index_select(0, ctx.block.alone.target), None
