"""Rows, columns and values of a sparse matrix, sorted by row and then by column."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from ._missing import left_out


class SparseStorage:
    """The entries of a sparse matrix: ``n`` rows, columns and, if it has values, values.

    Args:
        row: int64, shape ``(n,)``.
        rowptr: instead of ``row``, where each row starts and the last one ends: int64, shape ``(num_rows + 1,)``.
        col: int64, shape ``(n,)``.
        value: shape ``(n, *rest)``.
        sparse_sizes: numbers of rows and columns; by default as few as hold all entries.
        is_sorted: the entries are sorted by row and then by column already.
        trust_data: no row or column lies outside of ``sparse_sizes``: saves a look, for which a GPU must stop.

    Raises:
        ValueError: rows or columns are missing, of another length or dtype, or outside of ``sparse_sizes``.
    """

    def __init__(
        self,
        row: Tensor | None = None,
        rowptr: Tensor | None = None,
        col: Tensor | None = None,
        value: Tensor | None = None,
        sparse_sizes: tuple[int | None, int | None] | None = None,
        is_sorted: bool = False,
        trust_data: bool = False,
    ) -> None:
        if col is None:
            raise ValueError("a sparse matrix needs col")
        if row is None:
            if rowptr is None:
                raise ValueError("a sparse matrix needs row or rowptr")
            rows = torch.arange(rowptr.numel() - 1, device=rowptr.device)
            row = rows.repeat_interleave(rowptr.diff(), output_size=col.numel())
        for name, index in (("row", row), ("col", col)):
            if index.dtype != torch.long or index.shape != (col.numel(),):
                raise ValueError(f"{name} is {index.dtype} of shape {tuple(index.shape)}, not int64 ({col.numel()},)")
        num_rows, num_cols = sparse_sizes or (None, None)
        if num_rows is None and rowptr is not None:
            num_rows = rowptr.numel() - 1
        self._sparse_sizes = (_extent(row, num_rows, trust_data), _extent(col, num_cols, trust_data))
        if value is not None:
            self._check(value, col)
        if not is_sorted:
            # Stable: periodic graphs have several edges between the same two atoms.
            order = (row * self._sparse_sizes[1] + col).argsort(stable=True)
            row, col = row[order], col[order]
            value = None if value is None else value[order]
        self._row, self._col, self._value = row.contiguous(), col.contiguous(), value
        self._rowptr: Tensor | None = None

    def row(self) -> Tensor:
        """The row of each entry, ascending, shape ``(n,)``."""
        return self._row

    def col(self) -> Tensor:
        """The column of each entry, ascending within a row, shape ``(n,)``."""
        return self._col

    def value(self) -> Tensor | None:
        """The value of each entry, shape ``(n, *rest)``; None for a matrix without values."""
        return self._value

    def has_value(self) -> bool:
        """Whether entries have values."""
        return self._value is not None

    def set_value_(self, value: Tensor | None, layout: str | None = None) -> SparseStorage:
        """Replace the values in place, in the order of rows and columns.

        Raises:
            NotImplementedError: ``layout`` is ``csc``.
            ValueError: ``value`` has another length.
        """
        if layout == "csc":
            raise NotImplementedError(left_out("set_value with layout='csc'"))
        if value is not None:
            self._check(value, self._col)
        self._value = value
        return self

    def rowptr(self) -> Tensor:
        """Where each row starts and the last one ends, shape ``(num_rows + 1,)``."""
        if self._rowptr is None:
            self._rowptr = _pointers(self._row, self._sparse_sizes[0])
        return self._rowptr

    def rowcount(self) -> Tensor:
        """How many entries each row has, shape ``(num_rows,)``."""
        return self.rowptr().diff()

    def csr2csc(self) -> Tensor:
        """The entries' order by column and then by row, shape ``(n,)``."""
        return (self._col * self._sparse_sizes[0] + self._row).argsort(stable=True)

    def colptr(self) -> Tensor:
        """Where each column starts and the last one ends when sorted by column, shape ``(num_cols + 1,)``."""
        return _pointers(self._col.sort()[0], self._sparse_sizes[1])

    def colcount(self) -> Tensor:
        """How many entries each column has, shape ``(num_cols,)``."""
        return self.colptr().diff()

    def sparse_sizes(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        return self._sparse_sizes

    def sparse_size(self, dim: int) -> int:
        """Number of rows (``dim`` 0) or columns (1)."""
        return self._sparse_sizes[dim]

    def __getattr__(self, name: str) -> NoReturn:
        """Say where to get a method that this stand-in leaves out: an AttributeError."""
        raise AttributeError(left_out(f"SparseStorage.{name}"))

    @staticmethod
    def _check(value: Tensor, col: Tensor) -> None:
        if value.size(0) != col.numel() or value.device != col.device:
            raise ValueError(f"{value.size(0)} values on {value.device} for {col.numel()} entries on {col.device}")


def _extent(index: Tensor, size: int | None, trust_data: bool) -> int:
    if size is not None and (trust_data or not index.numel()):
        return size
    needed = int(index.max()) + 1 if index.numel() else 0
    if size is not None and needed > size:
        raise ValueError(f"index {needed - 1} is outside of size {size}")
    return needed if size is None else size


def _pointers(index: Tensor, size: int) -> Tensor:
    return torch.searchsorted(index, torch.arange(size + 1, device=index.device))
