"""The operations that messages are made of, on one block of edges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.utils.checkpoint import checkpoint

from fairchem_hdgnn.models.arithmetic.precision import Compute
from fairchem_hdgnn.models.arithmetic.products import linear, product
from fairchem_hdgnn.models.edges import EdgeBlock, Rows
from fairchem_hdgnn.models.ops import rotations, so2
from fairchem_hdgnn.models.ops.dense import Dense
from fairchem_hdgnn.models.ops.gate import gated
from fairchem_hdgnn.models.ops.gated_network import (
    GatedTerm,
    Places,
    Rotated,
    add_gated_network,
    add_gated_network_fast,
)
from fairchem_hdgnn.models.ops.mix_atoms import GatherMixRotate
from fairchem_hdgnn.models.ops.passes import Pass
from fairchem_hdgnn.models.ops.rotations import BatchedRotations
from fairchem_hdgnn.models.ops.so2 import NUM_ATOMS, InnerWeights
from fairchem_hdgnn.models.ops.sphere import PointwiseNetwork, on_sphere, on_sphere_fast


class Atom(Enum):
    """Which atom of an edge."""

    SOURCE = "source"
    TARGET = "target"


class OuterProduct(NamedTuple):
    """``u a`` of each edge.

    Attributes:
        u: of each coefficient, in the global frame.
        a: of each channel, or one for all.
    """

    u: Float[Tensor, "edges coefficients"]
    a: Float[Tensor, "edges _channels"]


class EdgeOps:
    """The plain equations.

    Args:
        block: the edges.
        run: state shared by all blocks.
        keep: whether the forward pass stores values for the backward pass.
        values: whether the message's values are needed; if not, it runs only to rebuild the graph of its backward pass,
            and operations whose results only enter sums skip them.
    """

    def __init__(self, block: EdgeBlock, run: Pass, *, keep: bool = True, values: bool = True) -> None:
        self.block, self.run, self.keep, self.values = block, run, keep, values

    def gather(self, x: Float[Tensor, "nodes ..."], atom: Atom) -> Float[Tensor, "edges ..."]:
        """x of an atom of each edge."""
        return x.index_select(0, self._index(atom))

    def gather_pair(self, of_source: Float[Tensor, "nodes ..."], of_target: Tensor) -> Float[Tensor, "edges ..."]:
        """Sum of something of both atoms of each edge."""
        return self.gather(of_source, Atom.SOURCE) + self.gather(of_target, Atom.TARGET)

    def gather_rotate(
        self, x: Float[Tensor, "nodes coefficients channels"], atom: Atom, lmax: int, rows: Rows
    ) -> Float[Tensor, "edges rows channels"]:
        """Rows of ``D x`` of an atom of each edge; x has degrees up to ``lmax``."""
        return rotations.rotate(self.block.rotation(lmax, rows), self.gather(x, atom))

    def gather_rotate_pair(self, x_source: Tensor, x_target: Tensor, lmax: int, rows: Rows) -> list[Rotated]:
        """:meth:`gather_rotate` of sources, of targets, and their sum."""
        source = self.gather_rotate(x_source, Atom.SOURCE, lmax, rows)
        target = self.gather_rotate(x_target, Atom.TARGET, lmax, rows)
        return [Rotated(source), Rotated(target), Rotated(source + target)]

    def rotate_scatter(
        self, y: Float[Tensor, "edges rows channels"], lmax: int, rows: Rows, outer: OuterProduct | None = None
    ) -> Float[Tensor, "block_nodes coefficients channels"]:
        """``sum_e D^T y + u a`` into each atom of the block; y has these rows in the edges' frames."""
        out = self._rotate_scatter(y, lmax, rows)
        if outer is None:
            return out
        return out + self.multiply_scatter(outer.u.unsqueeze(1), outer.a.unsqueeze(1).expand(-1, -1, y.shape[2]))

    def _rotate_scatter(self, y: Tensor, lmax: int, rows: Rows) -> Tensor:
        return self.multiply_scatter(self.block.rotation(lmax, rows), y)

    def multiply_scatter(
        self, matrices: Float[Tensor, "edges rows coefficients"], y: Float[Tensor, "edges rows channels"]
    ) -> Float[Tensor, "block_nodes coefficients channels"]:
        """``sum_e matrices^T y`` into each atom of the block."""
        return self.scatter(rotations.rotate(matrices.mT, y))

    def scatter(
        self, values: Float[Tensor, "edges coefficients channels"]
    ) -> Float[Tensor, "block_nodes coefficients channels"]:
        """Sum over the edges into each atom of the block."""
        out = values.new_zeros(self.block.num_nodes, *values.shape[1:])
        return out.index_add_(0, self.block.target - self.block.first_node, values)

    def gate_features(
        self, features: Float[Tensor, "edges edge_channels"], layers: Sequence[nn.Linear]
    ) -> list[Float[Tensor, "edges _width"]]:
        """c_ij of eq. 10, ``SiLU(W e_ij + b)`` by each layer, as :meth:`add_terms` takes them."""
        return [silu(layer(features)) for layer in layers]

    def add_terms(
        self, low: Float[Tensor, "edges low_rows channels"], places: Places, terms: Sequence[GatedTerm]
    ) -> Float[Tensor, "edges rows channels"]:
        """``low``, its rows in their places, plus gated networks' results in the first rows."""
        y = low.new_zeros(len(low), len(places.low_of_row), low.shape[2]).index_copy_(1, places.of_low, low)
        for term in terms:
            y = self._add_gated_network(y, term, self._projected(term))
        return y

    def _projected(self, term: GatedTerm) -> Tensor | None:
        """``W_1`` of x_j, x_i or their sum of each edge."""
        of_source, of_target = term.projected
        if of_source is not None and of_target is not None:
            return self.gather_pair(of_source, of_target)
        if of_source is not None:
            return self.gather(of_source, Atom.SOURCE)
        return None if of_target is None else self.gather(of_target, Atom.TARGET)

    def _add_gated_network(self, out: Tensor, term: GatedTerm, projected: Tensor | None) -> Tensor:
        return add_gated_network(out, term, projected)

    def rotate_channel(self, x: Float[Tensor, "edges coefficients"], rows: Rows) -> Float[Tensor, "edges rows"]:
        """Rows of ``D x`` of each edge, for a single channel."""
        return rotations.rotate_channel(self.block.wigner, x, rows)

    def rotate_channel_back(
        self, y: Float[Tensor, "edges rows"], lmax: int, rows: Rows
    ) -> Float[Tensor, "edges coefficients"]:
        """``D^T y`` of each edge, for a single channel."""
        return rotations.rotate_channel_back(self.block.wigner, y, lmax, rows)

    def gated_product(
        self,
        u: Float[Tensor, "edges inputs"],
        matrix: Float[Tensor, "inputs plane_channels"],
        bias: Float[Tensor, "num_scalars"],
        channels: int,
        a: Float[Tensor, "edges _channels"] | None,
    ) -> Float[Tensor, "edges rows channels"]:
        """:func:`~fairchem_hdgnn.models.ops.gate.gated` of ``u matrix``, times a if given."""
        scalars, higher = product(u, matrix).tensor_split([len(bias)], dim=1)
        rows = gated(scalars, higher.unflatten(1, (-1, channels)), bias)
        return rows if a is None else rows * a.unsqueeze(1)

    def linear(
        self, x: Float[Tensor, "rows inputs"], weight: Tensor, bias: Tensor | None = None, *, transposed: bool = False
    ) -> Float[Tensor, "rows outputs"]:
        """``x weight^T + bias``, weight ``[outputs, inputs]``.

        If ``transposed``, ``x weight + bias``, weight ``[inputs, outputs]``.
        """
        return linear(x, weight.T if transposed else weight, bias)

    def gather_mix_rotate(
        self, x: Float[Tensor, "nodes coefficients channels"], atom: Atom, weights: InnerWeights
    ) -> tuple[Float[Tensor, "edges _signs _term_hidden"], ...]:
        """:func:`~fairchem_hdgnn.models.ops.so2.mix_orders` of ``D x`` of an atom of each edge of the whole batch."""
        rows = so2.rows_by_order(weights.lmax, weights.mmax)
        return so2.mix_orders(self.gather_rotate(x, atom, weights.lmax, rows), weights, self._compute(x))

    def gate_orders(
        self,
        of_source: Sequence[Float[Tensor, "edges _signs _term_hidden"]],
        of_target: Sequence[Float[Tensor, "edges _signs _term_hidden"]],
        features: Float[Tensor, "edges edge_channels"],
        weight: Float[Tensor, "term_atom_hidden edge_channels"],
        bias: Float[Tensor, "term_atom_hidden"],
    ) -> Iterable[Float[Tensor, "edges _signs _term_atom_hidden"]]:
        """:func:`~fairchem_hdgnn.models.ops.so2.gate_order` of each order, by ``SiLU(weight features + bias)``."""
        scales = silu(self.linear(features, weight, bias)).to(of_source[0].dtype)
        hidden = of_source[0].shape[2]
        parts = scales.unflatten(1, (-1, NUM_ATOMS, hidden)).split([values.shape[1] for values in of_source], dim=1)
        return (self._gate_order(*order) for order in zip(of_source, of_target, parts))

    def _gate_order(self, of_source: Tensor, of_target: Tensor, scales: Tensor) -> Tensor:
        return so2.gate_order(of_source, of_target, scales)

    def join_orders(
        self,
        gated: Iterable[Float[Tensor, "edges _signs _inputs"]],
        weights: Sequence[Float[Tensor, "_inputs _degree_channels"]],
        channels: int,
        dtype: torch.dtype,
    ) -> Float[Tensor, "edges rows channels"]:
        """The rows of all orders, each ``gated weight``, in this dtype or in that of the networks."""
        results = []
        for values, weight in zip(gated, weights):
            result = self.linear(values.flatten(0, 1), weight, transposed=True)
            rows = values.shape[1] * weight.shape[1] // channels
            results.append(result.view(len(values), rows, channels).to(dtype))
        return torch.cat(results, dim=1)

    def on_sphere(
        self, y: Float[Tensor, "edges rows channels"], network: PointwiseNetwork
    ) -> Float[Tensor, "edges rows channels"]:
        """:func:`~fairchem_hdgnn.models.ops.sphere.on_sphere`; the result is to be rotated back and summed."""
        return on_sphere(y, network, self._compute(y))

    def recomputed(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """``function(*arguments)``, whose intermediate results need not be stored for the backward pass."""
        return function(*arguments)

    def _compute(self, like: Tensor) -> Compute:
        """Exact."""
        return Compute(like.dtype, tf32=False)

    def _index(self, atom: Atom) -> Tensor:
        return self.block.source if atom is Atom.SOURCE else self.block.target


class FastEdgeOps(EdgeOps):
    """The same in few passes over memory, with gradients of what all blocks read summed in place."""

    kernels = BatchedRotations()

    def gather(self, x: Tensor, atom: Atom) -> Tensor:
        """As :meth:`EdgeOps.gather`."""
        return rotations.Gather.apply(x, self.run, self.block, atom is Atom.SOURCE)

    def gather_rotate(self, x: Tensor, atom: Atom, lmax: int, rows: Rows) -> Tensor:
        """As :meth:`EdgeOps.gather_rotate`."""
        of_source = atom is Atom.SOURCE
        return rotations.GatherRotate.apply(x, self.run, self.block, of_source, lmax, rows, self.kernels)

    def gather_rotate_pair(self, x_source: Tensor, x_target: Tensor, lmax: int, rows: Rows) -> list[Rotated]:
        """As :meth:`EdgeOps.gather_rotate_pair`; values that are not stored are rotated again in the backward pass."""
        values = super().gather_rotate_pair(x_source, x_target, lmax, rows)
        if not self.keep:
            return values

        def again() -> tuple[Tensor, ...]:
            matrices = self.block.rotation(lmax, rows)
            source = self.kernels.of_source(matrices, x_source.detach(), self.block)
            target = self.kernels.of_target(matrices, x_target.detach(), self.block)
            return source, target, source + target

        return recomputed_together([value for value, _ in values], again)

    def _rotate_scatter(self, y: Tensor, lmax: int, rows: Rows) -> Tensor:
        return rotations.RotateScatter.apply(y, self.block, lmax, rows, self.kernels, self.values)

    def multiply_scatter(self, matrices: Tensor, y: Tensor) -> Tensor:
        """As :meth:`EdgeOps.multiply_scatter`."""
        return rotations.MultiplyScatter.apply(matrices, y, self.block, self.kernels)

    def scatter(self, values: Tensor) -> Tensor:
        """As :meth:`EdgeOps.scatter`."""
        return rotations.Scatter.apply(values, self.block)

    def _add_gated_network(self, out: Tensor, term: GatedTerm, projected: Tensor | None) -> Tensor:
        """Overwrites ``out``."""
        return add_gated_network_fast(self.run, out, term, projected)

    def gated_product(self, u: Tensor, matrix: Tensor, bias: Tensor, channels: int, a: Tensor | None) -> Tensor:
        """As :meth:`EdgeOps.gated_product`."""
        return self.recomputed(super().gated_product, u, matrix, bias, channels, a)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, transposed: bool = False) -> Tensor:
        """As :meth:`EdgeOps.linear`."""
        return Dense.apply(x, self.run, weight, bias, transposed)

    def gather_mix_rotate(self, x: Tensor, atom: Atom, weights: InnerWeights) -> tuple[Tensor, ...]:
        """As :meth:`EdgeOps.gather_mix_rotate`."""
        of_source = atom is Atom.SOURCE
        if self.block.on_cpu:
            return GatherMixRotate.apply(x, self.run, self.block, of_source, weights, *weights.of_degrees)
        return super().gather_mix_rotate(x, atom, weights)

    def _gate_order(self, of_source: Tensor, of_target: Tensor, scales: Tensor) -> Tensor:
        return so2.GateOrder.apply(of_source, of_target, scales)

    def on_sphere(self, y: Tensor, network: PointwiseNetwork) -> Tensor:
        """As :meth:`EdgeOps.on_sphere`."""
        return on_sphere_fast(y, network, self.run.compute, values=self.values)

    def _compute(self, like: Tensor) -> Compute:
        return self.run.compute

    def recomputed(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """As :meth:`EdgeOps.recomputed`; run again in the backward pass, if the block itself is not."""
        if not self.keep or not torch.is_grad_enabled():
            return function(*arguments)
        return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False, determinism_check="none")


def recomputed_together(values: Sequence[Tensor], again: Callable[[], tuple[Tensor, ...]]) -> list[Rotated]:
    """Values that the first of them that is asked for computes again."""
    shared = cache(again)
    return [Rotated(value, partial(_take, shared, k)) for k, value in enumerate(values)]


def _take(values: Callable[[], tuple[Tensor, ...]], index: int) -> Tensor:
    return values()[index]
