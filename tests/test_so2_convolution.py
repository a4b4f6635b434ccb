"""The SO(2) convolution is a sum of Clebsch-Gordan products with the edge's harmonics, and exactly equivariant."""

from __future__ import annotations

import pytest
import torch
from e3nn import o3
from small_networks import Clusters, clusters, float64_by_default, random_rotations, randomise, relative_error
from torch import Tensor
from torch.nn.functional import silu

from fairchem_hdgnn.models.arithmetic.precision import Compute
from fairchem_hdgnn.models.edges import Edges
from fairchem_hdgnn.models.escn.network import ESCNNetwork
from fairchem_hdgnn.models.escn.so2 import SO2Convolution
from fairchem_hdgnn.models.ops.edge_ops import Atom, EdgeOps
from fairchem_hdgnn.models.ops.passes import Pass
from fairchem_hdgnn.models.ops.so2 import order_of_term, rows_by_order, terms_of_order
from fairchem_hdgnn.models.so3.frames import edge_frames
from fairchem_hdgnn.models.so3.layout import num_coefficients
from fairchem_hdgnn.models.so3.wigner import wigner_d

EDGES, CHANNELS, HIDDEN = 4, 3, 6


def _edges(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Edge vectors and rolls."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(EDGES, 3, generator=generator, dtype=torch.float64)
    return vectors, 6 * torch.rand(EDGES, generator=generator, dtype=torch.float64)


def _message(
    convolution: SO2Convolution, features: Tensor, vectors: Tensor, roll: Tensor, inputs: list[Tensor]
) -> Tensor:
    """``D^T convolution(D x)`` of edges that share no atoms; inputs of their sources and targets."""
    source, target = torch.arange(2 * EDGES).view(2, EDGES)
    frames = edge_frames(vectors, roll)
    edges = Edges.from_frames(source, target, frames, 2 * EDGES, convolution.lmax, convolution.mmax)
    ops = EdgeOps(edges.blocks(None)[0], Pass(Compute(torch.float64, tf32=False)))
    nodes = {"x": torch.cat(inputs), **convolution.node_tensors(convolution.lmax)}
    mixed = [convolution.mixed(ops, nodes, atom, convolution.lmax) for atom in Atom]
    y = convolution(ops, features, nodes, *mixed)
    return ops.rotate_scatter(y, convolution.lmax, rows_by_order(convolution.lmax, convolution.mmax))[EDGES:]


def _clebsch_gordan_sum(x: Tensor, edge_vec: Tensor, path_weights: dict[tuple[int, int, int], Tensor]) -> Tensor:
    """``sum_{l1,l2} w (x^l1 (x) Y^l2(r))^l3`` by e3nn, in the global frame; weights [edges, c_in, c_out] per path."""
    y = torch.zeros_like(x)
    for (l1, l2, l3), weight in path_weights.items():
        harmonics = o3.spherical_harmonics(l2, edge_vec, normalize=True, normalization="component")
        coupled = torch.einsum(
            "ijk,eic,ej,ecd->ekd", o3.wigner_3j(l1, l2, l3), x[:, _degree(l1)], harmonics, weight.expand(EDGES, -1, -1)
        )
        y[:, _degree(l3)] += coupled
    return y


def _degree(l: int) -> slice:
    return slice(l * l, (l + 1) ** 2)


def _couplings(l1: int, l3: int) -> Tensor:
    """What each l2 adds to the SO(2) weights of (l1, l3): real parts of m = 0, 1, ... in even rows, imaginary in odd.

    In the edge frame only the order 0 of Y is not zero, ``sqrt(2 l2 + 1)``.
    """
    columns = []
    for l2 in range(abs(l1 - l3), l1 + l3 + 1):
        symbol = o3.wigner_3j(l1, l2, l3)[:, l2] * (2 * l2 + 1) ** 0.5
        column = [symbol[l1, l3]]
        for m in range(1, min(l1, l3) + 1):
            column += [symbol[l1 + m, l3 + m], symbol[l1 + m, l3 - m]]
        columns.append(torch.stack(column))
    return torch.stack(columns, 1)


def _path_weights(lmax: int, so2_weights) -> dict[tuple[int, int, int], Tensor]:
    """Weights of Clebsch-Gordan paths with the effect of SO(2) weights ``so2_weights(l1, l3, m, imaginary)``."""
    weights = {}
    for l1 in range(lmax + 1):
        for l3 in range(lmax + 1):
            wanted = [so2_weights(l1, l3, 0, False)]
            for m in range(1, min(l1, l3) + 1):
                wanted += [so2_weights(l1, l3, m, False), so2_weights(l1, l3, m, True)]
            wanted = torch.stack(torch.broadcast_tensors(*wanted))
            solved = torch.linalg.solve(_couplings(l1, l3), wanted.flatten(1)).view_as(wanted)
            for l2, weight in zip(range(abs(l1 - l3), l1 + l3 + 1), solved):
                weights[l1, l2, l3] = weight
    return weights


@pytest.mark.parametrize(("lmax", "mmax"), [(2, 2), (3, 1), (4, 4)])
def test_convolution_is_a_sum_of_clebsch_gordan_products(lmax, mmax):
    """The factorised weights of one edge are ordinary weights of paths."""
    convolution = _convolution(lmax, mmax)
    features = torch.randn(EDGES, 5, dtype=torch.float64)
    vectors, roll = _edges()
    scales = silu(convolution.scale(features)).view(EDGES, 1 + 2 * mmax, 2, -1)

    def weight_of(index: int):
        def weight(l1: int, l3: int, m: int, imaginary: bool) -> Tensor:
            if m > mmax:
                return torch.zeros(EDGES, CHANNELS, CHANNELS)
            term = terms_of_order(m)[int(imaginary)]
            assert order_of_term(term) == m
            inner = convolution.inner[l1][index][:, term * HIDDEN : (term + 1) * HIDDEN]
            outer = convolution.outer[m].view(len(terms_of_order(m)), 2, -1, lmax + 1 - m, CHANNELS)
            return torch.einsum("ch,eh,hd->ecd", inner, scales[:, term, index], outer[int(imaginary), index, :, l3 - m])

        return weight

    with float64_by_default():
        inputs = [torch.randn(EDGES, num_coefficients(lmax), CHANNELS) for _ in range(2)]
        parts = [
            _clebsch_gordan_sum(x, vectors, _path_weights(lmax, weight_of(index))) for index, x in enumerate(inputs)
        ]
    actual = _message(convolution, features, vectors, roll, inputs)
    assert relative_error(actual, parts[0] + parts[1]) < 1e-12


@pytest.mark.parametrize(("lmax", "mmax"), [(2, 2), (6, 2), (8, 8)])
def test_convolution_is_exactly_equivariant(lmax, mmax):
    """Under any rotation, whatever the rolls."""
    convolution = _convolution(lmax, mmax)
    features = torch.randn(EDGES, 5, dtype=torch.float64)
    inputs = [torch.randn(EDGES, num_coefficients(lmax), CHANNELS, dtype=torch.float64) for _ in range(2)]
    vectors, roll = _edges()
    rotation = random_rotations(1)
    big = wigner_d(rotation, lmax, lmax)[0]

    turned = _message(convolution, features, vectors @ rotation[0].T, roll.flip(0), [big @ x for x in inputs])
    assert relative_error(turned, big @ _message(convolution, features, vectors, roll, inputs)) < 1e-10


def _convolution(lmax: int, mmax: int) -> SO2Convolution:
    convolution = SO2Convolution(lmax, mmax, CHANNELS, hidden_channels=HIDDEN, edge_channels=5).double()
    randomise(convolution)
    return convolution


def test_grid_activation_is_equivariant_in_the_limit_of_fine_grids():
    """The point-wise networks on grids are the only inexact part of the layers; finer grids remove the error."""
    graph, rotation = clusters(), random_rotations(1)
    big = wigner_d(rotation, 4, 4)[0]
    errors = []
    for resolution in (None, 16, 20, 24):
        model = _network(resolution)
        errors.append(relative_error(_embedding(model, graph.rotated(rotation[0])), big @ _embedding(model, graph)))
    assert 1e-5 < errors[0] < 1e-2
    assert all(finer < coarser / 10 for coarser, finer in zip(errors, errors[1:]))
    assert errors[-1] < 1e-9


def _network(resolution: int | None) -> ESCNNetwork:
    keys = {"lmax": 4, "mmax": 2, "num_layers": 2, "sphere_channels": 6, "hidden_channels": 8, "edge_channels": 5}
    torch.manual_seed(0)
    keys |= {"distance_resolution": 0.5, "resolution": resolution, "weight_init": "torch"}
    model = ESCNNetwork(keys).double().eval()
    randomise(model)
    return model


def _embedding(model: ESCNNetwork, graph: Clusters) -> Tensor:
    (frames,) = model.backbone.frames(graph.edge_vec, graph.numbers[graph.edge_index.T], False)
    (x,) = model.backbone(graph.numbers, graph.edge_index, graph.edge_vec, frames)
    return x
