"""Shapes of indices, outputs and counts."""

from __future__ import annotations

import torch
from torch import Tensor


def broadcast(src: Tensor, other: Tensor, dim: int) -> Tensor:
    """Expand an index to the shape of what it indexes.

    Args:
        src: one-dimensional, along ``dim`` of ``other``; or with ``other``'s leading dimensions, of equal size or 1.
        other: the tensor that gives the shape.
        dim: the dimension of ``other`` that a one-dimensional ``src`` runs along, negative from the end.

    Returns:
        A view of ``src`` with ``other``'s shape.

    Raises:
        RuntimeError: the shapes do not fit.
    """
    dim = dim + other.dim() if dim < 0 else dim
    leading = dim if src.dim() == 1 else 0
    trailing = other.dim() - src.dim() - leading
    return src[(None,) * leading + (...,) + (None,) * trailing].expand(other.shape)


def output_shape(src: Tensor, index: Tensor, dim: int, dim_size: int | None) -> list[int]:
    """``src``'s shape with ``dim_size`` along ``dim``; by default the largest index plus one, or 0 for no index."""
    if dim_size is None:
        dim_size = int(index.max()) + 1 if index.numel() else 0
    shape = list(src.shape)
    shape[dim] = dim_size
    return shape


def count(index: Tensor, total: Tensor, src: Tensor, dim: int) -> Tensor:
    """How many entries of ``src`` went into each entry of ``total``, at least 1: int64, of ``total``'s shape."""
    # Most indices have one dimension: counting those in full would cost as much as the sum itself.
    in_full = index.dim() > 1 or not src.numel()
    index, along = (broadcast(index, src, dim), dim) if in_full else (index, 0)
    counts = index.new_zeros(output_shape(index, index, along, total.size(dim)))
    counts.scatter_add_(along, index, torch.ones_like(index))
    return broadcast(counts.clamp_(min=1), total, dim)
