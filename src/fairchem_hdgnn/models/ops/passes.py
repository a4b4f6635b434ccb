"""State shared by all blocks of edges in a layer: packed weights and accumulated gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fairchem_hdgnn.models.arithmetic.precision import Compute
from fairchem_hdgnn.models.ops.packed_matrix import PackedMatrix


class Pass:
    """One layer's messages, forward and backward.

    A block's own graph would give each tensor that all blocks read (atoms' features, weights) a gradient of full size,
    block after block. Fast operations add to one sum instead, in place, and return no gradient to autograd.

    Args:
        compute: how products with the networks' matrices run.
        leaves: the tensors that all blocks read. Others, as parametrised weights are, get their gradients from
            autograd.

    Attributes:
        compute: as given.
    """

    def __init__(self, compute: Compute, leaves: Sequence[Tensor] = ()) -> None:
        self.compute = compute
        self._leaves = {id(leaf): leaf for leaf in leaves}
        self._packed: dict[tuple[int, bool], PackedMatrix] = {}
        self._gradients: dict[int, _Total] = {}

    def packed(self, weight: Tensor, *, transposed: bool = False) -> PackedMatrix:
        """A weight matrix, or its transpose, in the dtype of products; laid out once until :meth:`forget_packed`."""
        if id(weight) not in self._leaves:
            # Every block has its own.
            return self._laid_out(weight, transposed)
        key = (id(weight), transposed)
        if key not in self._packed:
            self._packed[key] = self._laid_out(weight, transposed)
        return self._packed[key]

    def _laid_out(self, weight: Tensor, transposed: bool) -> PackedMatrix:
        other = self._packed.get((id(weight), not transposed))
        if other is not None:
            matrix = other.weight.T
        else:
            matrix = weight.detach().to(self.compute.dtype)
            matrix = matrix.T if transposed else matrix
        return PackedMatrix(matrix, tf32=self.compute.tf32)

    def forget_packed(self) -> None:
        """Give the laid-out matrices back."""
        self._packed.clear()

    def gradient(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor's gradients so far, to add to in place; at least float32.

        Raises:
            RuntimeError: the gradient would be lost.
        """
        total = self._gradients.get(id(tensor))
        if total is None:
            if not self._reaches(tensor):
                raise RuntimeError(
                    f"the gradient of a weight of shape {tuple(tensor.shape)} would be lost: it comes from none of the "
                    "parameters that the messages' module had in the forward pass; use implementation: reference"
                )
            dtype = torch.promote_types(tensor.dtype, torch.float32)
            # Zeros in the tensor's own order of dimensions, which DistributedDataParallel wants.
            total = _Total(tensor, torch.zeros_like(tensor, dtype=dtype), owned=True)
        elif not total.owned:
            total = _Total(tensor, total.value.clone(), owned=True)
        self._gradients[id(tensor)] = total
        return total.value

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a leaf's gradients in the leaf's dtype; autograd's own where it is all there is."""
        found = self._gradients.get(id(tensor))
        return (self.gradient(tensor) if found is None else found.value).to(tensor.dtype)

    def returned(self, tensor: Tensor) -> Tensor | None:
        """What a backward pass returns to autograd for a tensor: nothing for a leaf, else the sum, which ends here."""
        if id(tensor) in self._leaves:
            return None
        total = self._gradients.pop(id(tensor), None)
        return None if total is None else total.value.to(tensor.dtype)

    def _reaches(self, tensor: Tensor) -> bool:
        """Whether the tensor is a leaf or was computed from one."""
        if id(tensor) in self._leaves:
            return True
        nodes, seen = [tensor.grad_fn], set()
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            if id(getattr(node, "variable", None)) in self._leaves:
                return True
            seen.add(node)
            nodes += [following for following, _ in node.next_functions]
        return False

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
    # Kept alive, so that no other tensor gets the id under which the sum is found.
    tensor: Tensor
    value: Tensor
    owned: bool
