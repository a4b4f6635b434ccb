"""Agreement with a CPU in float64: energies, all gradients, Wigner-D, equivariance, and the authors' own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fairchem_hdgnn.models.hdgnn.layer import Layer, MessageBlock
from fairchem_hdgnn.models.hdgnn.network import HDGNNNetwork
from fairchem_hdgnn.models.so3.wigner import wigner_d
from gpu_stages.bench import (
    PRECISIONS,
    Arguments,
    Bench,
    attempt,
    frames_of,
    largest,
    make_network,
    moved,
    precision,
    random_graph,
    redraw,
    relative,
    tf32_everywhere,
    within,
)

TOLERANCE = {"float32": 1e-5, "tf32": 1e-3, "bfloat16": 1e-2}
"""Relative error that energies, and the gradient of all parameters together, may have."""

GEOMETRY_TOLERANCE = 1e-5
GOLDEN_TOLERANCE = 1e-4
EVERYWHERE = "tf32 everywhere"
"""Torch's own setting instead of ``optim.precision``."""


def parity(bench: Bench, implementations: tuple[str, ...] = ("fast", "reference")) -> dict[str, Any]:
    """Everything that must agree, and whether it does (``ok``)."""
    checks: dict[str, Callable[[], Any]] = {
        "networks": partial(networks, bench, implementations),
        "metp_under_roll": partial(metp_roll, bench, implementations),
        "same_step_twice": partial(determinism, bench, implementations[:1]),
    }
    if "fast" in implementations:
        checks |= {"wigner_d": partial(wigner, bench), "authors_numbers": partial(golden, bench)}
    found = {}
    for name, check in checks.items():
        found[name] = attempt(check)
        bench.save(found)
    return found


def networks(bench: Bench, implementations: tuple[str, ...]) -> list[dict[str, Any]]:
    """Relative errors of energies and of all parameters' gradients, for each network, implementation and precision."""
    arguments = random_graph(6, 12)
    frames = frames_of(arguments)
    rows = []
    for name in ("authors", "two resolutions", "paper", "fully connected", "escn"):
        exact_network = redraw(make_network(bench, name, 2, implementation="reference")).double().eval()
        exact = energies_and_gradients(exact_network, moved(arguments, torch.device("cpu"), torch.double), frames)
        for implementation in implementations:
            network = make_network(bench, name, 2, implementation=implementation).eval()
            network.load_state_dict(exact_network.state_dict())
            network.to(bench.device)
            for mode in PRECISIONS:

                def compare(mode: str = mode, network: nn.Module = network, exact: Any = exact) -> dict[str, Any]:
                    graph, drawn = moved(arguments, bench.device), frames.to(bench.device, torch.float32)
                    with precision(mode, bench.device):
                        got = energies_and_gradients(network, graph, drawn)
                    energy, gradient = relative(got[0], exact[0]), relative(joined(got[1]), joined(exact[1]))
                    return {
                        "energy": energy,
                        "gradient": gradient,
                        "worst_parameter": worst(got[1], exact[1]),
                        "ok": within(TOLERANCE[mode], energy, gradient),
                    }

                row = {"network": name, "implementation": implementation, "precision": mode}
                left = bench.seconds_left() > 1 or bench.tiny
                rows.append({**row, **(attempt(compare) if left else {"skipped": "no time was left"})})
    return rows


def products(mode: str, bench: Bench) -> contextlib.AbstractContextManager[object]:
    """A precision, or TF32 by torch's own setting."""
    return tf32_everywhere() if mode == EVERYWHERE else precision(mode, bench.device)


def energies_and_gradients(
    network: nn.Module, arguments: Arguments, frames: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Energies and the gradient of their weighted sum with respect to each parameter; float64, on the CPU."""
    energies = network(*arguments, frames)["energy"]
    gradients = gradients_of(energies, network)
    return energies.detach().double().cpu(), tuple(gradient.double().cpu() for gradient in gradients)


def gradients_of(energies: Tensor, network: nn.Module) -> tuple[Tensor, ...]:
    """Of the energies' weighted sum, with respect to each parameter; 0 for one that has no effect."""
    weights = torch.arange(1, len(energies) + 1, device=energies.device).to(energies)
    parameters = tuple(network.parameters())
    found = torch.autograd.grad((weights * energies).sum(), parameters, allow_unused=True)
    return tuple(torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found))


def joined(tensors: tuple[Tensor, ...]) -> Tensor:
    """All of them in one row."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def worst(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """Largest relative error of one parameter's gradient, of those that matter."""
    total = joined(expected).norm()
    return largest(relative(g, e) for g, e in zip(got, expected) if e.norm() > 1e-3 * total)


def wigner(bench: Bench) -> list[dict[str, Any]]:
    """Error of D and of ``D D^T = 1``, whatever products are allowed to do."""
    frames = frames_of(random_graph(2, 12 if bench.tiny else 200))
    lmax = 3 if bench.tiny else 6
    exact = wigner_d(frames, lmax)
    one = torch.eye(exact.shape[1], dtype=torch.double)
    rows = []
    for mode in (*PRECISIONS, EVERYWHERE):
        with products(mode, bench):
            got = wigner_d(frames.to(bench.device, torch.float32), lmax).cpu().double()
        errors = {"error": float((got - exact).abs().max()), "orthogonality": float((got @ got.mT - one).abs().max())}
        rows.append({"precision": mode, **errors, "ok": within(GEOMETRY_TOLERANCE, *errors.values())})
    return rows


def metp_roll(bench: Bench, implementations: tuple[str, ...]) -> list[dict[str, Any]]:
    """Messages made of METP alone do not see how the frames are rolled, to float32's rounding."""
    arguments = moved(random_graph(2, 12), bench.device)
    numbers, edge_index, edge_vec = arguments[:3]
    rows = []
    for mode in ("float32", "tf32", EVERYWHERE):
        for implementation in implementations:
            keys = {"attention": [0.0, 0.0, 0.0, 1.0], "full_degree_product": False}
            network = make_network(bench, "authors", 2, implementation=implementation, **keys).to(bench.device).eval()
            assert isinstance(network, HDGNNNetwork)
            sums = []
            for seed in (0, 1):
                frames = frames_of(arguments, seed).to(bench.device, torch.float32)
                with torch.no_grad(), products(mode, bench):
                    sums.append(second_layer_messages(network, numbers, edge_index, edge_vec, frames))
            error = relative(sums[0], sums[1])
            row = {"precision": mode, "implementation": implementation, "error": error}
            rows.append({**row, "ok": within(GEOMETRY_TOLERANCE, error)})
    return rows


def second_layer_messages(
    network: HDGNNNetwork, numbers: Tensor, edge_index: Tensor, edge_vec: Tensor, frames: Tensor
) -> Tensor:
    """Summed messages of the second layer on a fixed random x of all degrees."""
    found: list[Tensor] = []
    layer, config = network.backbone.layers[1], network.config
    assert isinstance(layer, Layer) and isinstance(layer.blocks[0], MessageBlock)
    generator = torch.Generator().manual_seed(2)
    shape = (len(numbers), (config.lmax + 1) ** 2, config.sphere_channels)
    x = torch.randn(shape, generator=generator).to(numbers.device)
    before = layer.blocks[0].register_forward_pre_hook(lambda _, arguments: (x, *arguments[1:]))
    after = layer.blocks[0].register_forward_hook(lambda _, __, output: found.append(output))
    network.backbone(numbers, edge_index, edge_vec, frames)
    before.remove()
    after.remove()
    return found[0]


def golden(bench: Bench) -> dict[str, Any]:
    """The authors' recorded energies and layers, with their weights."""
    path = bench.carry / "authors.pt"
    if not path.is_file():
        return {"skipped": f"{path} does not exist; `make gpu-bundle` creates it if the authors' numbers are available"}
    recorded = torch.load(path, map_location=bench.device, weights_only=True)
    network = HDGNNNetwork(recorded["keys"]).eval()
    network.load_state_dict(recorded["state_dict"])
    network.to(bench.device)
    layers: list[Tensor] = []
    for layer in network.backbone.layers:
        layer.register_forward_hook(lambda _, __, output: layers.append(output[0]))
    with torch.no_grad():
        energy = network(*recorded["arguments"], recorded["frames"])["energy"]
    errors = [relative(x, expected) for x, expected in zip(layers, recorded["layers"])]
    errors.append(relative(energy, recorded["energy"]))
    return {"errors_of_layers_and_energy": errors, "ok": within(GOLDEN_TOLERANCE, *errors)}


def determinism(bench: Bench, implementations: tuple[str, ...]) -> list[dict[str, Any]]:
    """How far two runs of the same step differ: 0 if sums are formed in a fixed order."""
    arguments = random_graph(2, 12 if bench.tiny else 70)
    frames = frames_of(arguments).to(bench.device, torch.float32)
    rows = []
    for name in ("authors", "escn"):
        for implementation in implementations:
            network = make_network(bench, name, 2, implementation=implementation).to(bench.device)
            one, other = (energies_and_gradients(network, moved(arguments, bench.device), frames) for _ in range(2))
            pairs = zip([one[0], *one[1]], [other[0], *other[1]])
            differences = [relative(a, b) for a, b in pairs if b.norm() > 0]
            rows.append({
                "network": name,
                "implementation": implementation,
                "equal": largest(differences) == 0.0,
                "largest_difference": largest(differences),
                "ok": within(1e-3, *differences),
            })  # fmt: skip
    return rows
