"""The authors' HDGNN, converted: their recorded numbers, and an independent writing-out of their algorithm."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from plain_authors_hdgnn import BASE, PlainAuthorsHDGNN, random_weights
from small_networks import Clusters, clusters, relative_error
from torch import Tensor, nn

from fairchem_hdgnn.convert import from_authors_hdgnn
from fairchem_hdgnn.convert.authors_hdgnn import authors_config
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.models.hdgnn.network import HDGNNNetwork
from fairchem_hdgnn.models.so3.frames import edge_frames

GOLDEN = Path(__file__).parents[2] / "shared/golden/hdgnn_authors_L3.pt"


def outputs_of(modules: Iterable[nn.Module]) -> list[Any]:
    """A list that a forward pass fills with the modules' outputs."""
    outputs: list[Any] = []
    for module in modules:
        module.register_forward_hook(lambda _, __, output: outputs.append(output))
    return outputs


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    if not GOLDEN.is_file():
        pytest.skip(f"the authors' recorded numbers are not at {GOLDEN}")
    return torch.load(GOLDEN, weights_only=True)


def run_golden(golden: dict[str, Any], network: HDGNNNetwork) -> Tensor:
    with torch.no_grad():
        arguments = [golden[name].long() for name in ("atomic_numbers", "edge_index")]
        graph = (*arguments, golden["edge_vec"], golden["batch"], len(golden["natoms"]))
        return network(*graph, golden["edge_rot_mat"])["energy"]


def test_recorded_numbers(golden):
    network = from_authors_hdgnn(golden["config"], golden["state_dict"]).eval().network
    layers = outputs_of(network.backbone.layers)
    messages = outputs_of(network.backbone.layers[0].blocks)
    energy = run_golden(golden, network)
    assert energy.dtype == torch.float32
    torch.testing.assert_close(energy, golden["energy"], rtol=1e-4, atol=0)
    for (x, f), x_expected, f_expected in zip(layers, golden["x_layers"], golden["f_layers"]):
        assert relative_error(x, x_expected) < 1e-4
        assert relative_error(f, f_expected) < 1e-4
    recorded = golden["messages_layer0"][0]
    summed = torch.zeros_like(messages[0]).index_add_(0, recorded["edge_index"][1], recorded["out"])
    assert relative_error(messages[0], summed) < 1e-4


def test_recorded_numbers_need_their_unflipped_degree(golden):
    """The control: lmax is odd, so the exact f(-r), this package's own, gives other layers."""
    network = from_authors_hdgnn(golden["config"], golden["state_dict"]).eval().network
    exact = HDGNNNetwork({**vars(network.config), "antipodal": "exact"}).eval()
    exact.load_state_dict(network.state_dict())
    layers = outputs_of(exact.backbone.layers)
    run_golden(golden, exact)
    assert relative_error(layers[-1][0], golden["x_layers"][-1]) > 1e-3


def test_recorded_numbers_of_the_plain_writing_out(golden):
    """That it is the authors' algorithm: the numbers below are its own, and need no file of theirs."""
    weights = {name: weight.double() for name, weight in golden["state_dict"].items()}
    graph = SimpleNamespace(
        numbers=golden["atomic_numbers"].long(),
        edge_index=golden["edge_index"].long(),
        edge_vec=golden["edge_vec"].double(),
        batch=golden["batch"],
        num_systems=len(golden["natoms"]),
    )
    energy, layers = PlainAuthorsHDGNN(golden["config"], weights)(graph, golden["edge_rot_mat"].double())
    torch.testing.assert_close(energy.float(), golden["energy"], rtol=1e-4, atol=0)
    for (x, f), x_expected, f_expected in zip(layers, golden["x_layers"], golden["f_layers"]):
        assert relative_error(x.float(), x_expected) < 1e-4
        assert relative_error(f.float(), f_expected) < 1e-4


STORED = json.loads((Path(__file__).parent / "data/authors_hdgnn.json").read_text())
"""A graph, and what the plain writing-out made of it: :func:`numbers_of` for each of some configurations."""
CASES = [pytest.param(case["config"], case["numbers"], id=str(case["config"])) for case in STORED["cases"]]


def stored_graph() -> tuple[Clusters, Tensor]:
    """Molecules with all pairs closer than 6 Å joined, and frames of the edges."""
    numbers, batch = torch.tensor(STORED["numbers"]), torch.tensor(STORED["batch"])
    pos = torch.tensor(STORED["positions"], dtype=torch.float64)
    joined = (torch.cdist(pos, pos) < 6.0) & (batch[:, None] == batch) & ~torch.eye(len(pos), dtype=torch.bool)
    graph = Clusters(numbers, pos, joined.nonzero().T.flip(0), batch, int(batch.max()) + 1)
    return graph, edge_frames(graph.edge_vec, torch.arange(graph.edge_index.shape[1]).double())


def numbers_of(energy: Tensor, layers: Iterable[tuple[Tensor, Tensor]]) -> dict[str, list[float]]:
    """The energies, eV, and the norms of x and f after each layer."""
    x, f = zip(*layers)
    norms = ([float(values.norm()) for values in each] for each in (x, f))
    return dict(zip(("energy", "x", "f"), (energy.tolist(), *norms)))


def numbers_of_converted(config: dict[str, Any], **changes: Any) -> dict[str, list[float]]:
    network = from_authors_hdgnn(config, random_weights(config)).network
    changed = HDGNNNetwork({**vars(network.config), **changes}).double().eval()
    changed.load_state_dict(network.state_dict())
    layers = outputs_of(changed.backbone.layers)
    graph, frames = stored_graph()
    with torch.no_grad():
        energy = changed(*graph.arguments(), frames)["energy"]
    return numbers_of(energy, layers)


@pytest.mark.parametrize(("changes", "stored"), CASES)
def test_stored_numbers(changes, stored):
    config = {**BASE, **changes}
    plain = numbers_of(*PlainAuthorsHDGNN(config, random_weights(config))(*stored_graph()))
    converted = numbers_of_converted(config)
    for name, expected in stored.items():
        assert plain[name] == pytest.approx(expected, rel=1e-8)
        assert converted[name] == pytest.approx(expected, rel=1e-5)


def test_stored_numbers_need_the_unflipped_degree():
    config, stored = CASES[0].values
    exact = numbers_of_converted({**BASE, **config}, antipodal="exact")
    assert exact["x"][-1] != pytest.approx(stored["x"][-1], rel=1e-3)
    assert exact["energy"] != pytest.approx(stored["energy"], rel=1e-3)


CONFIGURATIONS: list[dict[str, Any]] = [
    {"lmax": 2, "num_interactions": 1},
    {"lmax": 3, "num_interactions": 3, "sphere_channels": 1, "sphere_channels_reduce": 1},
    {"lmax": 4, "mmax": 0, "basis_width_scalar": 1},
    {"lmax": 5, "sphere_channels": 9, "sphere_channels_reduce": 9, "cutoff": 5},
    {"lmax": 6, "mmax": 2},
    {"lmax": 4, "num_resolutions": 2},
    {"lmax": 5, "num_resolutions": 2, "hidden_channels": 3},
    {"lmax": 7, "num_resolutions": 2, "num_interactions": 1},
]


@pytest.mark.parametrize("changes", CONFIGURATIONS, ids=str)
def test_other_configurations(changes):
    """One or two resolutions, odd and even lmax, channels too few for their squeeze-and-excitation, ..."""
    config = {**BASE, **changes}
    weights, graph = random_weights(config), clusters((15, 3))
    frames = edge_frames(graph.edge_vec, torch.arange(graph.edge_index.shape[1]).double())
    expected_energy, expected_layers = PlainAuthorsHDGNN(config, weights)(graph, frames)
    model = from_authors_hdgnn(config, {f"module.{name}": weight for name, weight in weights.items()}).eval()
    layers = outputs_of(model.network.backbone.layers)
    with torch.no_grad():
        energy = model.network(*graph.arguments(), frames)["energy"]
    for (x, _), (expected, _) in zip(layers, expected_layers):
        assert relative_error(x, expected) < 1e-5
    torch.testing.assert_close(energy, expected_energy, rtol=1e-4, atol=0)
    assert expected_energy.abs().min() > 1e-2


def test_basis_width_that_is_left_out_is_the_authors():
    assert authors_config({})["basis_width"] == 2.0


def test_forces_head_follows_from_the_weights():
    weights = random_weights(BASE)
    for n in (1, 2, 3):
        weights |= {f"force_fc{n}.{leaf}": weights[f"energy_fc{n}.{leaf}"] for leaf in ("weight", "bias")}
    assert from_authors_hdgnn(BASE, weights).network.config.regress_forces
    assert not from_authors_hdgnn({**BASE, "regress_forces": True}, random_weights(BASE)).network.config.regress_forces


@pytest.mark.parametrize(
    ("changes", "weights_changes", "reason"),
    [
        ({"num_headz": 1}, {}, "key 'num_headz' is unknown"),
        ({"sphere_channels_reduce": 2}, {}, "'sphere_channels_reduce' must equal"),
        ({"distance_function": "sigmoid"}, {}, "only 'distance_function: gaussian'"),
        ({"num_interactions": 3}, {}, "lack 'edge_blocks.1.fc_edge.weight'"),
        ({"hidden_channels": 8}, {}, "'edge_blocks.0.message_blocks.0.node_interaction1.node_fc1.weight' has shape"),
        ({}, {"edge_blocks.1.message_blocks.0.cg1.cg.tp.weight": None}, "lack 'edge_blocks.1.message_blocks.0.cg1.cg"),
        ({}, {"edge_blocks.1.message_blocks.0.cg1.cg.tp.weight": torch.zeros(4)}, "has 4 weights"),
    ],
)
def test_what_cannot_be_converted_is_refused(changes, weights_changes, reason):
    weights = {**random_weights(BASE), **weights_changes}
    weights = {name: weight for name, weight in weights.items() if weight is not None}
    with pytest.raises(ConfigError) as caught:
        from_authors_hdgnn({**BASE, **changes}, weights)
    assert reason in str(caught.value) and "\n" not in str(caught.value)
