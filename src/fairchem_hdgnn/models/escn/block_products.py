"""Products of one layer's weights with a block of edges, forward and backward.

Names follow :class:`~fairchem_hdgnn.models.nn.so2.SO2Convolution`: inner weights V, outer weights W, scales s.
``hidden`` is ``V z`` per term, ``gated`` is ``s * V z``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import silu

from fairchem_hdgnn.models.escn.geometry import Rotations
from fairchem_hdgnn.models.nn.edge_blocks import Block
from fairchem_hdgnn.models.nn.packed_matrix import PackedMatrix
from fairchem_hdgnn.models.nn.precision import Compute
from fairchem_hdgnn.models.nn.silu import silu_backward
from fairchem_hdgnn.models.nn.so2 import num_terms, order_of_term, terms_of_order
from fairchem_hdgnn.models.so3.layout import num_coefficients

EDGES_PER_GRID_ON_CPU = 32
"""Edges whose grid values are held at a time: one or two megabytes, which stay in the cache."""


@dataclass(frozen=True)
class Activation:
    """Matrices of the point-wise SiLU on the sphere.

    Attributes:
        to_grid: from rows listed order by order (:func:`~fairchem_hdgnn.models.escn.geometry.message_rows`) to points.
        from_grid: from points to rows in storage order.
    """

    to_grid: Float[Tensor, "points rows"]
    from_grid: Float[Tensor, "rows points"]


@dataclass(frozen=True)
class Weights:
    """The parameters of an :class:`~fairchem_hdgnn.models.nn.so2.SO2Convolution`, or their gradients."""

    scale: Float[Tensor, "term_input_hidden edge_channels"]
    scale_bias: Float[Tensor, "term_input_hidden"]
    inner: tuple[Tensor, ...]
    outer: tuple[Tensor, ...]

    @classmethod
    def from_flat(cls, lmax: int, tensors: tuple[Tensor, ...]) -> Weights:
        """From scale weight and bias, inner of each degree, outer of each order."""
        return cls(tensors[0], tensors[1], tensors[2 : 3 + lmax], tensors[3 + lmax :])

    def flat(self) -> tuple[Tensor, ...]:
        """The inverse of :meth:`from_flat`."""
        return (self.scale, self.scale_bias, *self.inner, *self.outer)

    def zeros(self) -> Weights:
        """Zeros to add gradients to, in at least float32."""
        tensors = (torch.zeros_like(t, dtype=torch.promote_types(t.dtype, torch.float32)) for t in self.flat())
        return Weights.from_flat(len(self.inner) - 1, tuple(tensors))


class BlockProducts:
    """What a layer does with a block.

    Args:
        weights: the layer's weights; parts that the rotations' ``mmax`` leaves without effect are not touched.
        rotations: rotations of the edges.
        activation: the point-wise SiLU.
        hidden_channels: H.
        compute: how products with the weights run; all others run in the precision that the caller has set.
    """

    def __init__(
        self, weights: Weights, rotations: Rotations, activation: Activation, hidden_channels: int, compute: Compute
    ) -> None:
        self.weights, self.rotations, self.activation = weights, rotations, activation
        self.hidden_channels, self.num_terms = hidden_channels, num_terms(rotations.mmax)
        self.lmax, self.compute = len(weights.inner) - 1, compute

    def mix(
        self, x: Float[Tensor, "coefficients nodes channels"], index: int
    ) -> Float[Tensor, "coefficients nodes term_hidden"]:
        """``V x`` of input ``index`` for some atoms: V acts on unrotated features."""
        mixed = x.new_empty(*x.shape[:2], self.num_terms * self.hidden_channels)
        for degree, rows, width in self._degrees(x):
            weight = self.weights.inner[degree][index, :, :width]
            with self.compute.products():
                torch.mm(x[rows].flatten(0, 1), weight, out=mixed[rows].flatten(0, 1)[:, :width])
        return mixed

    def mix_backward(
        self,
        x: Float[Tensor, "coefficients nodes channels"],
        index: int,
        gradient: Float[Tensor, "coefficients nodes term_hidden"],
        total: Weights,
    ) -> Float[Tensor, "nodes coefficients channels"]:
        """Gradient of x; adds V's to ``total``."""
        x_gradient = torch.empty_like(x)
        for degree, rows, width in self._degrees(x):
            upstream = gradient[rows].flatten(0, 1)[:, :width]
            self.compute.add_product(total.inner[degree][index, :, :width], x[rows].flatten(0, 1).T, upstream)
            weight = self.weights.inner[degree][index, :, :width]
            with self.compute.products():
                torch.mm(upstream, weight.T, out=x_gradient[rows].flatten(0, 1))
        return x_gradient.transpose(0, 1)

    def turn(
        self, mixed: Float[Tensor, "coefficients nodes term_hidden"], turned: list[Tensor], block: Block
    ) -> list[Float[Tensor, "slots _signs hidden"]]:
        """Hidden values for a block's edges from ``V x`` of its atoms."""
        hidden = []
        for term, matrices in enumerate(turned):
            matrix = matrices[block.slots]
            atom_matrix = matrix.view(mixed.shape[1], -1, matrix.shape[2])
            product = torch.bmm(atom_matrix, self._term_part(mixed, term).transpose(0, 1))
            hidden.append(product.view(*matrix.shape[:2], self.hidden_channels))
        return hidden

    def turn_backward(
        self,
        mixed_gradient: Float[Tensor, "coefficients nodes term_hidden"],
        turned: list[Tensor],
        block: Block,
        hidden_gradient: list[Float[Tensor, "slots _signs hidden"]],
    ) -> None:
        """Write the gradient of ``V x`` of a block's atoms into ``mixed_gradient``."""
        nodes = mixed_gradient.shape[1]
        for term, matrices in enumerate(turned):
            atom_matrix = matrices[block.slots].view(nodes, -1, matrices.shape[2])
            product = torch.bmm(atom_matrix.mT, hidden_gradient[term].view(nodes, -1, self.hidden_channels))
            self._term_part(mixed_gradient, term).copy_(product.transpose(0, 1))

    def unscaled(self, features: Float[Tensor, "slots edge_channels"]) -> Float[Tensor, "slots terms inputs hidden"]:
        """The scales before their SiLU."""
        inputs = self.weights.inner[0].shape[0]
        values = self._scale.product(features, self.weights.scale_bias[: self._scale_width])
        return values.view(-1, self.num_terms, inputs, self.hidden_channels)

    def unscaled_backward(
        self,
        features: Float[Tensor, "slots edge_channels"],
        gradient: Float[Tensor, "slots terms inputs hidden"],
        total: Weights,
    ) -> Float[Tensor, "slots edge_channels"]:
        """Gradient of the edge features; adds the scale layer's to ``total``."""
        flat = gradient.flatten(1)
        self.compute.add_product(total.scale[: self._scale_width], flat.T, features)
        total.scale_bias[: self._scale_width] += flat.sum(0)
        return self._scale_transposed.product(flat)

    def gate(
        self, hidden: list[list[Tensor]], scales: Float[Tensor, "slots terms inputs hidden"]
    ) -> list[Float[Tensor, "slots _signs _term_input_hidden"]]:
        """Gated values of all inputs side by side, per order."""
        gated = []
        for order in range(self.rotations.mmax + 1):
            terms = terms_of_order(order)
            like = hidden[0][terms[0]]
            result = like.new_empty(*like.shape[:2], len(terms), len(hidden), self.hidden_channels)
            for part, term in enumerate(terms):
                for index, values in enumerate(hidden):
                    torch.mul(values[term], scales[:, term, None, index], out=result[:, :, part, index])
            gated.append(result.flatten(2))
        return gated

    def gate_backward(
        self, hidden: list[list[Tensor]], scales: Float[Tensor, "slots terms inputs hidden"], gradient: list[Tensor]
    ) -> Float[Tensor, "slots terms inputs hidden"]:
        """Gradient of the scales; ``hidden`` becomes its own gradient."""
        scales_gradient = torch.empty_like(scales)
        for order, flat in enumerate(gradient):
            terms = terms_of_order(order)
            values = flat.unflatten(2, (len(terms), len(hidden), self.hidden_channels))
            for part, term in enumerate(terms):
                for index, products in enumerate(hidden):
                    upstream = values[:, :, part, index]
                    torch.sum(upstream * products[term], 1, out=scales_gradient[:, term, index])
                    torch.mul(upstream, scales[:, term, None, index], out=products[term])
        return scales_gradient

    def outer(self, gated: list[Tensor], channels: int) -> Float[Tensor, "slots rows channels"]:
        """Outer products, rows listed order by order."""
        y = gated[0].new_empty(gated[0].shape[0], self.activation.to_grid.shape[1], channels)
        for order, part in self._rows_of_orders(y):
            part.copy_(self._outer[order].product(gated[order].flatten(0, 1)).view(part.shape))
        return y

    def outer_backward(
        self, gated: list[Tensor], gradient: Float[Tensor, "slots rows channels"], total: Weights
    ) -> list[Float[Tensor, "slots _signs _term_input_hidden"]]:
        """Gradient of ``gated``; adds W's to ``total``."""
        gradients = []
        for order, part in self._rows_of_orders(gradient):
            flat = part.reshape(part.shape[0] * part.shape[1], -1)
            self.compute.add_product(total.outer[order], gated[order].flatten(0, 1).T, flat)
            gradients.append(self._outer_transposed[order].product(flat).view(gated[order].shape))
        return gradients

    def activate(self, y: Float[Tensor, "slots rows channels"]) -> None:
        """Point-wise SiLU in place; rows change from order by order to storage order."""
        for part in y.split(edges_per_grid(y)):
            to_grid, from_grid = self._grid(part.shape[0])
            torch.bmm(from_grid, silu(torch.bmm(to_grid, part), inplace=True), out=part)

    def activate_backward(self, y: Float[Tensor, "slots rows channels"], gradient: Tensor) -> None:
        """Replace y by its gradient."""
        size = edges_per_grid(y)
        for part, upstream in zip(y.split(size), gradient.split(size)):
            to_grid, from_grid = self._grid(part.shape[0])
            values = torch.bmm(to_grid, part)
            values = silu_backward(torch.bmm(from_grid.mT, upstream), values)
            torch.bmm(to_grid.mT, values, out=part)

    def _degrees(self, x: Tensor) -> Iterator[tuple[int, slice, int]]:
        """For each degree of x [coefficients, ...]: its coefficients and the width of its part of V x."""
        for degree in range(round(x.shape[0] ** 0.5)):
            width = num_terms(min(degree, self.rotations.mmax)) * self.hidden_channels
            yield degree, slice(num_coefficients(degree - 1), num_coefficients(degree)), width

    def _term_part(self, mixed: Tensor, term: int) -> Float[Tensor, "columns nodes hidden"]:
        """The part of V x that a term needs: degrees from its order on, its hidden channels."""
        columns = slice(term * self.hidden_channels, (term + 1) * self.hidden_channels)
        return mixed[num_coefficients(order_of_term(term) - 1) :, :, columns]

    def _rows_of_orders(
        self, y: Float[Tensor, "slots rows channels"]
    ) -> Iterator[tuple[int, Float[Tensor, "slots signs degrees channels"]]]:
        """(order, its part of y)."""
        start = 0
        for order in range(self.rotations.mmax + 1):
            signs, degrees = 1 if order == 0 else 2, self.lmax + 1 - order
            yield order, y[:, start : start + signs * degrees].unflatten(1, (signs, degrees))
            start += signs * degrees

    @cached_property
    def _outer(self) -> list[PackedMatrix]:
        return [self._prepared(weight.T) for weight in self.weights.outer[: self.rotations.mmax + 1]]

    @cached_property
    def _outer_transposed(self) -> list[PackedMatrix]:
        return [self._prepared(weight) for weight in self.weights.outer[: self.rotations.mmax + 1]]

    @cached_property
    def _scale(self) -> PackedMatrix:
        return self._prepared(self.weights.scale[: self._scale_width])

    @cached_property
    def _scale_transposed(self) -> PackedMatrix:
        return self._prepared(self.weights.scale[: self._scale_width].T)

    def _prepared(self, matrix: Tensor) -> PackedMatrix:
        return PackedMatrix(matrix, tf32=self.compute.tf32)

    @property
    def _scale_width(self) -> int:
        return self.num_terms * self.weights.inner[0].shape[0] * self.hidden_channels

    def _grid(self, edges: int) -> tuple[Tensor, Tensor]:
        return self.activation.to_grid.expand(edges, -1, -1), self.activation.from_grid.expand(edges, -1, -1)


def edges_per_grid(y: Float[Tensor, "slots rows channels"]) -> int:
    """Edges of a block whose grid values are formed together."""
    return EDGES_PER_GRID_ON_CPU if y.device.type == "cpu" else max(1, len(y))
