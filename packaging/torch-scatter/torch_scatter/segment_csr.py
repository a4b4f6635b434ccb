"""Reductions over ranges of entries, given by the pointers between them."""

from __future__ import annotations

import torch
from torch import Tensor

from .extremum import scatter_max, scatter_min
from .scatter import scatter_sum
from .segment_coo import gather_coo


def segment_sum_csr(src: Tensor, indptr: Tensor, out: Tensor | None = None) -> Tensor:
    """Sum of each range of entries.

    Args:
        src: values of shape ``(*batch, entries, *rest)``.
        indptr: int64 of shape ``(*batch, segments + 1)``, where a batch dimension may be 1, ascending along the last
            dimension. Segment ``i`` has the entries ``indptr[i]`` up to but without ``indptr[i + 1]``.
        out: receives the result, whatever it held; shape ``(*batch, segments, *rest)``.

    Returns:
        ``out``, or a new tensor of its shape.

    Raises:
        RuntimeError: shapes or dtypes do not fit.
    """
    index, dim, segments = _segments(src, indptr)
    return _deliver(_inner(scatter_sum(src, index, dim, dim_size=segments + 2), dim), out)


segment_add_csr = segment_sum_csr


def segment_mean_csr(src: Tensor, indptr: Tensor, out: Tensor | None = None) -> Tensor:
    """Mean of each range, 0 where it is empty; integers are rounded towards 0. Else as :func:`segment_sum_csr`."""
    total = segment_sum_csr(src, indptr)
    rest = total.dim() - indptr.dim()
    counts = indptr.diff(dim=-1).clamp_(min=1)[(...,) + (None,) * rest]
    rounding = None if total.is_floating_point() else "trunc"
    return _deliver(total.div_(counts, rounding_mode=rounding), out)


def segment_min_csr(src: Tensor, indptr: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Minimum of each range, 0 where it is empty, and its position; see :func:`segment_max_csr`."""
    index, dim, segments = _segments(src, indptr)
    values, positions = scatter_min(src, index, dim, dim_size=segments + 2)
    return _deliver(_inner(values, dim), out), _inner(positions, dim)


def segment_max_csr(src: Tensor, indptr: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Maximum of each range, 0 where it is empty, and its position along the entries, their number where it is empty.

    Shapes and errors as for :func:`segment_sum_csr`, gradients as for :func:`torch_scatter.scatter_max`.
    """
    index, dim, segments = _segments(src, indptr)
    values, positions = scatter_max(src, index, dim, dim_size=segments + 2)
    return _deliver(_inner(values, dim), out), _inner(positions, dim)


def segment_csr(src: Tensor, indptr: Tensor, out: Tensor | None = None, reduce: str = "sum") -> Tensor:
    """Reduce each range of entries: ``sum`` or ``add``, ``mean``, ``min`` or ``max``.

    Shapes and errors as for :func:`segment_sum_csr`.

    Raises:
        ValueError: ``reduce`` is none of these.
    """
    if reduce in {"sum", "add"}:
        return segment_sum_csr(src, indptr, out)
    if reduce == "mean":
        return segment_mean_csr(src, indptr, out)
    if reduce == "min":
        return segment_min_csr(src, indptr, out)[0]
    if reduce == "max":
        return segment_max_csr(src, indptr, out)[0]
    raise ValueError(f"reduce is {reduce!r}, not 'sum', 'add', 'mean', 'min' or 'max'")


def gather_csr(src: Tensor, indptr: Tensor, out: Tensor | None = None) -> Tensor:
    """Each segment's value at each of its entries, the reverse of :func:`segment_sum_csr`.

    Args:
        src: values of shape ``(*batch, segments, *rest)``.
        indptr: int64 of shape ``(*batch, segments + 1)``, from 0 to the number of entries.
        out: receives the result; shape ``(*batch, entries, *rest)``.

    Returns:
        ``out``, or a new tensor of its shape.

    Raises:
        RuntimeError: shapes or dtypes do not fit.
    """
    dim = indptr.dim() - 1
    entries = int(indptr.flatten()[-1]) if out is None and src.numel() else 0
    entries = entries if out is None else out.size(dim)
    return gather_coo(src, _segment_of_each(entries, indptr), out)


def _segment_of_each(entries: int, indptr: Tensor) -> Tensor:
    """The segment of each entry, shape ``(*batch, entries)``: -1 before the first one, their number after the last."""
    positions = torch.arange(entries, device=indptr.device).expand(*indptr.shape[:-1], entries)
    return torch.searchsorted(indptr.contiguous(), positions.contiguous(), right=True) - 1


def _segments(src: Tensor, indptr: Tensor) -> tuple[Tensor, int, int]:
    """For each entry its segment counted from 1, so that 0 and the last are for entries outside of all segments."""
    dim = indptr.dim() - 1
    return _segment_of_each(src.size(dim), indptr) + 1, dim, max(indptr.size(dim) - 1, 0)


def _inner(reduced: Tensor, dim: int) -> Tensor:
    """Without the two segments that collect what is outside."""
    return reduced.narrow(dim, 1, reduced.size(dim) - 2).contiguous()


def _deliver(values: Tensor, out: Tensor | None) -> Tensor:
    return values if out is None else out.copy_(values)
