"""Sums, products and means of the entries that share an index, and ``scatter``, which chooses among all reductions."""

from __future__ import annotations

from torch import Tensor

from .extremum import scatter_max, scatter_min
from .utils import broadcast, count, output_shape


def scatter_sum(
    src: Tensor, index: Tensor, dim: int = -1, out: Tensor | None = None, dim_size: int | None = None
) -> Tensor:
    """Add each entry of ``src`` to the entry of ``out`` at its index along ``dim``.

    Args:
        src: values.
        index: int64, of ``src``'s shape or broadcast to it by :func:`torch_scatter.utils.broadcast`.
        dim: the dimension that is indexed.
        out: what to add to, in place; zeros by default. Has ``src``'s shape except along ``dim``.
        dim_size: size along ``dim`` of the default ``out``; the largest index plus one by default.

    Returns:
        ``out``, or a new tensor of ``src``'s shape with ``dim_size`` along ``dim``.

    Raises:
        RuntimeError: shapes or dtypes do not fit, or an index is out of range.
    """
    index = broadcast(index, src, dim)
    if out is None:
        out = src.new_zeros(output_shape(src, index, dim, dim_size))
    return out.scatter_add_(dim, index, src)


scatter_add = scatter_sum


def scatter_mul(
    src: Tensor, index: Tensor, dim: int = -1, out: Tensor | None = None, dim_size: int | None = None
) -> Tensor:
    """Multiply into ``out``, ones by default; shapes and errors as for :func:`scatter_sum`.

    An empty ``src`` without ``out`` gives zeros, as in the real package.
    """
    index = broadcast(index, src, dim)
    if out is None:
        shape = output_shape(src, index, dim, dim_size)
        out = src.new_ones(shape) if src.numel() else src.new_zeros(shape)
    return out.scatter_reduce_(dim, index, src, reduce="prod")


def scatter_mean(
    src: Tensor, index: Tensor, dim: int = -1, out: Tensor | None = None, dim_size: int | None = None
) -> Tensor:
    """Mean of the entries that share an index, 0 where there are none; integers are rounded down.

    Shapes and errors as for :func:`scatter_sum`. What ``out`` held is added to the sum and not counted.
    """
    total = scatter_sum(src, index, dim, out, dim_size)
    rounding = None if total.is_floating_point() else "floor"
    return total.div_(count(index, total, src, dim), rounding_mode=rounding)


def scatter(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: int | None = None,
    reduce: str = "sum",
) -> Tensor:
    """Reduce the entries of ``src`` that share an index along ``dim``; shapes and errors as for :func:`scatter_sum`.

    Args:
        src: values.
        index: int64, broadcast to ``src``'s shape.
        dim: the dimension that is indexed.
        out: takes part in the reduction and receives the result.
        dim_size: size along ``dim`` of the default ``out``.
        reduce: ``sum`` or ``add``, ``mul``, ``mean``, ``min`` or ``max``.

    Raises:
        ValueError: ``reduce`` is none of these.
    """
    if reduce in {"sum", "add"}:
        return scatter_sum(src, index, dim, out, dim_size)
    if reduce == "mul":
        return scatter_mul(src, index, dim, out, dim_size)
    if reduce == "mean":
        return scatter_mean(src, index, dim, out, dim_size)
    if reduce == "min":
        return scatter_min(src, index, dim, out, dim_size)[0]
    if reduce == "max":
        return scatter_max(src, index, dim, out, dim_size)[0]
    raise ValueError(f"reduce is {reduce!r}, not 'sum', 'add', 'mul', 'mean', 'min' or 'max'")
