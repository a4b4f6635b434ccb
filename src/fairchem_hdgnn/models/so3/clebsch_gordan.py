"""Clebsch-Gordan coupling with the spherical harmonics of an edge, in the edge's own frame.

In that frame the edge points along y, where only the m = 0 harmonics are non-zero, so the product
``u (x) Y(r)`` couples order m of the input only with orders m and -m of the output (Passaro & Zitnick, 2023).
With natural parity (even ``l1 + l2 + l3``) it couples m with m alone.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor

from fairchem_hdgnn.models.so3.constants import cached_constants


class Path(NamedTuple):
    """One product path: input degree ``l1``, degree ``l2`` of the edge harmonics, output degree ``l3``."""

    l1: int
    l2: int
    l3: int


@cache
def natural_parity_paths(lmax_in: int, lmax_edge: int, l3: int) -> tuple[Path, ...]:
    """Paths into degree ``l3`` allowed for irreps of parity ``(-1)**l``, ordered by ``l1``, then ``l2``."""
    return tuple(
        Path(l1, l2, l3)
        for l1 in range(lmax_in + 1)
        for l2 in range(lmax_edge + 1)
        if abs(l1 - l2) <= l3 <= l1 + l2 and (l1 + l2 + l3) % 2 == 0
    )


@cached_constants
def polar_coupling(path: Path) -> Float[Tensor, "orders"]:
    """Coupling of order m of the input with order m of the output, m = 0..min(l1, l3); float64.

    Conventions of e3nn's tensor products: 'component' normalised harmonics (``Y^l2_0(e_y) = sqrt(2 l2 + 1)``) and
    irreps, so the factor ``sqrt(2 l2 + 1) sqrt(2 l3 + 1)`` precedes the 3j symbol. It is the same for -m.
    """
    l1, l2, l3 = path
    orders = torch.arange(min(l1, l3) + 1)
    symbol = o3.wigner_3j(l1, l2, l3, dtype=torch.float64)[l1 + orders, l2, l3 + orders]
    return symbol * ((2 * l2 + 1) * (2 * l3 + 1)) ** 0.5
