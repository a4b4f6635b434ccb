"""Reductions over runs of equal indices, which are sorted along the last dimension of the index."""

from __future__ import annotations

from torch import Tensor

from .extremum import scatter_max, scatter_min
from .scatter import scatter_sum
from .utils import count


def segment_sum_coo(src: Tensor, index: Tensor, out: Tensor | None = None, dim_size: int | None = None) -> Tensor:
    """Sum of the entries that share an index.

    Args:
        src: values of shape ``(*batch, entries, *rest)``.
        index: int64 of shape ``(*batch, entries)``, where a batch dimension may be 1; sorted along the last dimension.
        out: what to add to, in place; zeros by default. Shape ``(*batch, dim_size, *rest)``.
        dim_size: number of segments of the default ``out``; the largest index plus one by default.

    Returns:
        ``out``, or a new tensor of its shape.

    Raises:
        RuntimeError: shapes or dtypes do not fit, or an index is out of range.
    """
    return scatter_sum(src, index, index.dim() - 1, out, dim_size)


segment_add_coo = segment_sum_coo


def segment_mean_coo(src: Tensor, index: Tensor, out: Tensor | None = None, dim_size: int | None = None) -> Tensor:
    """Mean of the entries that share an index, 0 where there are none; integers are rounded towards 0.

    Shapes and errors as for :func:`segment_sum_coo`. What ``out`` held is added to the sum and not counted.
    """
    dim = index.dim() - 1
    total = scatter_sum(src, index, dim, out, dim_size)
    rounding = None if total.is_floating_point() else "trunc"
    return total.div_(count(index, total, src, dim), rounding_mode=rounding)


def segment_min_coo(
    src: Tensor, index: Tensor, out: Tensor | None = None, dim_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Minimum of the entries that share an index, and its position; see :func:`torch_scatter.scatter_max`."""
    return scatter_min(src, index, index.dim() - 1, out, dim_size)


def segment_max_coo(
    src: Tensor, index: Tensor, out: Tensor | None = None, dim_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Maximum of the entries that share an index, and its position; see :func:`torch_scatter.scatter_max`."""
    return scatter_max(src, index, index.dim() - 1, out, dim_size)


def segment_coo(
    src: Tensor, index: Tensor, out: Tensor | None = None, dim_size: int | None = None, reduce: str = "sum"
) -> Tensor:
    """Reduce the entries that share an index: ``sum`` or ``add``, ``mean``, ``min`` or ``max``.

    Shapes and errors as for :func:`segment_sum_coo`.

    Raises:
        ValueError: ``reduce`` is none of these.
    """
    if reduce in {"sum", "add"}:
        return segment_sum_coo(src, index, out, dim_size)
    if reduce == "mean":
        return segment_mean_coo(src, index, out, dim_size)
    if reduce == "min":
        return segment_min_coo(src, index, out, dim_size)[0]
    if reduce == "max":
        return segment_max_coo(src, index, out, dim_size)[0]
    raise ValueError(f"reduce is {reduce!r}, not 'sum', 'add', 'mean', 'min' or 'max'")


def gather_coo(src: Tensor, index: Tensor, out: Tensor | None = None) -> Tensor:
    """The entry of ``src`` at each index, the reverse of :func:`segment_sum_coo`.

    Args:
        src: values of shape ``(*batch, segments, *rest)``.
        index: int64 of shape ``(*batch, entries)``.
        out: receives the result; shape ``(*batch, entries, *rest)``.

    Returns:
        ``out``, or a new tensor of its shape.

    Raises:
        RuntimeError: shapes or dtypes do not fit, or an index is out of range.
    """
    dim = index.dim() - 1
    rest = src.shape[dim + 1 :]
    index = index[(...,) + (None,) * len(rest)].expand(*src.shape[:dim], index.size(dim), *rest)
    values = src.gather(dim, index)
    return values if out is None else out.copy_(values)
