"""Activations go as the backward pass goes, whether or not somebody still holds the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_networks import SMALL, clusters, network
from torch import Tensor, nn

from fairchem_hdgnn.host.counting import WorkCounter
from fairchem_hdgnn.models.escn.config import ESCNConfig
from fairchem_hdgnn.models.escn.network import ESCNNetwork
from fairchem_hdgnn.models.ops import blocks, sphere
from fairchem_hdgnn.models.ops.rotations import RotateScatter

SIZES = {"num_resolutions": 1, "hidden_channels": 64, "sphere_channels": 16, "num_layers": 3}


def escn(dtype: torch.dtype, **keys: Any) -> ESCNNetwork:
    shared = {name: value for name, value in SMALL.items() if name in ESCNConfig.__dataclass_fields__}
    return ESCNNetwork({**shared, "mmax": 2, **keys}).to(dtype).eval()


def loss_of(model: nn.Module) -> Tensor:
    return model(*clusters((12, 9), dtype=torch.float32).arguments())["energy"].square().sum()


@pytest.mark.parametrize("activations", ["store", "recompute"])
def test_nothing_is_left_after_the_backward_pass(activations: str) -> None:
    model = network(torch.float32, activations=activations, **SIZES)
    with WorkCounter() as counter:
        loss = loss_of(model)
        before = counter.live_bytes
        loss.backward()
        gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
        left = counter.live_bytes - gradients
    assert loss.isfinite()
    # When activations are recomputed, the rotations stay, for another pass.
    assert left < (0.01 if activations == "store" else 0.35) * before


def test_layers_are_freed_one_by_one_and_chunks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """At no time does the backward pass hold much more than the forward pass left."""
    monkeypatch.setattr(blocks, "NUMBERS_ON_CPU", 8_000)
    model = network(torch.float32, **SIZES)
    live: list[int] = []
    original = RotateScatter.backward

    def watched(ctx: Any, gradient: Tensor) -> Any:
        live.append(counter.live_bytes)
        return original(ctx, gradient)

    monkeypatch.setattr(RotateScatter, "backward", watched)
    with WorkCounter() as counter:
        loss = loss_of(model)
        kept = counter.live_bytes
        loss.backward()
    per_layer = len(live) // SIZES["num_layers"]
    assert per_layer > 3
    assert live[per_layer] < live[0] - 0.2 * kept, "the last layer's activations are gone before those of the one below"
    assert live[per_layer - 1] < live[1], "within a layer, those of a chunk before those of the next"


@pytest.mark.parametrize("make", [network, escn])
def test_evaluation_is_the_same_whatever_training_stores(
    monkeypatch: pytest.MonkeyPatch, make: Callable[..., nn.Module]
) -> None:
    """Few functions at a time on the grid of the sphere; constants at hand."""
    monkeypatch.setattr(sphere, "NUMBERS_ON_CPU", 1)
    operations = []
    for activations in ("store", "recompute"):
        model = make(torch.float32, activations=activations)
        with torch.no_grad():
            loss_of(model)
            with WorkCounter() as counter:
                loss_of(model)
        operations.append(counter.operations)
    assert operations[0] == operations[1]


def test_a_second_backward_pass_is_refused_in_one_line() -> None:
    model = network(torch.float32, **SIZES)
    loss = loss_of(model)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match=r"^a second backward pass .* compute the prediction again.*recompute$"):
        loss.backward()


def test_recomputed_activations_serve_twice() -> None:
    model = network(torch.float32, activations="recompute", **SIZES)
    loss, parameters = loss_of(model), [p for p in model.parameters() if p.requires_grad]
    first = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    second = torch.autograd.grad(loss, parameters, allow_unused=True)
    for one, other in zip(first, second):
        assert one is other is None or torch.equal(one, other)
