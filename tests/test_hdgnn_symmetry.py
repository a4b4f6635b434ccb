"""Which symmetries HDGNN has exactly, which it has not, and by how much."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_networks import (
    SMALL,
    Clusters,
    clusters,
    network,
    random_rotations,
    randomise,
    relative_error,
    separate_edges,
)
from torch import Tensor, nn

from fairchem_hdgnn.models.hdgnn.config import HDGNNConfig
from fairchem_hdgnn.models.hdgnn.layer import MESSAGES, block_sizes
from fairchem_hdgnn.models.hdgnn.network import HDGNNNetwork
from fairchem_hdgnn.models.so3.frames import edge_frames
from fairchem_hdgnn.models.so3.layout import num_coefficients
from fairchem_hdgnn.models.so3.wigner import wigner_d

EDGES = 12
ONLY_PRODUCT = [0.0, 0.0, 0.0, 1.0]
"""Attention that leaves the strictly equivariant term of eq. 11."""

METP_ALONE: dict[str, Any] = {"attention": ONLY_PRODUCT}
FULLY_TP: dict[str, Any] = {"message": "fully_tp"}
"""Eq. 6 with weights and a gate."""

LINEAR: dict[str, Any] = {"message": "linear"}
STRICT: list[dict[str, Any]] = [
    METP_ALONE,
    {"attention": ONLY_PRODUCT, "lmax_metp": 3},
    {"attention": ONLY_PRODUCT, "tensor_product": "fully_connected"},
    {"attention": ONLY_PRODUCT, "full_degree_product": True},
    FULLY_TP,
    LINEAR,
    {"message": "linear", "tensor_product": "fully_connected"},
]
LEARNED: list[dict[str, Any]] = [
    {},
    {"preset": "authors"},
    {"mmax": 0},
    {"neural_input": "rotated"},
    {"mlp": "separate"},
    {"message": "unrestricted"},
]


class Edges:
    """One message function and random features on random edges."""

    def __init__(self, keys: dict[str, Any]) -> None:
        config = HDGNNConfig.from_keys({**SMALL, **keys})
        self.lmax, channels = config.lmax, config.sphere_channels
        self.message: nn.Module = MESSAGES[config.message](config, block_sizes(config, only_scalars=False)[0]).double()
        randomise(self.message)
        self.x = torch.randn(2, EDGES, num_coefficients(self.lmax), channels, dtype=torch.float64)
        self.vectors = torch.randn(EDGES, 3, dtype=torch.float64)
        self.features = torch.randn(EDGES, config.edge_channels, dtype=torch.float64)
        self.attention = torch.rand(EDGES, self.message.num_terms, channels, dtype=torch.float64)
        if isinstance(config.attention, tuple):
            self.attention[:, :4] *= torch.tensor(config.attention, dtype=torch.float64).unsqueeze(-1)

    def frames(self) -> Tensor:
        """Frames with random rolls, others at each call."""
        return edge_frames(self.vectors, 6.3 * torch.rand(EDGES, dtype=torch.float64))

    def messages(self, frames: Tensor, turn: Tensor | None = None) -> Tensor:
        """Messages in the global frame; of features and edges turned by ``turn``, whose edges have these frames."""
        x = self.x if turn is None else wigner_d(turn[None], self.lmax)[0] @ self.x
        ops = separate_edges(frames, self.lmax, self.message.mmax)
        with torch.no_grad():
            both = torch.cat([x[1], x[0]])
            nodes = self.message.node_tensors(both, both, ops.run.compute)
            return self.message(ops, self.features, lambda *_: self.attention, nodes)[:EDGES]

    def rotation_error(self, same_roll: bool) -> float:
        """Mean over rotations of ``|m(D x, R r) - D m(x, r)| / |m(x, r)|``; with the roll turned along, or redrawn."""
        frames = self.frames()
        expected = self.messages(frames)
        errors = []
        for turn in random_rotations(5):
            turned = frames @ turn.T if same_roll else edge_frames(self.vectors @ turn.T, torch.rand(EDGES).double())
            wanted = wigner_d(turn[None], self.lmax)[0] @ expected
            errors.append(relative_error(self.messages(turned, turn), wanted))
        return sum(errors) / len(errors)

    def frame_error(self) -> float:
        """``|m - m'| / |m|`` of the same edges with two draws of frames."""
        return relative_error(self.messages(self.frames()), self.messages(self.frames()))


@pytest.mark.parametrize("keys", STRICT, ids=str)
def test_strict_messages_are_equivariant_and_blind_to_frames(keys):
    edges = Edges(keys)
    assert edges.rotation_error(same_roll=False) < 1e-10
    assert edges.frame_error() < 1e-10
    assert edges.messages(edges.frames()).abs().mean() > 1e-2


@pytest.mark.parametrize("keys", LEARNED, ids=str)
def test_learned_messages_are_not_equivariant(keys):
    """By a good part of their size. Only NN(x') would be, if the frames turned with the edges (they do not).

    Networks on m = 0 alone see nothing of the roll, and yet the orientation, through x'' and x.
    """
    edges = Edges(keys)
    assert 0.05 < edges.rotation_error(same_roll=False) < 2
    if keys.get("neural_input") == "rotated":
        assert edges.rotation_error(same_roll=True) < 1e-10
    else:
        assert edges.rotation_error(same_roll=True) > 0.05
    if keys.get("message") == "unrestricted" or keys.get("mmax") == 0:
        assert edges.frame_error() < 1e-10
    else:
        assert 0.05 < edges.frame_error() < 2


def energies(model: HDGNNNetwork, graph: Clusters, frames: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return model(*graph.arguments(), frames)["energy"]


def energy_errors(keys: dict[str, Any]) -> tuple[float, float]:
    """Mean change of the energy under rotations, and under other frames, in units of its spread over clusters."""
    model, graph = network(num_sphere_samples=128, **keys), clusters([6] * 8)
    expected = energies(model, graph)
    turned = torch.stack([energies(model, graph.rotated(turn)) for turn in random_rotations(4)])
    rolls = torch.rand(4, graph.edge_vec.shape[0], dtype=torch.float64) * 6.3
    redrawn = torch.stack([energies(model, graph, edge_frames(graph.edge_vec, roll)) for roll in rolls])
    spread = expected.std()
    return float((turned - expected).abs().mean() / spread), float((redrawn - expected).abs().mean() / spread)


def test_energy_of_strict_networks_is_invariant_up_to_the_grid():
    """A nonlinear function on a finite grid, in update and readout, is what remains; frames have no effect at all."""
    for keys in (METP_ALONE, FULLY_TP, LINEAR):
        # What a finite grid costs grows with the weights; the bound is for weights of this size.
        rotation, frame = energy_errors({**keys, "weight_init": "torch"})
        assert rotation < 0.06
        assert frame < 1e-10


def test_energy_of_the_hybrid_depends_on_orientation_and_frames():
    rotation, frame = energy_errors({})
    assert 0.3 < rotation < 4
    assert 0.3 < frame < 4


def test_metp_sees_scalars_at_initialisation_in_the_paper_preset_only():
    """A norm that removes the channel mean leaves METP, which sees nothing else, no scalars (and x has only those)."""
    graph = clusters([6])
    moved = replace(graph, pos=graph.pos + 0.2 * torch.randn(graph.pos.shape, dtype=torch.float64))
    for preset, sees in (("paper", True), ("authors", False)):
        torch.manual_seed(0)
        model = (
            HDGNNNetwork({**SMALL, "preset": preset, "attention": ONLY_PRODUCT, "readout_init": "random"})
            .double()
            .eval()
        )
        change = float((energies(model, moved) - energies(model, graph)).abs())
        assert (change > 1e-4) if sees else (change < 1e-12)


def test_average_over_frames_is_the_mean_of_its_draws():
    graph = clusters()
    single = [energies(network(frame_seed=seed), graph) for seed in (5, 6, 7)]
    averaged = energies(network(frame_seed=5, frame_average=3), graph)
    torch.testing.assert_close(averaged, torch.stack(single).mean(0))
    assert not torch.allclose(single[0], single[1])


def test_modes_of_frames():
    graph = clusters()
    for mode, changes in (("random", True), ("seeded", False), ("fixed", False)):
        model = network(frames=mode)
        assert torch.equal(energies(model, graph), energies(model, graph))
        model.train()
        assert torch.equal(energies(model, graph), energies(model, graph)) != changes
    fixed = energies(network(frames="fixed"), graph)
    assert torch.equal(fixed, energies(network(), graph, edge_frames(graph.edge_vec)))


@pytest.mark.parametrize("lmax", range(11))
def test_every_lmax_with_one_channel(lmax):
    """Value and gradient are finite, and float32 agrees with float64."""
    keys = {"lmax": lmax, "lmax_metp": min(2, lmax), "lmax_far": lmax, "sphere_channels": 1}
    keys |= {"preset": "authors" if lmax < 8 else "paper"}
    model = network(**keys)
    graph = clusters((4,))
    energy = model(*graph.arguments())["energy"]
    energy.sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    frames = edge_frames(graph.edge_vec)
    single = clusters((4,), dtype=torch.float32)
    in_float32 = energies(network(torch.float32, **keys), single, frames.float())
    torch.testing.assert_close(in_float32.double(), energies(model, graph, frames), rtol=1e-4, atol=1e-5)
