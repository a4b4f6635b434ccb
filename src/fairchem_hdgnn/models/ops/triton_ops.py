"""The operations by the kernels of :mod:`fairchem_hdgnn.models.kernels`, for GPUs and float32.

Gradients of what all blocks read go through autograd here: nearly every batch is one block on a GPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from functools import partial
from types import ModuleType

import torch
from torch import Tensor, nn

from fairchem_hdgnn.models.arithmetic.precision import Compute
from fairchem_hdgnn.models.arithmetic.products import linear
from fairchem_hdgnn.models.edges import Rows
from fairchem_hdgnn.models.ops.edge_ops import Atom, FastEdgeOps, OuterProduct, recomputed_together
from fairchem_hdgnn.models.ops.gate import SIGMOID_SCALE, SILU_SCALE
from fairchem_hdgnn.models.ops.gated_network import GatedTerm, Places, Rotated
from fairchem_hdgnn.models.ops.so2 import InnerWeights, rows_by_order
from fairchem_hdgnn.models.ops.sphere import PointwiseNetwork
from fairchem_hdgnn.models.so3.constants import cached_constants


class TritonEdgeOps(FastEdgeOps):
    """As :class:`FastEdgeOps`, by kernels; edges and node tensors are float32, networks in any dtype."""

    def gather(self, x: Tensor, atom: Atom) -> Tensor:
        """As :meth:`EdgeOps.gather`."""
        values = kernels_of("gather").gather(x.flatten(1), *self._edges_of(atom))
        return values.view(-1, *x.shape[1:])

    def gather_rotate(self, x: Tensor, atom: Atom, lmax: int, rows: Rows) -> Tensor:
        """As :meth:`EdgeOps.gather_rotate`."""
        place = row_places(lmax, rows, x.device)
        return kernels_of("rotations").gather_rotate(
            x, *self._edges_of(atom), self.block.wigner, place, len(rows), torch.float32
        )

    def _edges_of(self, atom: Atom) -> tuple[Tensor, Tensor | None, Tensor]:
        """The atom of each edge; the edges of each atom, where they are not in order; their offsets."""
        block = self.block
        return (block.source, *block.by_source) if atom is Atom.SOURCE else (block.target, None, block.target_offsets)

    def gather_rotate_pair(self, x_source: Tensor, x_target: Tensor, lmax: int, rows: Rows) -> list[Rotated]:
        """As :meth:`FastEdgeOps.gather_rotate_pair`, in the networks' dtype."""
        block, place = self.block, row_places(lmax, rows, x_source.device)

        def rotated(source: Tensor, target: Tensor) -> tuple[Tensor, ...]:
            edges = (block.source, block.target, *block.by_source, block.target_offsets, block.wigner)
            dtype = self.run.compute.dtype
            return kernels_of("rotations").gather_rotate_pair(source, target, *edges, place, len(rows), dtype)

        values = rotated(x_source, x_target)
        if not self.keep:
            return [Rotated(value) for value in values]
        return recomputed_together(values, partial(rotated, x_source.detach(), x_target.detach()))

    def rotate_scatter(self, y: Tensor, lmax: int, rows: Rows, outer: OuterProduct | None = None) -> Tensor:
        """As :meth:`EdgeOps.rotate_scatter`."""
        block, u, a = self.block.alone, None, None
        if outer is not None:
            u, a = outer.u, outer.a.expand(-1, y.shape[2])
        place = row_places(lmax, rows, y.device)
        return kernels_of("rotations").rotate_sum(
            y, None, u, a, block.target, None, block.first_edge, block.wigner, place
        )

    def gated_product(self, u: Tensor, matrix: Tensor, bias: Tensor, channels: int, a: Tensor | None) -> Tensor:
        """As :meth:`EdgeOps.gated_product`."""
        weights = None if a is None else a.expand(-1, channels)
        scales = [SILU_SCALE, SIGMOID_SCALE]
        return kernels_of("gated_product").gated_product(u, matrix, bias, weights, channels, scales)

    def rotate_channel(self, x: Tensor, rows: Rows) -> Tensor:
        """As :meth:`EdgeOps.rotate_channel`."""
        place = row_places(round(x.shape[1] ** 0.5) - 1, rows, x.device)
        return kernels_of("rotate_channel").rotate_channel(x, self.block.wigner, place, len(rows), False)

    def rotate_channel_back(self, y: Tensor, lmax: int, rows: Rows) -> Tensor:
        """As :meth:`EdgeOps.rotate_channel_back`."""
        place = row_places(lmax, rows, y.device)
        return kernels_of("rotate_channel").rotate_channel(y, self.block.wigner, place, len(rows), True)

    def gather_mix_rotate(self, x: Tensor, atom: Atom, weights: InnerWeights) -> tuple[Tensor, ...]:
        """As :meth:`EdgeOps.gather_mix_rotate`."""
        rows = rows_by_order(weights.lmax, weights.mmax)
        edges = (*self._edges_of(atom), self.block.wigner, row_places(weights.lmax, rows, x.device))
        return _fused("so2").gather_mix_rotate(x, edges, len(rows), self.run.compute, weights)

    def gate_orders(
        self, of_source: Sequence[Tensor], of_target: Sequence[Tensor], features: Tensor, weight: Tensor, bias: Tensor
    ) -> list[Tensor]:
        """As :meth:`EdgeOps.gate_orders`."""
        before = self._network_linear(features.to(self.run.compute.dtype), weight, bias)
        return kernels_of("gate_orders").gate_orders(list(of_source), list(of_target), before)

    def join_orders(
        self, gated: Iterable[Tensor], weights: Sequence[Tensor], channels: int, dtype: torch.dtype
    ) -> Tensor:
        """As :meth:`EdgeOps.join_orders`, in the networks' dtype."""
        return _fused("so2").join_orders(list(gated), weights, channels, self.run.compute)

    def on_sphere(self, y: Tensor, network: PointwiseNetwork) -> Tensor:
        """As :meth:`EdgeOps.on_sphere`."""
        return on_sphere_fused(y, network, self.run.compute)

    def gate_features(self, features: Tensor, layers: Sequence[nn.Linear]) -> list[Tensor]:
        """As :meth:`EdgeOps.gate_features`, in the networks' dtype and before SiLU, which a kernel applies."""
        inputs = features.to(self.run.compute.dtype)
        return [self._network_linear(inputs, layer.weight, layer.bias) for layer in layers]

    def _network_linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """``x weight^T + bias`` in the dtype of x, that of the networks."""
        return linear(x, weight.to(x.dtype), bias.to(x.dtype), tf32=self.run.compute.tf32)

    def add_terms(self, low: Tensor, places: Places, terms: Sequence[GatedTerm]) -> Tensor:
        """As :meth:`EdgeOps.add_terms`."""
        return _fused("terms").add_terms(self.run, self.block, low, places, terms)


def on_sphere_fused(x: Tensor, network: PointwiseNetwork, compute: Compute) -> Tensor:
    """As :func:`~fairchem_hdgnn.models.ops.sphere.on_sphere`."""
    return _fused("sphere").on_sphere_fused(x, network, compute)


@cached_constants
def row_places(lmax: int, rows: Rows, device: torch.device) -> Tensor:
    """The position of row (l, m) for each degree and order, or -1: ``[degrees, orders]``, orders from -mmax to mmax."""
    mmax = max(abs(m) for _, m in rows)
    places = torch.full((lmax + 1, 2 * mmax + 1), -1, dtype=torch.int32)
    for position, (l, m) in enumerate(rows):
        places[l, m + mmax] = position
    return places.to(device)


def kernels_of(name: str) -> ModuleType:
    """A module of :mod:`fairchem_hdgnn.models.kernels`; imported where it is used, as Triton is not everywhere."""
    return importlib.import_module(f"fairchem_hdgnn.models.kernels.{name}")


def _fused(name: str) -> ModuleType:
    """What is built from them."""
    return importlib.import_module(f"fairchem_hdgnn.models.ops.fused_{name}")
