"""Parameters of the networks as the chunks use them."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from fairchem_hdgnn.nn.packed_matrix import PackedMatrix
from fairchem_hdgnn.nn.precision import Compute


class NeuralWeights(NamedTuple):
    """Parameters of one ``GatedMlp``, or their gradients."""

    first: Float[Tensor, "hidden inputs"]
    first_bias: Float[Tensor, "hidden"]
    second: Float[Tensor, "outputs hidden"]
    second_bias: Float[Tensor, "outputs"]


class NeuralMatrices:
    """One ``GatedMlp`` with its matrices prepared for products with chunks.

    Args:
        weights: the parameters.
        compute: how products run; the first bias is added in full precision.
    """

    def __init__(self, weights: NeuralWeights, compute: Compute) -> None:
        self._weights, self._compute = weights, compute
        self.first_bias, self.second_bias = weights.first_bias, weights.second_bias.to(compute.dtype)

    @cached_property
    def first(self) -> PackedMatrix:
        """The first layer's matrix."""
        return self._prepared(self._weights.first)

    @cached_property
    def second(self) -> PackedMatrix:
        """The second layer's matrix."""
        return self._prepared(self._weights.second)

    @cached_property
    def first_transposed(self) -> PackedMatrix:
        """From gradients of the first layer's result to those of its input."""
        return self._prepared(self._weights.first.T)

    @cached_property
    def second_transposed(self) -> PackedMatrix:
        """From gradients of the second layer's result to those of its input."""
        return self._prepared(self._weights.second.T)

    def _prepared(self, matrix: Tensor) -> PackedMatrix:
        return PackedMatrix(matrix.to(self._compute.dtype), tf32=self._compute.tf32)
