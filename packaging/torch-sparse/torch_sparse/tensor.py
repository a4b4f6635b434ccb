"""The sparse matrix that DimeNet++ and the GemNets find triplets with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from ._missing import left_out
from .storage import SparseStorage


class SparseTensor:
    """A sparse matrix, which may hold several entries at the same row and column.

    Arguments and errors are those of :class:`SparseStorage`, which ``storage`` is.
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
        self.storage = SparseStorage(row, rowptr, col, value, sparse_sizes, is_sorted, trust_data)

    @classmethod
    def from_edge_index(
        cls,
        edge_index: Tensor,
        edge_attr: Tensor | None = None,
        sparse_sizes: tuple[int | None, int | None] | None = None,
        is_sorted: bool = False,
        trust_data: bool = False,
    ) -> SparseTensor:
        """From rows and columns in one tensor of shape ``(2, n)``."""
        return cls(edge_index[0], None, edge_index[1], edge_attr, sparse_sizes, is_sorted, trust_data)

    def coo(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rows, columns and values."""
        return self.storage.row(), self.storage.col(), self.storage.value()

    def csr(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Pointers to rows, columns and values."""
        return self.storage.rowptr(), self.storage.col(), self.storage.value()

    def has_value(self) -> bool:
        """Whether entries have values."""
        return self.storage.has_value()

    def set_value_(self, value: Tensor | None, layout: str | None = None) -> SparseTensor:
        """Replace the values in place; see :meth:`SparseStorage.set_value_`."""
        self.storage.set_value_(value, layout)
        return self

    def set_value(self, value: Tensor | None, layout: str | None = None) -> SparseTensor:
        """The same matrix with other values; see :meth:`SparseStorage.set_value_`."""
        return self._sorted(self.storage.row(), self.storage.col(), None).set_value_(value, layout)

    def sparse_sizes(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        return self.storage.sparse_sizes()

    def sparse_size(self, dim: int) -> int:
        """Number of rows (``dim`` 0) or columns (1)."""
        return self.storage.sparse_size(dim)

    def sizes(self) -> list[int]:
        """Numbers of rows and columns, then the shape of a value."""
        value = self.storage.value()
        return [*self.sparse_sizes(), *(() if value is None else value.shape[1:])]

    def size(self, dim: int) -> int:
        """One of :meth:`sizes`."""
        return self.sizes()[dim]

    def dim(self) -> int:
        """Number of :meth:`sizes`."""
        return len(self.sizes())

    def nnz(self) -> int:
        """Number of entries."""
        return self.storage.col().numel()

    def dtype(self) -> torch.dtype:
        """Dtype of the values, float32 without values."""
        value = self.storage.value()
        return torch.float32 if value is None else value.dtype

    def device(self) -> torch.device:
        """Where rows, columns and values lie."""
        return self.storage.col().device

    def is_cuda(self) -> bool:
        """Whether they lie on a GPU."""
        return self.storage.col().is_cuda

    def requires_grad(self) -> bool:
        """Whether the values require a gradient."""
        value = self.storage.value()
        return value is not None and value.requires_grad

    def __getitem__(self, index: Any) -> SparseTensor:
        """Rows by an int64 tensor of their numbers, shape ``(m,)``, or by a boolean mask, shape ``(num_rows,)``.

        Raises:
            NotImplementedError: any other index.
        """
        if not isinstance(index, Tensor) or index.dim() != 1 or index.dtype not in {torch.long, torch.bool}:
            raise NotImplementedError(left_out(f"SparseTensor[{index!r}]"))
        return self.index_select(0, index.nonzero()[:, 0] if index.dtype == torch.bool else index)

    def index_select(self, dim: int, idx: Tensor) -> SparseTensor:
        """The rows numbered ``idx``, shape ``(m,)``, in that order: a matrix of ``m`` rows.

        Raises:
            NotImplementedError: ``dim`` is not 0.
        """
        if dim != 0:
            raise NotImplementedError(left_out(f"SparseTensor.index_select along dim {dim}"))
        rowptr, col, value = self.csr()
        counts = self.storage.rowcount()[idx]
        row = torch.arange(idx.numel(), device=col.device).repeat_interleave(counts)
        shift = rowptr[idx] - (counts.cumsum(0) - counts)
        entries = torch.arange(row.numel(), device=col.device) + shift[row]
        value = None if value is None else value[entries]
        return self._sorted(row, col[entries], value, (idx.numel(), self.sparse_size(1)))

    def narrow(self, dim: int, start: int, length: int) -> SparseTensor:
        """``length`` rows (``dim`` 0) or columns (1) from number ``start`` on.

        Raises:
            NotImplementedError: ``dim`` is neither 0 nor 1.
        """
        if dim not in {0, 1}:
            raise NotImplementedError(left_out(f"SparseTensor.narrow along dim {dim}"))
        place = [self.storage.row(), self.storage.col()]
        kept = (place[dim] >= start) & (place[dim] < start + length)
        place[dim] = place[dim] - start
        sizes = (length, self.sparse_size(1)) if dim == 0 else (self.sparse_size(0), length)
        value = self.storage.value()
        return self._sorted(place[0][kept], place[1][kept], None if value is None else value[kept], sizes)

    def sum(self, dim: int | None = None) -> Tensor:
        """Sum of the values, each 1 for a matrix without: of all, of each column (``dim`` 0) or of each row (1).

        Raises:
            NotImplementedError: ``dim`` is another number.
        """
        value = self.storage.value()
        value = torch.ones(self.nnz(), device=self.device()) if value is None else value
        if dim is None:
            return value.sum()
        if dim not in {0, 1}:
            raise NotImplementedError(left_out(f"SparseTensor.sum over dim {dim}"))
        index = self.storage.col() if dim == 0 else self.storage.row()
        return value.new_zeros(self.sparse_size(1 - dim), *value.shape[1:]).index_add(0, index, value)

    def to(self, *args: Any, **kwargs: Any) -> SparseTensor:
        """On another device, or with values of another dtype; arguments as for :meth:`torch.Tensor.to`."""
        probe = torch.empty(0, dtype=self.dtype(), device=self.device()).to(*args, **kwargs)
        non_blocking = kwargs.get("non_blocking", False)
        moved = self._map(lambda tensor: tensor.to(probe.device, non_blocking=non_blocking))
        value = moved.storage.value()
        return moved.set_value_(None if value is None else value.to(probe.dtype))

    def cpu(self) -> SparseTensor:
        """On the CPU."""
        return self._map(Tensor.cpu)

    def cuda(self, device: torch.device | str | int | None = None, non_blocking: bool = False) -> SparseTensor:
        """On a GPU, by default the current one."""
        return self._map(lambda tensor: tensor.cuda(device, non_blocking=non_blocking))

    def clone(self) -> SparseTensor:
        """A copy that shares no memory."""
        return self._map(Tensor.clone)

    def detach(self) -> SparseTensor:
        """The same matrix, its values without gradient."""
        return self._map(Tensor.detach)

    def pin_memory(self) -> SparseTensor:
        """A copy in page-locked memory."""
        return self._map(Tensor.pin_memory)

    def share_memory_(self) -> SparseTensor:
        """Move rows, columns and values to shared memory."""
        self._map(Tensor.share_memory_)
        return self

    def __repr__(self) -> str:
        """Sizes, number of entries and dtype."""
        return f"SparseTensor(size={tuple(self.sizes())}, nnz={self.nnz()}, dtype={self.dtype()})"

    def __getattr__(self, name: str) -> NoReturn:
        """Say where to get a method that this stand-in leaves out: an AttributeError."""
        raise AttributeError(left_out(f"SparseTensor.{name}"))

    def _map(self, function: Callable[[Tensor], Tensor]) -> SparseTensor:
        value = self.storage.value()
        value = None if value is None else function(value)
        return self._sorted(function(self.storage.row()), function(self.storage.col()), value)

    def _sorted(
        self, row: Tensor, col: Tensor, value: Tensor | None, sparse_sizes: tuple[int, int] | None = None
    ) -> SparseTensor:
        sparse_sizes = self.sparse_sizes() if sparse_sizes is None else sparse_sizes
        return SparseTensor(row, None, col, value, sparse_sizes, is_sorted=True, trust_data=True)
