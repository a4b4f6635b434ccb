"""Sums of groups of rows that repeat to the last bit.

torch's ``index_add_`` adds in any order on a GPU, so that two runs differ by rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


def index_add_repeats(device: torch.device) -> bool:
    """Whether ``index_add_`` gives the same bits in every run."""
    return device.type == "cpu"


def sum_by_group(
    values: Float[Tensor, "n *dims"],
    group: Int[Tensor, "n"],
    num_groups: int,
    offsets: Int[Tensor, "num_groups_plus_one"] | None = None,
) -> Float[Tensor, "num_groups *dims"]:
    """Sum of the values of each group, in their order.

    Args:
        values: the values.
        group: the group of each, below ``num_groups``.
        num_groups: number of sums.
        offsets: where each group starts, followed by n, if groups are known to ascend.
    """
    if index_add_repeats(values.device):
        return values.new_zeros(num_groups, *values.shape[1:]).index_add_(0, group, values)
    return sum_sorted(values, group, num_groups, offsets)


def sum_sorted(
    values: Float[Tensor, "n *dims"],
    group: Int[Tensor, "n"],
    num_groups: int,
    offsets: Int[Tensor, "num_groups_plus_one"] | None = None,
) -> Float[Tensor, "num_groups *dims"]:
    """As :func:`sum_by_group` on a GPU: range by range."""
    return _SumSorted.apply(values, group, num_groups, offsets)


def sum_in_order(
    values: Float[Tensor, "n *dims"], offsets: Int[Tensor, "sums_plus_one"]
) -> Float[Tensor, "sums *dims"]:
    """Sums of the ranges between the offsets, each from its first value to its last. No gradient."""
    rows = values.reshape(len(values), values.shape[1:].numel())
    sums = torch.segment_reduce(rows, "sum", offsets=offsets, axis=0, unsafe=True)
    return sums.view(len(offsets) - 1, *values.shape[1:])


class _SumSorted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Tensor, num_groups: int, offsets: Tensor | None) -> Tensor:
        ctx.save_for_backward(group)
        if offsets is None:
            order = torch.argsort(group, stable=True)
            values, ascending = values.index_select(0, order), group.index_select(0, order)
            offsets = torch.searchsorted(ascending, torch.arange(num_groups + 1, device=group.device))
        return sum_in_order(values, offsets)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (group,) = ctx.saved_tensors
        return gradient.index_select(0, group), None, None, None
