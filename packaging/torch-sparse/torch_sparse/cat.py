"""Sparse matrices side by side: how torch_geometric collates them into a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._missing import left_out
from .tensor import SparseTensor


def cat(tensors: Sequence[SparseTensor], dim: int | Sequence[int]) -> SparseTensor:
    """Stack matrices along rows (``dim`` 0), columns (1), or both (``(0, 1)``): then each is a block on the diagonal.

    Args:
        tensors: at least one. Along the other dimension the result is as large as the largest.
        dim: 0, 1 or both.

    Returns:
        The stacked matrix; it has values if all have.

    Raises:
        NotImplementedError: any other ``dim``.
        ValueError: no matrices.
    """
    if not tensors:
        raise ValueError("cat needs at least one matrix")
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    if not dims or not set(dims) <= {0, 1}:
        raise NotImplementedError(left_out(f"torch_sparse.cat along dim {dim}"))
    row, num_rows = _stack([t.storage.row() for t in tensors], [t.sparse_size(0) for t in tensors], 0 in dims)
    col, num_cols = _stack([t.storage.col() for t in tensors], [t.sparse_size(1) for t in tensors], 1 in dims)
    values = [value for t in tensors if (value := t.storage.value()) is not None]
    value = torch.cat(values) if len(values) == len(tensors) else None
    return SparseTensor(row, None, col, value, (num_rows, num_cols), is_sorted=0 in dims, trust_data=True)


def _stack(indices: list[Tensor], sizes: list[int], behind_one_another: bool) -> tuple[Tensor, int]:
    if not behind_one_another:
        return torch.cat(indices), max(sizes)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return torch.cat([index + start for index, start in zip(indices, starts)]), sum(sizes)
