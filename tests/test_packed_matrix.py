"""Products with a prepared matrix are ordinary products, in every dtype and for any number of rows."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear, silu

from fairchem_hdgnn.nn.packed_matrix import PackedMatrix

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 0.2, torch.float16: 0.02}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("rows", [0, 1, 37, 300])
def test_products(dtype: torch.dtype, rows: int) -> None:
    weight, bias = torch.randn(48, 80).to(dtype), torch.randn(48).to(dtype)
    x, other = torch.randn(rows, 80).to(dtype), torch.randn(rows, 48)
    matrix = PackedMatrix(weight)
    exact = linear(x.double(), weight.double())
    for got, expected in {
        matrix.product(x): exact,
        matrix.product(x, bias): exact + bias,
        matrix.product(x, bias, activated=True): silu(exact + bias),
        matrix.added_product(x, other.to(dtype)): exact + other,
        matrix.added_product(x, other): exact + other,
    }.items():
        torch.testing.assert_close(got.double(), expected, atol=TOLERANCE[dtype], rtol=2 * TOLERANCE[dtype] / 10)
    assert matrix.added_product(x, other).dtype == torch.promote_types(dtype, torch.float32)


def test_transposed_weights() -> None:
    weight = torch.randn(30, 20)
    x = torch.randn(5, 30)
    torch.testing.assert_close(PackedMatrix(weight.T).product(x), x @ weight)
