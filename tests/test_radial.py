"""Distance bases."""

from __future__ import annotations

import torch

from fairchem_hdgnn.models.nn.radial import GaussianBasis

CUTOFF, CENTRES, WIDTH = 5.0, 101, 1.5


def test_gaussians() -> None:
    distance = torch.linspace(0.5, CUTOFF, 40, dtype=torch.float64)
    values = GaussianBasis(CUTOFF, CENTRES, WIDTH).double()(distance)
    centres = torch.linspace(0.0, CUTOFF, CENTRES, dtype=torch.float64)
    deviation = WIDTH * CUTOFF / (CENTRES - 1)
    expected = torch.exp(-0.5 * ((distance[:, None] - centres) / deviation) ** 2)
    assert torch.allclose(values, expected, rtol=1e-4, atol=1e-12)  # float32 centres


def test_no_value_is_so_small_that_products_with_it_are_denormal() -> None:
    values = GaussianBasis(CUTOFF, CENTRES, WIDTH)(torch.linspace(0.5, CUTOFF, 997))
    assert 0 < values.count_nonzero() < values.numel()
    assert values[values > 0].min() >= 2.0**-64
