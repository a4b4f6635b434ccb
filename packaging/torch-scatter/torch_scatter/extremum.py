"""Minima and maxima of the entries that share an index, and their positions."""

from __future__ import annotations

import torch
from torch import Tensor

from .utils import broadcast, output_shape


def scatter_min(
    src: Tensor, index: Tensor, dim: int = -1, out: Tensor | None = None, dim_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Minimum of the entries that share an index, and its position; see :func:`scatter_max`."""
    return _scatter_extremum(src, index, dim, out, dim_size, "amin")


def scatter_max(
    src: Tensor, index: Tensor, dim: int = -1, out: Tensor | None = None, dim_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Maximum of the entries that share an index, and its position.

    Args:
        src: values. NaN is ignored, and so is an infinity that no finite number loses to.
        index: int64, of ``src``'s shape or broadcast to it.
        dim: the dimension that is indexed.
        out: takes part in the maximum and receives it in place. Has ``src``'s shape except along ``dim``.
        dim_size: size along ``dim`` of the default ``out``; the largest index plus one by default.

    Returns:
        The maxima, 0 where there is no entry and no ``out``; and positions along ``dim`` of ``src``, int64 and of the
        same shape: the first of equal entries, ``src.size(dim)`` where none beats ``out``. The gradient of a maximum
        goes to the entry at its position alone.

    Raises:
        RuntimeError: shapes or dtypes do not fit, or an index is out of range.
    """
    return _scatter_extremum(src, index, dim, out, dim_size, "amax")


def _scatter_extremum(
    src: Tensor, index: Tensor, dim: int, out: Tensor | None, dim_size: int | None, reduce: str
) -> tuple[Tensor, Tensor]:
    index = broadcast(index, src, dim)
    limits = torch.finfo(src.dtype) if src.is_floating_point() else torch.iinfo(src.dtype)
    worst = limits.min if reduce == "amax" else limits.max
    keys = src.detach()
    if src.is_floating_point():
        keys = keys.nan_to_num(nan=worst, posinf=torch.inf, neginf=-torch.inf)
    start = src.new_full(output_shape(src, index, dim, dim_size), worst) if out is None else out.detach()
    best = start.scatter_reduce(dim, index, keys, reduce=reduce)

    none = src.size(dim)
    positions = broadcast(torch.arange(none, device=src.device), src, dim)
    candidates = positions.masked_fill(keys != best.gather(dim, index), none)
    first = torch.full_like(best, none, dtype=torch.long).scatter_reduce_(dim, index, candidates, reduce="amin")
    # An entry that only equals the start is no improvement: not even of an empty segment.
    first = first.masked_fill(best == start, none)

    shape = list(src.shape)
    shape[dim] = 1
    values = torch.cat([src, src.new_zeros(shape)], dim).gather(dim, first)
    if out is None:
        return values, first
    return out.copy_(torch.where(first < none, values, out)), first
