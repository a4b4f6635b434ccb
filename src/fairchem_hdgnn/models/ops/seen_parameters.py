"""The parameters of a module as a forward pass saw them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

Result = TypeVar("Result")


class SeenParameters:
    """A module's parameters, for a backward pass that runs the module again.

    They are not saved through autograd, since hooks on saved tensors (save_on_cpu, torch.utils.checkpoint) give other
    tensors back; nor taken from the module, which no longer has those of a torch.func.functional_call.

    Args:
        module: the module.
        parameters: those that it uses.

    Attributes:
        leaves: the parameters; in place of one computed from others, a leaf with its values.
    """

    def __init__(self, module: nn.Module, parameters: Sequence[Tensor]) -> None:
        self.leaves = [parameter if parameter.grad_fn is None else as_leaf(parameter) for parameter in parameters]
        self._module = module
        self._places: list[_Place] = []
        self._versions: list[int] = []
        if torch.is_grad_enabled():
            leaf_of = {id(parameter): leaf for parameter, leaf in zip(parameters, self.leaves)}
            self._places = [
                (owner, name, f"{path}.{name}", leaf_of[id(parameter)])
                for path, owner in module.named_modules(prefix="module")
                for name, parameter in owner._parameters.items()
                if id(parameter) in leaf_of
            ]
            self._versions = [leaf._version for leaf in self.leaves]

    def check_unchanged(self) -> None:
        """As autograd does for what it has saved.

        Raises:
            RuntimeError: an optimizer, for example, has changed a parameter in place.
        """
        if self._versions != [leaf._version for leaf in self.leaves]:
            raise RuntimeError(
                "a parameter has been modified by an inplace operation between the forward and the backward pass: "
                "compute the prediction again"
            )

    def within(self, function: Callable[[], Result]) -> Result:
        """``function()``, while the module has :attr:`leaves`."""
        if all(getattr(owner, name) is leaf for owner, name, _, leaf in self._places):
            return function()
        leaves = {path: leaf for _, _, path, leaf in self._places}
        return torch.func.functional_call(_Around(self._module), leaves, (function,))


_Place = tuple[nn.Module, str, str, Tensor]


class _Around(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[[], Result]) -> Result:
        return function()


def as_leaf(tensor: Tensor) -> Tensor:
    """The same values, detached from the graph."""
    return tensor.detach().requires_grad_(tensor.requires_grad)
