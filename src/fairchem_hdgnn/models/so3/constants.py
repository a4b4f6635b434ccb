"""Modules with constant tensors that are exact in every precision."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

Function = TypeVar("Function", bound=Callable[..., Any])


def cached_constants(function: Function) -> Function:
    """Cache the tensors of a function of hashable arguments, for training too if evaluation asks for them first.

    A tensor made in inference mode cannot take part in a backward pass later.
    """

    @functools.lru_cache(maxsize=1024)
    @functools.wraps(function)
    def cached(*arguments: Any) -> Any:
        with torch.inference_mode(False):
            return function(*arguments)

    return cast("Function", cached)


class ConstantsModule(nn.Module):
    """A module whose constants are kept in float64 and rounded again when the module changes dtype.

    A plain buffer made in float32 would stay rounded after ``.double()``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._exact: dict[str, Tensor] = {}

    def register_constant(self, name: str, value: Tensor) -> None:
        """Add ``value`` (float64) as a non-persistent buffer in the default dtype."""
        self._exact[name] = value.detach()
        self.register_buffer(name, value.detach().to(torch.get_default_dtype()), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        super()._apply(fn, recurse)
        for name, exact in self._exact.items():
            current = getattr(self, name)
            setattr(self, name, exact.to(device=current.device, dtype=current.dtype))
        return self
