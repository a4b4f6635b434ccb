"""eSCN's fast path computes the plain equations; and what must hold for any input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from emulated_tf32 import take_the_branches_of_a_gpu
from small_networks import Clusters, clusters, random_rotations, randomise, relative_error
from torch import Tensor

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.models.escn.network import ESCNNetwork
from fairchem_hdgnn.models.ops import blocks, mix_atoms, sphere
from fairchem_hdgnn.models.ops.execution import Activations
from fairchem_hdgnn.models.so3.frames import edge_frames

SMALL: dict[str, Any] = {
    "lmax": 3,
    "mmax": 2,
    "num_layers": 2,
    "sphere_channels": 4,
    "hidden_channels": 6,
    "edge_channels": 5,
    "num_sphere_samples": 20,
    "distance_resolution": 0.5,
    "cutoff": 6.0,
    "weight_init": "torch",  # bounds on what a finite grid costs are for weights of this size
}
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-3, torch.bfloat16: 0.1}


def _network(dtype: torch.dtype = torch.float64, **keys: Any) -> ESCNNetwork:
    torch.manual_seed(0)
    model = ESCNNetwork({**SMALL, **keys}).to(dtype)
    randomise(model)
    return model.eval()


def _outputs_and_gradients(model: ESCNNetwork, graph: Clusters, autocast: bool = False) -> dict[str, Tensor]:
    frames = edge_frames(graph.edge_vec, torch.linspace(0, 6, len(graph.edge_vec), dtype=graph.edge_vec.dtype))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = model(*graph.arguments(), frames)
    weights = torch.linspace(-1, 1, output["forces"].numel()).view_as(output["forces"])
    (output["energy"].sum() + (weights * output["forces"]).sum()).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    output = {name: value.detach() for name, value in output.items()}
    return {**output, **{name: grad for name, grad in gradients.items() if grad is not None}}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("lmax", "mmax"), [(3, 2), (2, 2), (3, 0), (1, 1), (0, 0)])
@pytest.mark.parametrize("activations", Activations)
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_fast_path_is_the_reference(monkeypatch, dtype, lmax, mmax, activations, device):
    """With small blocks and chunks, so that there are several of each; on a CPU, also with a GPU's branches."""
    if device == "gpu":
        take_the_branches_of_a_gpu(monkeypatch)
        monkeypatch.setattr(blocks, "NUMBERS_ON_GPU", 12 * (2 + 8 * mmax) * 6)
    monkeypatch.setattr(blocks, "NUMBERS_ON_CPU", 12 * (2 + 8 * mmax) * 6)
    monkeypatch.setattr(mix_atoms, "ATOMS_PER_CHUNK", 5)
    autocast = dtype is torch.bfloat16
    monkeypatch.setattr(sphere, "NUMBERS_ON_CPU", 3 * 4 * 70)
    graph = clusters((9, 5, 1), dtype=torch.float32 if autocast else dtype)
    results = []
    for implementation in ("fast", "reference"):
        keys = {"activations": activations.value, "implementation": implementation}
        model = _network(graph.pos.dtype, lmax=lmax, mmax=mmax, **keys)
        results.append(_outputs_and_gradients(model, graph, autocast and implementation == "fast"))
    fast, reference = results
    assert set(fast) == set(reference)
    largest = max(float(tensor.norm()) for tensor in reference.values())
    for name, expected in reference.items():
        scale = max(float(expected.norm()), 1e-3 * largest)
        assert float((fast[name] - expected).norm()) < TOLERANCE[dtype] * scale, name


def test_grids_and_points_are_rounded_anew_by_a_change_of_dtype():
    """A model that is made in float32 and then turned to float64 is as exact as one made in float64."""
    graph, model = clusters(), _network(resolution=24)
    rotation = random_rotations(1)[0]
    energies = [model(*system.arguments())["energy"] for system in (graph, graph.rotated(rotation))]
    assert relative_error(energies[1], energies[0]) < 1e-4
    exact = model.energy_head.sphere.readout.harmonics
    assert exact.dtype is torch.float64 and not torch.equal(exact, exact.float().double())


def test_reference_without_edges():
    graph, none = clusters((4, 1)), torch.zeros(2, 0, dtype=torch.long)
    fast, reference = (
        _network(implementation=implementation)(graph.numbers, none, graph.edge_vec[:0], graph.batch, 2)
        for implementation in ("fast", "reference")
    )
    for name, expected in fast.items():
        assert torch.isfinite(expected).all()
        torch.testing.assert_close(reference[name], expected)


def test_training_draws_new_frames_and_evaluation_does_not():
    model, graph = _network(frames="random").train(), clusters()
    first, second = (model(*graph.arguments())["forces"] for _ in range(2))
    assert relative_error(second, first) > 1e-12
    model.eval()
    assert torch.equal(model(*graph.arguments())["forces"], model(*graph.arguments())["forces"])


def test_energy_scale_and_mean():
    graph = clusters()
    plain = _network()(*graph.arguments())["energy"]
    scaled = _network(energy_scale=0.001)(*graph.arguments())["energy"]
    mean = _network(energy_reduction="mean")(*graph.arguments())["energy"]
    torch.testing.assert_close(scaled, 0.001 * plain)
    torch.testing.assert_close(mean, plain / torch.bincount(graph.batch))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mmax": 4}, "'mmax' is 4, but no order can exceed 'lmax' = 3"),
        ({"resolution": 9}, "'resolution' must be even"),
        ({"resolution": 6}, "at least 2 \\(lmax \\+ 1\\) = 8"),
        ({"lmax_list": [6]}, "unknown key 'lmax_list'; did you mean 'lmax'"),
        ({"distance_function": "gauss"}, "did you mean 'gaussian'"),
        ({"cutoff": 0.5}, "leaves no distance basis"),
    ],
)
def test_wrong_keys_are_refused_in_one_line(keys, message):
    with pytest.raises(ConfigError, match=message) as error:
        ESCNNetwork({**SMALL, **keys})
    assert "\n" not in str(error.value)
