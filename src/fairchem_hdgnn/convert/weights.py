"""Weights of another implementation under its own names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from fairchem_hdgnn.errors import ConfigError


class Weights(dict[str, Tensor]):
    """Tensors by name, without the ``module.`` prefixes of ``DistributedDataParallel``.

    Args:
        owner: name of the implementation, for error messages.
        tensors: a state dict.
    """

    def __init__(self, owner: str, tensors: Mapping[str, Tensor]) -> None:
        super().__init__({re.sub(r"^(module\.)+", "", name): tensor for name, tensor in tensors.items()})
        self.owner = owner

    def take(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """The tensor of this name.

        Args:
            name: name in the other implementation.
            shape: shape that the configuration requires; ``None``: any.

        Raises:
            ConfigError: it is missing or has another shape.
        """
        if name not in self:
            raise ConfigError(f"{self.owner}: the weights lack '{name}'; do they belong to this configuration?")
        found = tuple(self[name].shape)
        if shape is not None and found != shape:
            raise ConfigError(f"{self.owner}: '{name}' has shape {found}, but the configuration requires {shape}")
        return self[name]
