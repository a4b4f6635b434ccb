"""METP and the fully connected product in the edge frame: equal to e3nn's tensor products, and equivariant."""

from __future__ import annotations

import math
from functools import cache

import e3nn
import pytest
import torch
from e3nn import o3
from e3nn.nn import Gate
from small_networks import float64_by_default, random_rotations, randomise, separate_edges

from fairchem_hdgnn.convert.authors_hdgnn import split_product_weights
from fairchem_hdgnn.models.hdgnn.edge_product import EdgeProduct, GatedEdgeProduct
from fairchem_hdgnn.models.hdgnn.options import TensorProduct
from fairchem_hdgnn.models.hdgnn.tensor_product import EquivariantTerm
from fairchem_hdgnn.models.so3.clebsch_gordan import Path, natural_parity_paths
from fairchem_hdgnn.models.so3.frames import edge_frames
from fairchem_hdgnn.models.so3.wigner import wigner_d

EDGES, CHANNELS, SCALARS = 4, 2, 3


def irreps(lmax: int, channels: int, scalars: int | None = None) -> o3.Irreps:
    """``scalars`` x 0e + ``channels`` x 1o + ...: natural parity."""
    counts = [channels if scalars is None else scalars] + [channels] * lmax
    return o3.Irreps([(count, (degree, (-1) ** degree)) for degree, count in enumerate(counts)])


@cache
def e3nn_product(lmax: int, channels_in: int) -> o3.FullyConnectedTensorProduct:
    """e3nn's product of x and S(r) up to degree lmax; each output degree is independent of the others."""
    before = e3nn.get_optimization_defaults()
    e3nn.set_optimization_defaults(jit_mode="eager", jit_script_fx=False)
    try:
        with float64_by_default():
            return o3.FullyConnectedTensorProduct(
                irreps(lmax, channels_in),
                o3.Irreps.spherical_harmonics(lmax),
                irreps(lmax, CHANNELS, SCALARS),
                path_normalization="none",
                irrep_normalization="component",
                internal_weights=False,
            )
    finally:
        e3nn.set_optimization_defaults(**before)


def to_e3nn(x: torch.Tensor) -> torch.Tensor:
    """[n, coefficients, channels] -> e3nn's layout: degree by degree, channels outside orders."""
    lmax = round(x.shape[1] ** 0.5) - 1
    degrees = x.split([2 * degree + 1 for degree in range(lmax + 1)], dim=1)
    return torch.cat([part.transpose(1, 2).flatten(1) for part in degrees], 1)


def path_weights(product: o3.FullyConnectedTensorProduct, flat: torch.Tensor, lmax: int) -> list[torch.Tensor]:
    """e3nn's flat weights as :class:`EdgeProduct` has them: per output degree, [paths, channels_in, width]."""
    of_path = {}
    sizes = [math.prod(path.path_shape) for path in product.instructions]
    for path, weight in zip(product.instructions, flat.split(sizes)):
        of_path[Path(path.i_in1, path.i_in2, path.i_out)] = weight.view(*path.path_shape)[:, 0]
    return [torch.stack([of_path[path] for path in natural_parity_paths(lmax, lmax, l3)]) for l3 in range(lmax + 1)]


def random_edges(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(EDGES, 3, generator=generator, dtype=torch.float64)
    vectors[0] = torch.tensor([0.0, -2.0, 0.0])  # along the polar axis
    return vectors, torch.rand(EDGES, generator=generator, dtype=torch.float64) * 6


@pytest.mark.parametrize("channels_in", [1, 2], ids=["metp", "fully_connected"])
@pytest.mark.parametrize("lmax", range(1, 9))
def test_equals_e3nn_in_value_and_gradient(lmax, channels_in):
    reference = e3nn_product(lmax, channels_in)
    vectors, roll = random_edges()
    harmonics = o3.spherical_harmonics(list(range(lmax + 1)), vectors, True, "component")
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(EDGES, (lmax + 1) ** 2, channels_in, generator=generator, dtype=torch.float64, requires_grad=True)
    flat = torch.randn(reference.weight_numel, generator=generator, dtype=torch.float64, requires_grad=True)
    everything = reference(to_e3nn(x), harmonics, flat)
    scalars, higher = everything.split([SCALARS, everything.shape[1] - SCALARS], dim=1)
    for lmax_out in range(1, lmax + 1):
        product = EdgeProduct(lmax, lmax_out, channels_in, CHANNELS, SCALARS).double()
        for weight, theirs in zip(product.weight, path_weights(reference, flat, lmax)):
            weight.data.copy_(theirs)
        frames = edge_frames(vectors, roll)
        ours, rotated = product(wigner_d(frames, lmax, lmax_out) @ x)
        back = wigner_d(frames, lmax_out)[:, 1:, 1:].mT @ rotated
        back = to_e3nn(torch.cat([torch.zeros(EDGES, 1, CHANNELS), back], 1))[:, CHANNELS:]
        expected = higher[:, : back.shape[1]]
        torch.testing.assert_close(ours, scalars, rtol=0, atol=1e-10)
        torch.testing.assert_close(back, expected, rtol=0, atol=1e-10)

        cotangent = torch.randn(EDGES, SCALARS + back.shape[1], generator=generator, dtype=torch.float64)
        x_grad, *weight_grads = torch.autograd.grad(torch.cat([ours, back], 1), [x, *product.weight], cotangent)
        expected_grads = torch.autograd.grad(torch.cat([scalars, expected], 1), [x, flat], cotangent, retain_graph=True)
        torch.testing.assert_close(x_grad, expected_grads[0], rtol=0, atol=1e-10)
        for grad, theirs in zip(weight_grads, path_weights(reference, expected_grads[1], lmax)):
            torch.testing.assert_close(grad, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("lmax_out", [1, 3])
def test_bias_and_gate_are_e3nns(lmax_out):
    lmax = 3
    gated = GatedEdgeProduct(lmax, lmax_out, CHANNELS, CHANNELS).double()
    randomise(gated)
    x = torch.randn(EDGES, (lmax + 1) ** 2, CHANNELS, dtype=torch.float64)
    rows = wigner_d(edge_frames(*random_edges()), lmax, lmax_out)
    scalars, higher = gated.product(rows @ x)
    higher = to_e3nn(torch.cat([torch.zeros(EDGES, 1, CHANNELS), higher], 1))[:, CHANNELS:]
    with float64_by_default():
        gate = Gate(
            f"{CHANNELS}x0e", [torch.nn.functional.silu],
            f"{lmax_out * CHANNELS}x0e", [torch.sigmoid],
            irreps(lmax_out, CHANNELS)[1:],
        )  # fmt: skip
        expected = gate(torch.cat([scalars + gated.bias, higher], 1))
    torch.testing.assert_close(to_e3nn(gated(rows @ x)), expected, rtol=0, atol=1e-6)


def test_weights_of_e3nn_are_split_in_its_order():
    """The converter takes e3nn's flat weights apart as e3nn itself does."""
    lmax = 4
    product = EdgeProduct(lmax, lmax, 1, CHANNELS, SCALARS)
    flat = torch.arange(float(e3nn_product(lmax, 1).weight_numel))
    for weight, theirs in zip(split_product_weights(product, flat), path_weights(e3nn_product(lmax, 1), flat, lmax)):
        assert torch.equal(weight, theirs)


def value_of(term: EquivariantTerm, x: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """The term of edges whose x_i + x_j is x, in the edges' frames."""
    u = term.factor(torch.cat([0.25 * x, 0.75 * x]))
    ops = separate_edges(frames, term.lmax, term.lmax_out)
    return term(ops, term.rotated(ops, u, u), term.matrices())


@pytest.mark.parametrize("kind", list(TensorProduct))
@pytest.mark.parametrize(("lmax", "lmax_out", "channels"), [(1, 0, 1), (3, 2, 2), (6, 6, 3), (8, 4, 1)])
def test_equivariant_whatever_the_roll(kind, lmax, lmax_out, channels):
    """x and edge turned by a rotation turn the result, although the frames of the two have unrelated rolls."""
    term = EquivariantTerm(lmax, lmax_out, channels, kind).double()
    randomise(term)
    x = torch.randn(EDGES, (lmax + 1) ** 2, channels, dtype=torch.float64)
    vectors, roll = random_edges()

    def message(x: torch.Tensor, vectors: torch.Tensor, roll: torch.Tensor) -> torch.Tensor:
        frames = edge_frames(vectors, roll)
        return wigner_d(frames, lmax_out).mT @ value_of(term, x, frames)

    expected = message(x, vectors, roll)
    for turn in random_rotations(3):
        d = wigner_d(turn[None], lmax)[0]
        turned = message(d @ x, vectors @ turn.T, roll + torch.rand(EDGES))
        torch.testing.assert_close(turned, wigner_d(turn[None], lmax_out)[0] @ expected, rtol=0, atol=1e-10)
    assert expected.abs().max() > 0.1


def test_metp_depends_on_every_channel_through_their_mean():
    term = EquivariantTerm(2, 2, 3, TensorProduct.METP).double()
    x = torch.randn(EDGES, 9, 3, dtype=torch.float64)
    frames = edge_frames(*random_edges())
    same_mean = x + torch.tensor([1.0, -1.0, 0.0]) * torch.randn(EDGES, 9, 1)
    torch.testing.assert_close(value_of(term, same_mean, frames), value_of(term, x, frames))
    for channel in range(3):
        other = x.clone()
        other[..., channel] += 1.0
        assert (value_of(term, other, frames) - value_of(term, x, frames)).abs().max() > 1e-3


def test_float32_agrees_with_float64():
    product = GatedEdgeProduct(6, 2, 1, 8)
    x = torch.randn(EDGES, 49, 1)
    rows = wigner_d(edge_frames(random_edges()[0].float()), 6, 2)
    single = product(rows @ x)
    rows = wigner_d(edge_frames(random_edges()[0]), 6, 2)
    torch.testing.assert_close(single.double(), product.double()(rows @ x.double()), rtol=1e-5, atol=1e-5)
