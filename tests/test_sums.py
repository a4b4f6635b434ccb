"""Sums of groups of rows, as on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from fairchem_hdgnn.models.arithmetic.sums import sum_by_group, sum_sorted


@pytest.mark.parametrize("group", [[0, 0, 1, 3, 3, 3], [3, 0, 1, 0, 3, 1], []], ids=["ascending", "any order", "none"])
@pytest.mark.parametrize("width", [(), (2, 3)], ids=["numbers", "matrices"])
def test_sums_of_groups(group: list[int], width: tuple[int, ...]) -> None:
    """Values and gradients; groups without rows are 0."""
    rows, of_row = torch.tensor(group, dtype=torch.long), {"dtype": torch.float64}
    values = torch.randn(len(group), *width, **of_row).requires_grad_()
    wanted = torch.stack([values[rows == k].sum(0) for k in range(5)])
    upstream = torch.randn_like(wanted)
    (gradient,) = torch.autograd.grad(wanted, values, upstream)
    offsets = torch.searchsorted(rows, torch.arange(6)) if group == sorted(group) else None
    for got in (sum_by_group(values, rows, 5), sum_sorted(values, rows, 5), sum_sorted(values, rows, 5, offsets)):
        assert_close(got, wanted)
        assert_close(torch.autograd.grad(got, values, upstream)[0], gradient)
    if group:
        assert torch.autograd.gradgradcheck(lambda x: sum_sorted(x**3, rows, 5), values)
