"""Numerical precision of each part of a network.

Geometry, Wigner-D matrices, norms, equivariant products, sums and output heads are exact in float32, regardless of
autocast and torch's setting for TF32. Only the point-wise and edge networks, which do nearly all the arithmetic, run
in autocast's bfloat16 or float16, or in TF32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from fairchem_hdgnn.models.arithmetic.tf32 import allow_tf32, tf32_allowed

_NETWORKS_IN_TF32: ContextVar[bool] = ContextVar("networks_in_tf32", default=False)


class Compute(NamedTuple):
    """How the large matrix products of networks run; fixed in the forward pass, and the same in the backward pass.

    Attributes:
        dtype: of the factors.
        tf32: whether those in float32 may run in TF32.
    """

    dtype: torch.dtype
    tf32: bool

    @classmethod
    def chosen(cls, like: Tensor) -> Compute:
        """Autocast's dtype if it is on for the device of ``like``, else that of ``like``; TF32 where requested.

        TF32 is requested by :func:`networks_in_tf32` or by torch's own setting.
        """
        device = like.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else like.dtype
        return cls(dtype, _NETWORKS_IN_TF32.get() or tf32_allowed())

    def products(self) -> AbstractContextManager[None]:
        """A context for products of the networks' matrices."""
        return allow_tf32(self.tf32)

    def add_product(self, total: Tensor, a: Tensor, b: Tensor) -> None:
        """``total += a @ b``, summed in the dtype of ``total``."""
        with self.products():
            if total.dtype == a.dtype:
                total.addmm_(a, b)
            else:
                total.add_(a @ b)


@contextmanager
def networks_in_tf32() -> Iterator[None]:
    """A context for forward passes whose networks, and nothing else, run in TF32, backward too."""
    token = _NETWORKS_IN_TF32.set(True)
    try:
        yield
    finally:
        _NETWORKS_IN_TF32.reset(token)


@contextmanager
def full_precision(like: Tensor) -> Iterator[None]:
    """A context without TF32, and without autocast on the device of ``like``."""
    with torch.autocast(like.device.type, enabled=False), allow_tf32(False):
        yield
