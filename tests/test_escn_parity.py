"""eSCN gives fairchem's numbers for fairchem's weights: energies, forces and gradients of all weights."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from fairchem.core.models.escn.escn import eSCN
from fairchem_escn import TINY, cast, default_dtype, fairchem_model, hydra_config, redraw, systems
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from small_networks import relative_error
from torch import Tensor

from fairchem_hdgnn.convert import from_fairchem_escn
from fairchem_hdgnn.convert.fairchem_escn import convert_weights, escn_config, plain_names
from fairchem_hdgnn.errors import ConfigError

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5}
"""Relative. fairchem keeps constants rounded to float32 in a float64 model."""

# Forces with 8 sample points and one edge channel: small differences of larger numbers.
CANCELLING: dict[str, Any] = {
    "lmax_list": [2], "mmax_list": [2], "num_layers": 3, "sphere_channels": 2, "hidden_channels": 5, "edge_channels": 1,
    "num_sphere_samples": 8, "cutoff": 5.0, "max_neighbors": 20, "distance_function": "gaussian",
    "distance_resolution": 0.15625, "basis_width_scalar": 1.0, "resolution": None, "use_pbc": False, "otf_graph": True,
}  # fmt: skip


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    lmax = draw(st.sampled_from([1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8]))
    resolution = st.integers(lmax + 1, lmax + 3).map(lambda half: 2 * half)
    keys = {
        "lmax_list": [lmax],
        "mmax_list": [draw(st.integers(0, lmax))],
        "num_layers": draw(st.integers(1, 3)),
        # With one channel and mmax 0 fairchem overwrites what its own backward pass needs.
        "sphere_channels": draw(st.integers(2, 7)),
        "hidden_channels": draw(st.integers(1, 9)),
        "edge_channels": draw(st.integers(1, 6)),
        "num_sphere_samples": draw(st.integers(8, 40)),
        "cutoff": draw(st.floats(3.0, 5.5)),
        "max_neighbors": draw(st.integers(20, 60)),
        "distance_function": draw(st.sampled_from(["gaussian", "sigmoid", "linearsigmoid", "silu"])),
        "distance_resolution": draw(st.floats(0.02, 0.2)),
        "basis_width_scalar": draw(st.floats(0.5, 3.0)),
        "resolution": draw(st.none() | resolution),
        "use_pbc": draw(st.booleans()),
        "otf_graph": True,
    }
    return hydra_config(keys, reduce=draw(st.sampled_from(["sum", "mean"]))) if draw(st.booleans()) else keys


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@example({**TINY, "lmax_list": [8], "mmax_list": [8], "num_layers": 1}, 0)
@example({**TINY, "lmax_list": [6], "mmax_list": [2], "sphere_channels": 16, "hidden_channels": 32}, 0)
@example(CANCELLING, 134)
@given(configurations(), st.integers(0, 1000))
def test_energies_forces_and_gradients_are_fairchems(config, seed):
    torch.manual_seed(seed)
    model, batch = fairchem_model(config), systems((5, 8), seed)
    redraw(model, torch.Generator().manual_seed(seed))
    exact: dict[str, Tensor] = {}
    for dtype, tolerance in TOLERANCE.items():
        # A copy that has not run: fairchem fixes its grids in the dtype of the first forward.
        theirs = copy.deepcopy(model).to(dtype)
        ours = from_fairchem_escn(config, theirs.state_dict()).eval()
        with default_dtype(dtype):
            expected = theirs(cast(batch, dtype))
        actual = ours(cast(batch, dtype))
        for name in expected:
            # Where fairchem's own numbers lose more digits to rounding, so may ours.
            rounding = relative_error(expected[name], exact.setdefault(name, expected[name]))
            assert relative_error(actual[name], expected[name]) < max(tolerance, 2 * rounding), (dtype, name)

        _objective(expected).backward()
        _objective(actual).backward()
        gradients = {name: _gradient(parameter) for name, parameter in theirs.named_parameters()}
        gradients = convert_weights(plain_names(gradients), ours.network.config, ours.network.state_dict())
        largest = max(float(gradient.abs().max()) for gradient in gradients.values())
        for name, parameter in ours.network.named_parameters():
            assert _difference(_gradient(parameter), gradients[name], 1e-2 * largest) < 10 * tolerance, (dtype, name)


def test_weights_as_initialised():
    """Forces are then differences of nearly equal numbers, which float32 resolves to three digits only."""
    model, batch = fairchem_model(TINY).double(), systems((5, 8))
    ours = from_fairchem_escn(TINY, model.state_dict()).eval()
    with default_dtype(torch.float64):
        expected = model(batch)
    actual = ours(batch)
    for name in expected:
        assert relative_error(actual[name], expected[name]) < TOLERANCE[torch.float64], name


def test_prefixes_of_a_trainer_are_taken_off():
    model = fairchem_model(TINY)
    plain = from_fairchem_escn(TINY, model.state_dict()).state_dict()
    wrapped = from_fairchem_escn(TINY, {f"module.module.{name}": t for name, t in model.state_dict().items()})
    assert all(torch.equal(tensor, plain[name]) for name, tensor in wrapped.state_dict().items())


def test_energy_only_model():
    config = {**TINY, "regress_forces": False}
    model = fairchem_model(config)
    ours = from_fairchem_escn(config, model.state_dict())
    assert set(ours(cast(systems((5, 8)), torch.float32))) == {"energy"}


def test_arguments_that_are_left_out_have_fairchems_defaults():
    theirs = {name: parameter.default for name, parameter in inspect.signature(eSCN.__init__).parameters.items()}
    ours = escn_config({})
    shared = ours.keys() & theirs.keys()
    assert {"cutoff", "max_neighbors", "num_layers", "sphere_channels", "otf_graph", "distance_resolution"} <= shared
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}
    assert [ours["lmax"]] == (theirs["lmax_list"] or [6]) and [ours["mmax"]] == (theirs["mmax_list"] or [2])
    assert ours["basis_width"] == theirs["basis_width_scalar"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lmax_list": [4, 2], "mmax_list": [2, 2]}, r"'lmax_list' is \[4, 2\]; only one resolution"),
        ({"mmax_list": [2, 1]}, r"'mmax_list' is \[2, 1\]; only one resolution"),
        ({"use_chunks": 3}, "'use_chunks' is unknown"),
        ({"num_layers": 3}, r"the weights lack 'layer_blocks\.2\."),
        ({"lmax_list": [3]}, "has shape .* but the configuration requires"),
        ({"hidden_channels": 7}, "have shape .* but the configuration requires"),
    ],
)
def test_what_cannot_be_converted_is_refused(change, message):
    weights = fairchem_model(TINY).state_dict()
    with pytest.raises(ConfigError, match=message) as error:
        from_fairchem_escn({**TINY, **change}, weights)
    assert "\n" not in str(error.value)


def _objective(output: dict[str, Tensor]) -> Tensor:
    """A scalar in which energy and each force component count."""
    energy, forces = output["energy"], output["forces"]
    return 100 * energy.sum() + (forces * torch.linspace(-1, 1, forces.numel()).view_as(forces)).sum()


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _difference(actual: Tensor, expected: Tensor, floor: float = 0.0) -> float:
    """Largest difference in units of the largest value, or of ``floor`` where all values are smaller."""
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=floor))
