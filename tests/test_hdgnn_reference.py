"""The fast implementation equals the plain equations in value and gradient, for every option."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import SMALL, Clusters, clusters, network
from torch import Tensor

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.models.hdgnn.config import PRESETS, HDGNNConfig
from fairchem_hdgnn.models.hdgnn.network import HDGNNNetwork
from fairchem_hdgnn.models.hdgnn.options import Antipode, Attention, GateInputs, LayerNorm, Message, Preset
from fairchem_hdgnn.models.ops import blocks, rotations
from fairchem_hdgnn.models.ops.execution import Activations
from fairchem_hdgnn.models.so3.frames import edge_frames

# Distances have a gradient, if not the one of the energy.
pytestmark = pytest.mark.filterwarnings("ignore:edge_vec requires a gradient")

CHOICES: list[dict[str, Any]] = [
    {},
    {"message": "linear"},
    {"message": "fully_tp"},
    {"message": "unrestricted"},
    {"tensor_product": "fully_connected"},
    {"attention": "softmax"},
    {"attention": [0.3, 0.3, 0.3, 0.1]},
    {"attention": [0.25, 0.25, 0.25, 0.25], "readout_weight": 0.5},
    {"mlp": "separate"},
    {"neural_input": "rotated"},
    {"neural_input": "rotated", "mlp": "separate"},
    {"extra_linear": True},
    {"layer_norm": "off"},
    {"invariant_branch": False},
    {"antipodal": "off"},
    {"antipodal": "top_degree_unflipped"},
    {"shortcut": False},
    {"shortcut": False, "antipodal": "off"},
    {"readout_weight": 0.5},
    {"regress_forces": True},
    {"mmax": 0},
    {"activations": "recompute"},
    {"num_layers": 1},
]
"""Choices that are tried with either preset."""

PAPER, AUTHORS = PRESETS[Preset.PAPER], PRESETS[Preset.AUTHORS]
OPTIONS = [{"preset": preset.value, **keys} for preset in Preset for keys in CHOICES]
OPTIONS += [{"preset": "paper", name: value} for name, value in AUTHORS.items()]
OPTIONS += [{"preset": "authors", name: value} for name, value in PAPER.items()]


def value_and_gradients(model: HDGNNNetwork, graph: Clusters) -> dict[str, Tensor]:
    """Outputs, and gradients of a random function of them; frames have a roll."""
    generator = torch.Generator().manual_seed(0)
    vectors = graph.edge_vec.detach().requires_grad_()
    frames = edge_frames(vectors, torch.arange(len(vectors), dtype=vectors.dtype))
    outputs = model(graph.numbers, graph.edge_index, vectors, graph.batch, graph.num_systems, frames)
    total = sum(
        (torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value) * value).sum()
        for value in outputs.values()
    )
    leaves = {"edge_vec": vectors, **dict(model.named_parameters())}
    gradients = torch.autograd.grad(total, list(leaves.values()))
    return {**outputs, **{f"gradient of {name}": grad for name, grad in zip(leaves, gradients)}}


def check_equal(keys: dict[str, Any], graph: Clusters, tolerance: float) -> None:
    dtype = graph.pos.dtype
    fast = network(dtype, implementation="fast", **keys)
    reference = network(dtype, implementation="reference", **keys)
    reference.load_state_dict(fast.state_dict())
    expected = value_and_gradients(reference, graph)
    scale = max(largest(value) for value in expected.values())
    for name, value in value_and_gradients(fast, graph).items():
        error = largest(value - expected[name])
        # A gradient may be zero but for rounding, so the scale of all of them enters too.
        limit = tolerance * max(largest(expected[name]), 0.01 * scale)
        assert error <= limit, f"{name}: {error:.1e} > {limit:.1e} with {keys}"


def largest(values: Tensor) -> float:
    """Largest magnitude; 0 of no values."""
    return float(values.detach().abs().max()) if values.numel() else 0.0


@pytest.mark.parametrize("keys", OPTIONS, ids=str)
def test_every_option_in_float64(keys):
    check_equal(keys, clusters(), 1e-10)


@pytest.mark.parametrize(
    "keys", [{}, {"preset": "authors"}, {"mlp": "separate"}, {"activations": "recompute"}], ids=str
)
def test_float32(keys):
    check_equal(keys, clusters(dtype=torch.float32), 1e-4)


def flag() -> st.SearchStrategy[bool]:
    return st.booleans()


def one_of(kind: Any) -> st.SearchStrategy[str]:
    return st.sampled_from([member.value for member in kind])


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    lmax = draw(st.integers(0, 4))
    invariant_branch = draw(flag())
    return {
        "preset": draw(one_of(Preset)),
        "lmax": lmax,
        "lmax_metp": draw(st.integers(0, lmax)),
        "mmax": draw(st.integers(0, lmax)),
        "lmax_far": draw(st.integers(0, lmax)),
        "num_resolutions": draw(st.sampled_from([1, 2])),
        "near_neighbors": draw(st.integers(1, 12)),
        "num_layers": draw(st.integers(1, 3)),
        "sphere_channels": draw(st.integers(1, 3)),
        "hidden_channels": draw(st.integers(1, 4)),
        "hidden_channels_far": draw(st.integers(1, 4)),
        "message": draw(st.sampled_from([Message.HYBRID.value] * 3 + [m.value for m in Message])),
        "tensor_product": draw(st.sampled_from(["metp", "fully_connected"])),
        "attention": draw(st.one_of(one_of(Attention), st.just([0.25] * 4), st.just([0, 0, 0, 1]))),
        "gate_inputs": draw(one_of(GateInputs)),
        "full_degree_product": draw(flag()),
        "output_activation": draw(flag()),
        "mlp": draw(st.sampled_from(["shared", "separate"])),
        "neural_input": draw(st.sampled_from(["split", "rotated"])),
        "extra_linear": draw(flag()),
        "layer_norm": draw(one_of(LayerNorm)),
        "invariant_branch": invariant_branch,
        "antipodal": draw(one_of(Antipode)),
        "shortcut": draw(flag()),
        "squeeze_excitation": draw(flag()),
        "readout_weight": draw(st.sampled_from([0.0, 0.7])) if invariant_branch else 0.0,
        "regress_forces": draw(flag()),
        "activations": draw(one_of(Activations)),
    }


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    keys=configurations(),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    numbers=st.sampled_from([1, 300, 640_000]),
    per_node=st.sampled_from([0, 500_000]),
)
def test_any_combination(keys, sizes, numbers, per_node):
    """Also with blocks of a single atom, and with either way to rotate (one product per atom, or batched)."""
    with (
        mock.patch.object(blocks, "NUMBERS_ON_CPU", numbers),
        mock.patch.object(rotations, "_PER_NODE_SIZE", per_node),
    ):
        check_equal(keys, clusters(sizes), 1e-10)


@pytest.mark.parametrize("implementation", ["fast", "reference"])
def test_frozen_parameters(implementation):
    """Fine-tuning: gradients of the others are the same, the frozen ones have none."""
    graph = clusters()
    whole = network(implementation=implementation)
    whole(*graph.arguments())["energy"].sum().backward()
    for frozen in ("attention", "networks.0", "equivariant", "single_features", "edge_embedding"):
        part = network(implementation=implementation)
        for name, parameter in part.named_parameters():
            parameter.requires_grad_(frozen not in name)
        part(*graph.arguments())["energy"].sum().backward()
        for (name, parameter), other in zip(part.named_parameters(), whole.parameters()):
            if frozen in name:
                assert parameter.grad is None
            else:
                torch.testing.assert_close(parameter.grad, other.grad)


def test_options_above_are_all_options():
    """A new key of the configuration belongs into :data:`OPTIONS`, or here."""
    sizes = set(SMALL) | {"basis_width", "energy_scale"}
    frames = {"frames", "frame_seed", "frame_average"}
    start = {"weight_init", "mean_neighbors", "readout_init"}
    covered = {key for keys in OPTIONS for key in keys} | {"implementation"}
    assert {*HDGNNNetwork(SMALL).config.__dataclass_fields__} == sizes | frames | start | covered


def test_off_needs_no_quotes_in_yaml():
    """A bare off is false to YAML."""
    config = HDGNNConfig.from_keys(yaml.safe_load("{layer_norm: off, antipodal: off}"))
    assert config.layer_norm is LayerNorm.OFF and config.antipodal is Antipode.OFF
    with pytest.raises(ConfigError, match="'mlp' must be shared or separate, not False"):
        HDGNNConfig.from_keys({"mlp": False})
