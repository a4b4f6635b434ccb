"""Eq. 11 written out term by term, for every edge on its own, against the message that runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_networks import SMALL, randomise, separate_edges
from torch import Tensor

from fairchem_hdgnn.models.hdgnn.config import HDGNNConfig
from fairchem_hdgnn.models.hdgnn.invariant import FixedEdgeAttention
from fairchem_hdgnn.models.hdgnn.layer import block_sizes
from fairchem_hdgnn.models.hdgnn.message import HybridMessage
from fairchem_hdgnn.models.hdgnn.options import Mlp, NeuralInput, TensorProduct
from fairchem_hdgnn.models.so3.frames import edge_frames
from fairchem_hdgnn.models.so3.layout import coefficient_index, num_coefficients
from fairchem_hdgnn.models.so3.wigner import wigner_d

EDGES = 9
OPTIONS: list[dict[str, Any]] = [
    {},
    {"preset": "authors", "num_resolutions": 1},
    {"mmax": 1},
    {"mmax": 0, "lmax_metp": 3},
    {"mlp": "separate"},
    {"neural_input": "rotated"},
    {"neural_input": "rotated", "mlp": "separate", "output_activation": True},
    {"tensor_product": "fully_connected", "full_degree_product": True},
]


def written_out(
    message: HybridMessage, config: HDGNNConfig, x_j: Tensor, x_i: Tensor, e: Tensor, a: Tensor, frames: Tensor
) -> Tensor:
    """m_ij of edges with features e and attention a; global frame."""
    lmax, low = config.lmax, config.lmax_metp
    d = wigner_d(frames, lmax)
    kept = coefficient_index(lmax, config.mmax)
    networks = list(message.networks)
    split = config.neural_input is NeuralInput.SPLIT

    def learned(term: int, x: Tensor, c: Tensor) -> Tensor:
        inputs = [d @ x - x, x] if split else [d @ x]
        total = torch.zeros_like(x)
        for k, u in enumerate(inputs):
            number = term * len(inputs) + k if config.mlp is Mlp.SEPARATE else int(term == 2)
            total[:, kept] += networks[number](u[:, kept].flatten(1), c).view(EDGES, len(kept), -1)
        return total

    single, pair = message.single_features(e), message.pair_features(e)
    a = a.unsqueeze(2)
    neural = a[:, 0] * learned(0, x_j, single) + a[:, 1] * learned(1, x_i, single)
    result = d.mT @ (neural + a[:, 2] * learned(2, x_i + x_j, pair))

    mean = (x_i + x_j).mean(dim=-1, keepdim=True)
    factor = mean if config.tensor_product is TensorProduct.METP else x_i + x_j
    product = message.equivariant.product(wigner_d(frames, lmax, low) @ factor)
    result[:, : num_coefficients(low)] += wigner_d(frames, low).mT @ (a[:, 3] * product)
    if message.full_degree is not None:
        result += a[:, 4] * (d.mT @ message.full_degree.product(d @ mean))
    return result


@pytest.mark.parametrize("only_scalars", [False, True])
@pytest.mark.parametrize("keys", OPTIONS, ids=str)
def test_message_is_equation_11(keys: dict[str, Any], only_scalars: bool) -> None:
    """Also where x has only l = 0, as in the first layer, and the message makes use of it."""
    config = HDGNNConfig.from_keys({**SMALL, **keys})
    message = HybridMessage(config, block_sizes(config, only_scalars=only_scalars)[0]).double()
    randomise(message)
    x = torch.randn(2, EDGES, num_coefficients(config.lmax), config.sphere_channels, dtype=torch.float64)
    if only_scalars:
        x[:, :, 1:] = 0
    e = torch.randn(EDGES, config.edge_channels, dtype=torch.float64)
    a = torch.rand(EDGES, message.num_terms, config.sphere_channels, dtype=torch.float64)
    frames = edge_frames(torch.randn(EDGES, 3, dtype=torch.float64), torch.randn(EDGES, dtype=torch.float64))
    expected = written_out(message, config, x[0], x[1], e, a, frames)

    ops = separate_edges(frames, config.lmax, message.mmax)
    both = torch.cat([x[1], x[0]])
    nodes = message.node_tensors(both, both, ops.run.compute)
    got = message(ops, e, lambda *_: a, nodes)[:EDGES]
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    assert expected.abs().mean() > 1e-2


def test_fixed_attention_is_exact_in_double_precision() -> None:
    attention = FixedEdgeAttention((0.3, 0.3, 0.3, 0.1), 4).double()
    f = torch.zeros(2, 3, dtype=torch.float64)
    expected = torch.tensor([0.3, 0.3, 0.3, 0.1], dtype=torch.float64)
    assert torch.equal(attention(separate_edges(torch.eye(3).expand(2, 3, 3), 1, 1), f, {})[1, :, 0], expected)


def test_fixed_attention_leaves_further_terms_as_they_are() -> None:
    """The authors' fifth term is not among the four coefficients of Table 4."""
    attention = FixedEdgeAttention((0.1, 0.2, 0.3, 0.4), 5).double()
    features = torch.zeros(3, 2, dtype=torch.float64)
    expected = torch.tensor([0.1, 0.2, 0.3, 0.4, 1.0], dtype=torch.float64)
    ops = separate_edges(torch.eye(3).expand(3, 3, 3), 1, 1)
    assert torch.equal(attention(ops, features, {}), expected.view(1, 5, 1).expand(3, 5, 1))
