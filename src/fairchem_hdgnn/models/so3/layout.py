"""Storage layout of spherical-harmonic coefficients.

Coefficients are stored degree by degree, orders ascending (e3nn's layout): index ``l**2 + l + m``
for degree ``l`` and order ``-l <= m <= l``. The polar axis is y, so ``m = 0`` is rotation about y.
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Int
from torch import Tensor


def num_coefficients(lmax: int) -> int:
    """Number of coefficients up to degree ``lmax``: ``(lmax + 1)**2``."""
    return (lmax + 1) ** 2


@cache
def degrees_and_orders(lmax: int, mmax: int | None = None) -> tuple[tuple[int, int], ...]:
    """All ``(l, m)`` with ``l <= lmax`` and ``|m| <= mmax``, in storage order."""
    mmax = lmax if mmax is None else mmax
    return tuple((l, m) for l in range(lmax + 1) for m in range(-min(l, mmax), min(l, mmax) + 1))


def coefficient_index(lmax: int, mmax: int | None = None) -> Int[Tensor, "rows"]:
    """Positions, in the full layout up to ``lmax``, of the coefficients with ``|m| <= mmax``."""
    return torch.tensor([l * l + l + m for l, m in degrees_and_orders(lmax, mmax)])


def degree_index(lmax: int, mmax: int | None = None) -> Int[Tensor, "rows"]:
    """Degree ``l`` of each coefficient with ``|m| <= mmax``."""
    return torch.tensor([l for l, _ in degrees_and_orders(lmax, mmax)])


def order_index(lmax: int, mmax: int | None = None) -> Int[Tensor, "rows"]:
    """Order ``m`` of each coefficient with ``|m| <= mmax``."""
    return torch.tensor([m for _, m in degrees_and_orders(lmax, mmax)])


def parity_sign(lmax: int) -> Tensor:
    """``(-1)**l`` for each coefficient: multiplying by it maps f(r) to f(-r). Shape [(lmax + 1)**2]."""
    return 1.0 - 2.0 * (degree_index(lmax) % 2)
