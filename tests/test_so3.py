"""Coefficient layout, Wigner-D matrices, couplings and grids, against e3nn and against their defining equations."""

from __future__ import annotations

import pytest
import torch
from e3nn import o3
from hypothesis import given
from hypothesis import strategies as st
from small_networks import float64_by_default, random_rotations

from fairchem_hdgnn.models.edges import Edges, rows_up_to
from fairchem_hdgnn.models.so3.clebsch_gordan import natural_parity_paths, polar_coupling
from fairchem_hdgnn.models.so3.constants import ConstantsModule
from fairchem_hdgnn.models.so3.frames import edge_frames
from fairchem_hdgnn.models.so3.grid import S2Grid, fibonacci_points, grid_matrices, grid_points
from fairchem_hdgnn.models.so3.layout import (
    coefficient_index,
    degree_index,
    degrees_and_orders,
    num_coefficients,
    parity_sign,
)
from fairchem_hdgnn.models.so3.wigner import axis_exchange, wigner_d

LMAX = 10
AXES = torch.cat([torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)])


def harmonics(lmax: int, r: torch.Tensor, normalization: str = "component") -> torch.Tensor:
    return o3.spherical_harmonics(list(range(lmax + 1)), r, normalize=True, normalization=normalization)


def rotations() -> torch.Tensor:
    """Random ones, the identity, and frames of edges along the axes, where angles are degenerate."""
    return torch.cat([random_rotations(20), torch.eye(3, dtype=torch.float64)[None], edge_frames(AXES)])


def test_layout_is_e3nns():
    index = coefficient_index(3)
    assert index.tolist() == list(range(16))
    assert [str(ir.ir) for ir in o3.Irreps.spherical_harmonics(3)] == ["0e", "1o", "2e", "3o"]
    assert degree_index(3).tolist() == [0, *[1] * 3, *[2] * 5, *[3] * 7]
    # m = 0 is the coefficient that survives in the harmonics of the y axis.
    on_axis = harmonics(3, torch.tensor([0.0, 1.0, 0.0])).nonzero().squeeze(-1)
    assert on_axis.tolist() == [i for i, (_, m) in enumerate(degrees_and_orders(3)) if m == 0]
    kept = coefficient_index(6, 1)
    assert len(kept) == 19
    assert {abs(degrees_and_orders(6)[i][1]) for i in kept.tolist()} == {0, 1}


@pytest.mark.parametrize("lmax", [0, 1, 6, LMAX])
def test_wigner_d_is_orthogonal(lmax):
    d = wigner_d(rotations(), lmax)
    torch.testing.assert_close(d @ d.mT, torch.eye(num_coefficients(lmax)).expand_as(d).double(), rtol=0, atol=1e-12)


def test_wigner_d_is_a_homomorphism():
    first, second = random_rotations(20, 1), random_rotations(20, 2)
    product = wigner_d(first, LMAX) @ wigner_d(second, LMAX)
    torch.testing.assert_close(wigner_d(first @ second, LMAX), product, rtol=0, atol=1e-11)


def test_wigner_d_of_the_identity():
    d = wigner_d(torch.eye(3, dtype=torch.float64)[None], LMAX)[0]
    torch.testing.assert_close(d, torch.eye(num_coefficients(LMAX), dtype=torch.float64), rtol=0, atol=1e-12)


def test_wigner_d_rotates_harmonics():
    r = torch.randn(30, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for rotation in rotations():
        rotated = harmonics(LMAX, r @ rotation.T)
        d = wigner_d(rotation[None], LMAX)[0]
        torch.testing.assert_close(harmonics(LMAX, r) @ d.T, rotated, rtol=0, atol=1e-11)


def test_wigner_d_agrees_with_e3nn():
    rotation = random_rotations(10)
    with float64_by_default():
        expected = o3.Irreps.spherical_harmonics(LMAX).D_from_matrix(rotation)
    torch.testing.assert_close(wigner_d(rotation, LMAX), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("lmax", "mmax"), [(6, 0), (6, 1), (5, 3), (0, 0)])
def test_truncated_wigner_d_is_a_selection_of_rows(lmax, mmax):
    full, kept = wigner_d(rotations(), lmax), coefficient_index(lmax, mmax)
    torch.testing.assert_close(wigner_d(rotations(), lmax, mmax), full[:, kept], rtol=0, atol=1e-14)


def test_wigner_d_in_float32():
    exact = wigner_d(rotations(), LMAX)
    assert (wigner_d(rotations().float(), LMAX).double() - exact).abs().max() < 1e-5


def test_axis_exchange_is_exact():
    for degree in range(LMAX + 1):
        exchange = axis_exchange(degree)
        eye = torch.eye(2 * degree + 1, dtype=torch.float64)
        torch.testing.assert_close(exchange @ exchange, eye, rtol=0, atol=1e-12)
    # It exchanges x and y, which are the first two of e3nn's degree-1 coefficients (x, y, z).
    swap = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]], dtype=torch.float64)
    torch.testing.assert_close(axis_exchange(1), swap, rtol=0, atol=1e-14)


def test_coupling_with_an_edge_is_diagonal_in_the_order():
    """Only m = 0 harmonics are non-zero in the edge frame; even l1 + l2 + l3 couples m with m, odd m with -m."""
    for l1 in range(5):
        for l2 in range(5):
            for l3 in range(abs(l1 - l2), min(l1 + l2, 4) + 1):
                symbol = o3.wigner_3j(l1, l2, l3, dtype=torch.float64)[:, l2]
                orders = torch.arange(-l1, l1 + 1)[:, None], torch.arange(-l3, l3 + 1)[None]
                same, opposite = orders[0] == orders[1], orders[0] == -orders[1]
                even = (l1 + l2 + l3) % 2 == 0
                outside = symbol[~(same if even else opposite)]
                assert outside.numel() == 0 or outside.abs().max() < 1e-14
                if even:
                    scale = ((2 * l2 + 1) * (2 * l3 + 1)) ** 0.5
                    for order, value in enumerate(polar_coupling(natural_path(l1, l2, l3)).tolist()):
                        assert value == pytest.approx(scale * float(symbol[l1 + order, l3 + order]))
                        assert value == pytest.approx(scale * float(symbol[l1 - order, l3 - order]))


def natural_path(l1, l2, l3):
    return next(path for path in natural_parity_paths(l1, l2, l3) if path == (l1, l2, l3))


def test_number_of_paths():
    """The counts that fix the size of the authors' weights: 35 and 106 for L = 6, 23 and 42 for L = 4."""
    count = {lmax: [len(natural_parity_paths(lmax, lmax, l3)) for l3 in range(lmax + 1)] for lmax in (4, 6)}
    assert count[6][:3] == [7, 12, 16]
    assert (sum(count[6]), sum(count[4]), sum(count[4][:3])) == (106, 42, 23)


@pytest.mark.parametrize("lmax", range(LMAX + 1))
def test_grid_transforms_are_inverse(lmax):
    grid = S2Grid(lmax).double()
    x = torch.randn(2, num_coefficients(lmax), 3, dtype=torch.float64)
    torch.testing.assert_close(grid.coefficients(grid.values(x)), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lmax", [0, 3, 6])
def test_grid_is_e3nns(lmax):
    grid = S2Grid(lmax).double()
    x = torch.randn(2, num_coefficients(lmax), dtype=torch.float64)
    with float64_by_default():
        to_grid = o3.ToS2Grid(lmax, grid.resolution, normalization="integral")
        from_grid = o3.FromS2Grid(grid.resolution, lmax, normalization="integral")
        values = to_grid(x)
        back = from_grid(values.square())
    ours = grid.values(x.unsqueeze(-1))
    torch.testing.assert_close(ours.view_as(values), values, rtol=0, atol=1e-11)
    torch.testing.assert_close(grid.coefficients(ours.square()).squeeze(-1), back, rtol=0, atol=1e-11)


def test_opposite_points():
    """Flipping the sign of odd degrees is what takes f(r) to f(-r)."""
    lmax, grid = 4, S2Grid(4).double()
    x = torch.randn(1, num_coefficients(lmax), 2, dtype=torch.float64)
    antipode = harmonics(lmax, -grid_points(grid.resolution), "integral") @ x
    flipped = grid.values(parity_sign(lmax).double().unsqueeze(-1) * x)
    torch.testing.assert_close(flipped, antipode, rtol=0, atol=1e-11)


def test_truncated_grid_matches_the_full_one():
    full, kept = S2Grid(5).double(), coefficient_index(5, 2)
    to_grid, from_grid = grid_matrices(5, (12, 11))
    x = torch.zeros(1, num_coefficients(5), 2, dtype=torch.float64)
    x[:, kept] = torch.randn(1, len(kept), 2, dtype=torch.float64)
    back = from_grid[kept] @ (to_grid[:, kept] @ x[:, kept])
    torch.testing.assert_close(back, x[:, kept], rtol=0, atol=1e-12)
    torch.testing.assert_close(full.coefficients(full.values(x))[:, kept], back, rtol=0, atol=1e-12)


def test_fibonacci_points_cover_the_sphere():
    points = fibonacci_points(128)
    length = points.norm(dim=-1)
    assert length.mean() == pytest.approx(1.0)
    assert (length - 1).abs().max() < 0.1
    second_moment = (points.T @ points) / 128
    torch.testing.assert_close(second_moment, torch.eye(3, dtype=torch.float64) / 3, rtol=0, atol=0.02)


def test_constants_keep_their_digits_through_float32():
    module = ConstantsModule()
    module.register_constant("third", torch.tensor([1 / 3], dtype=torch.float64))
    assert module.third.dtype == torch.float32
    assert float(module.float().double().third) == 1 / 3
    assert "third" not in module.state_dict()


def test_edges_hold_the_entries_that_are_not_zero():
    frames = random_rotations(6)
    whole = Edges.from_frames(torch.zeros(6).long(), torch.arange(6), frames, 6, 5, 3)
    assert whole.wigner.shape == (6, 7, 36)
    for block in (whole.blocks(None)[0], whole.between(2, 4).blocks(None)[0]):
        part = frames if len(block.source) == 6 else frames[2:4]
        rows = block.rotation(4, rows_up_to(4, 2))
        torch.testing.assert_close(rows, wigner_d(part, 4, 2), rtol=0, atol=1e-14)
        # The middle row of R is the direction that goes to y.
        torch.testing.assert_close(block.harmonics(5), harmonics(5, part[:, 1]), rtol=0, atol=1e-12)


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=20), size=st.integers(1, 30))
def test_blocks_hold_every_atom_once_and_are_even(counts: list[int], size: int) -> None:
    target = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.long))
    edges = Edges(torch.zeros_like(target), target, torch.zeros(len(target), 1, 1), len(counts))
    blocks = edges.blocks(size)
    assert [node for block in blocks for node in range(block.first_node, block.last_node)] == list(range(len(counts)))
    sizes = [len(block.source) for block in blocks]
    assert sum(sizes) == len(target)
    assert max(sizes) <= size + max(counts)
    for block in blocks:
        assert set(block.target.tolist()) <= set(range(block.first_node, block.last_node))
