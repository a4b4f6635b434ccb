"""Storage layout of spherical-harmonic coefficients.

Coefficients are stored degree by degree, orders ascending (e3nn's layout): index ``l**2 + l + m``
for degree ``l`` and order ``-l <= m <= l``. The polar axis is y: a rotation about y leaves ``m = 0`` unchanged, and
mixes m only with -m.
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float, Int
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


def degree_index(lmax: int) -> Int[Tensor, "coefficients"]:
    """Degree ``l`` of each coefficient."""
    return torch.tensor([l for l, _ in degrees_and_orders(lmax)])


def parity_sign(lmax: int) -> Tensor:
    """``(-1)**l`` for each coefficient: multiplying by it maps f(r) to f(-r). Shape [(lmax + 1)**2]."""
    return 1.0 - 2.0 * (degree_index(lmax) % 2)


def add_low_degrees(x: Tensor, low: Float[Tensor, "n low channels"]) -> Tensor:
    """Degree-wise sum of coefficients and of some that have only the lowest degrees."""
    rows = low.shape[1]
    return torch.cat([x[:, :rows] + low, x[:, rows:]], dim=1)
