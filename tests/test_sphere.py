"""The point-wise network on the sphere: its fast form is the plain one."""

from __future__ import annotations

import pytest
import torch
from small_networks import relative_error
from torch import Tensor

from fairchem_hdgnn.models.arithmetic.precision import Compute
from fairchem_hdgnn.models.ops import sphere
from fairchem_hdgnn.models.ops.sphere import PointwiseNetwork, number_per_chunk, on_sphere, on_sphere_fast
from fairchem_hdgnn.models.so3.grid import grid_matrices

CHANNELS = 3
WEIGHTS = {
    "SiLU alone": (False, False, False),
    "a layer": (False, True, False),
    "a layer with biases": (True, True, True),
    "a bias": (True, False, False),
}


def inputs(with_parts: tuple[bool, bool, bool], number: int = 7) -> tuple[Tensor, PointwiseNetwork]:
    generator = torch.Generator().manual_seed(0)
    to_grid, from_grid = grid_matrices(2, (6, 7))
    shapes = ((CHANNELS,), (CHANNELS, CHANNELS), (CHANNELS,))
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]
    parts = [tensor if wanted else None for tensor, wanted in zip(tensors, with_parts)]
    x = torch.randn(number, 9, CHANNELS, generator=generator, dtype=torch.float64, requires_grad=True)
    return x, PointwiseNetwork(to_grid, from_grid[:5], *parts)


@pytest.mark.parametrize("parts", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("per_chunk", [1, 3, 100])
def test_fast_is_plain(monkeypatch: pytest.MonkeyPatch, parts: tuple[bool, bool, bool], per_chunk: int) -> None:
    monkeypatch.setattr(sphere, "NUMBERS_ON_CPU", per_chunk * 42 * CHANNELS)
    x, network = inputs(parts)
    compute = Compute(torch.float64, tf32=False)
    upstream = torch.randn(7, 5, CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    leaves = [x, *(tensor for tensor in network[2:] if tensor is not None)]
    plain, fast = on_sphere(x, network, compute), on_sphere_fast(x, network, compute)
    assert relative_error(fast, plain) < 1e-14
    without_values = on_sphere_fast(x, network, compute, values=False)
    expected = torch.autograd.grad(plain, leaves, upstream)
    for result in (fast, without_values):
        for got, gradient in zip(torch.autograd.grad(result, leaves, upstream), expected):
            assert relative_error(got, gradient) < 1e-13


def test_of_nothing() -> None:
    x, network = inputs((True, True, True), number=0)
    result = on_sphere_fast(x, network, Compute(torch.float64, tf32=False))
    assert result.shape == (0, 5, CHANNELS)
    assert not torch.autograd.grad(result.sum(), x)[0].numel()


def test_widest_product_alone_is_rounded() -> None:
    x, network = inputs((True, True, True))
    x, *tensors = (None if tensor is None else tensor.detach().float() for tensor in (x, *network))
    exact, rounded = (
        on_sphere_fast(x, PointwiseNetwork(*tensors), Compute(dtype, tf32=False))
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert rounded.dtype is torch.float32
    assert 1e-4 < relative_error(rounded, exact) < 2e-2


@pytest.mark.parametrize(("device", "expected"), [("cpu", 40), ("meta", 20_408)])
def test_a_gpu_takes_large_steps(device: str, expected: int) -> None:
    assert number_per_chunk(torch.empty(5, 49, 140, device=device), 70) == expected
    assert number_per_chunk(torch.empty(0, 49, 10**9, device=device), 70) == 1, "a size that split takes"
