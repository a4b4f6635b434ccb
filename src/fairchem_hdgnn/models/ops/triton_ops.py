"""The operations by the kernels of :mod:`fairchem_hdgnn.models.kernels`, for GPUs.

Gradients of what all blocks read go through autograd here: nearly every batch is one block on a GPU.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.models.arithmetic.products import product
from fairchem_hdgnn.models.edges import EdgeBlock, Rows
from fairchem_hdgnn.models.ops.edge_ops import Atom, FastEdgeOps, OuterProduct, recomputed_together
from fairchem_hdgnn.models.ops.gate import SIGMOID_SCALE, SILU_SCALE
from fairchem_hdgnn.models.ops.gated_network import GatedTerm, Places, Rotated
from fairchem_hdgnn.models.so3.constants import cached_constants


class TritonEdgeOps(FastEdgeOps):
    """As :class:`FastEdgeOps`, by kernels where tensors are float32.

    Raises:
        ConfigError: the edges are not on a GPU, and Triton's interpreter is not switched on.
    """

    def __init__(self, block: EdgeBlock, *arguments: Any, **keywords: Any) -> None:
        if block.on_cpu and os.environ.get("TRITON_INTERPRET") != "1":
            raise ConfigError("implementation: triton runs on GPUs only; on a CPU use 'fast'")
        super().__init__(block, *arguments, **keywords)

    def gather_rotate(self, x: Tensor, atom: Atom, lmax: int, rows: Rows) -> Tensor:
        """As :meth:`EdgeOps.gather_rotate`."""
        if x.dtype != torch.float32:
            return super().gather_rotate(x, atom, lmax, rows)
        block, place = self.block, row_places(lmax, rows, x.device)
        if atom is Atom.SOURCE:
            index, edges, offsets = block.source, *block.by_source
        else:
            index, edges, offsets = block.target, None, block.target_offsets
        return _kernels("rotations").gather_rotate(
            x, index, edges, offsets, block.wigner, place, len(rows), torch.float32
        )

    def gather_rotate_pair(self, x_source: Tensor, x_target: Tensor, lmax: int, rows: Rows) -> list[Rotated]:
        """As :meth:`FastEdgeOps.gather_rotate_pair`, in the networks' dtype."""
        if x_source.dtype != torch.float32:
            return super().gather_rotate_pair(x_source, x_target, lmax, rows)
        block, place = self.block, row_places(lmax, rows, x_source.device)

        def rotated(source: Tensor, target: Tensor) -> tuple[Tensor, ...]:
            edges = (block.source, block.target, *block.by_source, block.target_offsets, block.wigner)
            dtype = self.run.compute.dtype
            return _kernels("rotations").gather_rotate_pair(source, target, *edges, place, len(rows), dtype)

        values = rotated(x_source, x_target)
        if not self.keep:
            return [Rotated(value) for value in values]
        return recomputed_together(values, partial(rotated, x_source.detach(), x_target.detach()))

    def rotate_scatter(self, y: Tensor, lmax: int, rows: Rows, outer: OuterProduct | None = None) -> Tensor:
        """As :meth:`EdgeOps.rotate_scatter`."""
        if y.dtype != torch.float32:
            return super().rotate_scatter(y, lmax, rows, outer)
        block, u, a = self.block.alone, None, None
        if outer is not None:
            u, a = outer.u, outer.a.expand(-1, y.shape[2])
        place = row_places(lmax, rows, y.device)
        return _kernels("rotations").rotate_sum(
            y, None, u, a, block.target, None, block.first_edge, block.wigner, place
        )

    def gated_product(self, u: Tensor, matrix: Tensor, bias: Tensor, channels: int, a: Tensor | None) -> Tensor:
        """As :meth:`EdgeOps.gated_product`."""
        if u.dtype != torch.float32:
            return super().gated_product(u, matrix, bias, channels, a)
        weights = None if a is None else a.expand(-1, channels)
        return GatedProduct.apply(u, matrix, bias, channels, weights)

    def add_terms(self, low: Tensor, places: Places, terms: Sequence[GatedTerm]) -> Tensor:
        """As :meth:`EdgeOps.add_terms`."""
        if low.dtype != torch.float32:
            return super().add_terms(low, places, terms)
        fused = importlib.import_module("fairchem_hdgnn.models.ops.fused_terms")
        return fused.add_terms(self.run, self.block, low, places, terms)


class GatedProduct(torch.autograd.Function):
    """The product is computed again in the backward pass, instead of stored."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, matrix: Tensor, bias: Tensor, channels: int, a: Tensor | None) -> Tensor:
        """As :meth:`EdgeOps.gated_product`."""
        ctx.save_for_backward(u, matrix, bias, a)
        ctx.channels = channels
        return _kernels("gate").gate(product(u, matrix), bias, a, channels, [SILU_SCALE, SIGMOID_SCALE])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of u, the matrix, the bias, and a."""
        u, matrix, bias, a = ctx.saved_tensors
        scales = [SILU_SCALE, SIGMOID_SCALE]
        of_joint, of_a = _kernels("gate").gate_backward(gradient, product(u, matrix), bias, a, ctx.channels, scales)
        of_bias = of_joint[:, : len(bias)].sum(0)
        return product(of_joint, matrix.T), product(u.T, of_joint), of_bias, None, None if a is None else of_a


@cached_constants
def row_places(lmax: int, rows: Rows, device: torch.device) -> Tensor:
    """The position of row (l, m) for each degree and order, or -1: ``[degrees, orders]``, orders from -mmax to mmax."""
    mmax = max(abs(m) for _, m in rows)
    places = torch.full((lmax + 1, 2 * mmax + 1), -1, dtype=torch.int32)
    for position, (l, m) in enumerate(rows):
        places[l, m + mmax] = position
    return places.to(device)


def _kernels(name: str) -> ModuleType:
    """Triton is not everywhere."""
    return importlib.import_module(f"fairchem_hdgnn.models.kernels.{name}")
