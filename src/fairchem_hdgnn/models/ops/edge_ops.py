"""The operations that messages are made of, on one block of edges."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fairchem_hdgnn.models.edges import EdgeBlock, Rows
from fairchem_hdgnn.models.ops import rotations
from fairchem_hdgnn.models.ops.gated_network import (
    GatedTerm,
    Rotated,
    add_gated_network,
    add_gated_network_fast,
)
from fairchem_hdgnn.models.ops.passes import Pass
from fairchem_hdgnn.models.ops.rotations import BatchedRotations


class Atom(Enum):
    """Which atom of an edge."""

    SOURCE = "source"
    TARGET = "target"


class EdgeOps:
    """The plain equations.

    Args:
        block: the edges.
        run: what all blocks share.
        keep: whether the backward pass will find what the forward pass stores.
    """

    def __init__(self, block: EdgeBlock, run: Pass, *, keep: bool = True) -> None:
        self.block, self.run, self.keep = block, run, keep

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
        self, y: Float[Tensor, "edges rows channels"], lmax: int, rows: Rows
    ) -> Float[Tensor, "block_nodes coefficients channels"]:
        """``sum_e D^T y`` into each atom of the block; y has these rows in the edges' frames."""
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

    def add_gated_network(
        self, out: Float[Tensor, "edges rows channels"], term: GatedTerm
    ) -> Float[Tensor, "edges rows channels"]:
        """:func:`~fairchem_hdgnn.models.ops.gated_network.add_gated_network`."""
        return add_gated_network(out, term)

    def recomputed(self, function: Callable[..., Any], *tensors: Tensor) -> Any:
        """``function(*tensors)``, whose intermediate results need not be kept for the backward pass."""
        return function(*tensors)

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
        """As :meth:`EdgeOps.gather_rotate_pair`; what is not kept is rotated once more in the backward pass."""
        values = super().gather_rotate_pair(x_source, x_target, lmax, rows)
        if not self.keep:
            return values

        @cache
        def again() -> tuple[Tensor, ...]:
            matrices = self.block.rotation(lmax, rows)
            source = self.kernels.of_source(matrices, x_source.detach(), self.block)
            target = self.kernels.of_target(matrices, x_target.detach(), self.block)
            return source, target, source + target

        return [Rotated(value, partial(_take, again, k)) for k, (value, _) in enumerate(values)]

    def rotate_scatter(self, y: Tensor, lmax: int, rows: Rows) -> Tensor:
        """As :meth:`EdgeOps.rotate_scatter`."""
        return rotations.RotateScatter.apply(y, self.block, lmax, rows, self.kernels)

    def multiply_scatter(self, matrices: Tensor, y: Tensor) -> Tensor:
        """As :meth:`EdgeOps.multiply_scatter`."""
        return rotations.MultiplyScatter.apply(matrices, y, self.block, self.kernels)

    def scatter(self, values: Tensor) -> Tensor:
        """As :meth:`EdgeOps.scatter`."""
        return rotations.Scatter.apply(values, self.block)

    def add_gated_network(self, out: Tensor, term: GatedTerm) -> Tensor:
        """As :meth:`EdgeOps.add_gated_network`; overwrites ``out``."""
        return add_gated_network_fast(self.run, out, term)

    def recomputed(self, function: Callable[..., Any], *tensors: Tensor) -> Any:
        """As :meth:`EdgeOps.recomputed`; run again in the backward pass, if the block itself is not."""
        if not self.keep or not torch.is_grad_enabled():
            return function(*tensors)
        return checkpoint(function, *tensors, use_reentrant=False, preserve_rng_state=False, determinism_check="none")


def _take(values: Callable[[], tuple[Tensor, ...]], index: int) -> Tensor:
    return values()[index]
