"""State shared by all blocks of edges in a layer: packed weights and accumulated gradients."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fairchem_hdgnn.models.arithmetic.precision import Compute
from fairchem_hdgnn.models.ops.packed_matrix import PackedMatrix


class Pass:
    """One layer's messages, forward and backward.

    A block's own graph would give each tensor that all blocks read (atoms' features, weights) a gradient of full size,
    block after block. Fast operations add to one sum instead, in place, and return no gradient to autograd.

    Attributes:
        compute: how products with the networks' matrices run.
    """

    def __init__(self, compute: Compute) -> None:
        self.compute = compute
        self._packed: dict[tuple[int, bool], tuple[Tensor, PackedMatrix]] = {}
        self._gradients: dict[int, _Total] = {}

    def packed(self, weight: Tensor, *, transposed: bool = False) -> PackedMatrix:
        """A weight matrix, or its transpose, in the dtype of products; laid out once until :meth:`forget_packed`."""
        key = (id(weight), transposed)
        if key not in self._packed:
            matrix = weight.detach().to(self.compute.dtype)
            packed = PackedMatrix(matrix.T if transposed else matrix, tf32=self.compute.tf32)
            self._packed[key] = (weight, packed)
        return self._packed[key][1]

    def forget_packed(self) -> None:
        """Give the laid-out matrices back."""
        self._packed.clear()

    def gradient(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor's gradients so far, to add to in place; at least float32."""
        total = self._gradients.get(id(tensor))
        if total is None:
            dtype = torch.promote_types(tensor.dtype, torch.float32)
            # Zeros in the tensor's own order of dimensions, which DistributedDataParallel wants.
            total = _Total(tensor, torch.zeros_like(tensor, dtype=dtype), owned=True)
        elif not total.owned:
            total = _Total(tensor, total.value.clone(), owned=True)
        self._gradients[id(tensor)] = total
        return total.value

    def add_gradient(self, tensor: Tensor, gradient: Tensor) -> None:
        """Add autograd's gradient, which may share memory with other tensors and is not modified."""
        total = self._gradients.get(id(tensor))
        if total is None:
            self._gradients[id(tensor)] = _Total(tensor, gradient, owned=False)
        elif total.owned:
            total.value.add_(gradient)
        else:
            self._gradients[id(tensor)] = _Total(tensor, total.value + gradient, owned=True)


class _Total(NamedTuple):
    tensor: Tensor
    value: Tensor
    owned: bool
