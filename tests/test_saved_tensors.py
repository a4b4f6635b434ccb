"""Gradients do not depend on what autograd does with the tensors that it saves, nor on where parameters live."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from small_networks import SMALL, clusters, network, randomise, relative_error
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.func import functional_call
from torch.nn.utils.parametrize import register_parametrization
from torch.utils.checkpoint import checkpoint

from fairchem_hdgnn.models.escn.config import ESCNConfig
from fairchem_hdgnn.models.escn.network import ESCNNetwork
from fairchem_hdgnn.models.ops import blocks

Gradients = Mapping[str, Tensor]


def hdgnn(**keys: Any) -> nn.Module:
    return network(full_degree_product=True, **keys)


def escn(**keys: Any) -> nn.Module:
    torch.manual_seed(0)
    shared = {name: value for name, value in SMALL.items() if name in ESCNConfig.__dataclass_fields__}
    model = ESCNNetwork({**shared, "mmax": 2, "readout_init": "random", **keys}).double().eval()
    randomise(model)
    return model


def loss_of(model: Callable[..., dict[str, Tensor]]) -> Tensor:
    outputs = model(*clusters().arguments())
    return sum((value.square().sum() for value in outputs.values()), torch.zeros(()))


def gradients_of(model: nn.Module) -> Gradients:
    """Of each parameter, which have been found by a backward pass."""
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def plain(model: nn.Module) -> Gradients:
    loss_of(model).backward()
    return gradients_of(model)


def on_cpu(model: nn.Module) -> Gradients:
    with save_on_cpu():
        loss = loss_of(model)
    loss.backward()
    return gradients_of(model)


def same_tensor(model: nn.Module) -> Gradients:
    with saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
        loss_of(model).backward()
    return gradients_of(model)


def a_copy(model: nn.Module) -> Gradients:
    with saved_tensors_hooks(lambda tensor: tensor.clone(), lambda tensor: tensor.clone()):
        loss = loss_of(model)
    loss.backward()
    return gradients_of(model)


def checkpointed(model: nn.Module) -> Gradients:
    loss_of(lambda *inputs: checkpoint(model, *inputs, use_reentrant=False)).backward()
    return gradients_of(model)


def on_other_values(model: nn.Module, derived: Callable[[Tensor], Tensor]) -> Gradients:
    """For parameters that the model does not have outside its forward pass."""
    others = {name: p.detach().clone().requires_grad_(p.requires_grad) for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.data.zero_()
    used = {name: derived(other) for name, other in others.items()}
    loss_of(lambda *inputs: functional_call(model, used, inputs)).backward()
    assert not gradients_of(model)
    return {name: other.grad for name, other in others.items() if other.grad is not None}


def functional(model: nn.Module) -> Gradients:
    return on_other_values(model, lambda parameter: parameter)


def functional_of_computed(model: nn.Module) -> Gradients:
    return on_other_values(model, lambda parameter: 1.0 * parameter)


@pytest.fixture(autouse=True)
def _several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "NUMBERS_ON_CPU", 1_000)


def assert_equal(actual: Gradients, expected: Gradients) -> None:
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        if gradient.any():
            assert relative_error(actual[name], gradient) < 1e-9, name
        else:
            assert not actual[name].any(), name


@pytest.mark.parametrize("activations", ["store", "recompute"])
@pytest.mark.parametrize("make", [hdgnn, escn])
@pytest.mark.parametrize("way", [on_cpu, same_tensor, a_copy, checkpointed, functional, functional_of_computed])
def test_gradients_are_those_of_a_plain_step(
    make: Callable[..., nn.Module], way: Callable[[nn.Module], Gradients], activations: str
) -> None:
    expected = plain(make(activations=activations))
    assert sum(bool(gradient.any()) for gradient in expected.values()) > 0.8 * len(expected)
    assert_equal(way(make(activations=activations)), expected)


def test_a_repeated_forward_pass_has_the_random_frames_of_the_first() -> None:
    """Two steps, in each of which the backward pass runs the whole network again."""
    expected, model = hdgnn(frames="random").train(), hdgnn(frames="random").train()
    for step in range(2):
        assert_equal(checkpointed(model), plain(expected))
        assert model.backbone.frames.step == expected.backbone.frames.step == step + 1


def test_random_frames_of_an_older_forward_pass_are_refused() -> None:
    model = hdgnn(frames="random").train()
    first = loss_of(lambda *inputs: checkpoint(model, *inputs, use_reentrant=False))
    model(*clusters(seed=1).arguments())
    with pytest.raises(RuntimeError, match=r"other than the last.*activations: recompute"):
        first.backward()


class Adapter(nn.Module):
    """A weight plus a product of two thin matrices."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.linspace(-1, 1, weight.shape[0], dtype=weight.dtype).unsqueeze(1))
        self.up = nn.Parameter(torch.linspace(1, 2, weight.shape[1], dtype=weight.dtype).unsqueeze(0))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + 0.1 * self.down @ self.up


def with_adapters(model: nn.Module) -> nn.Module:
    """Adapters on all linear layers, whose own weights stay as they are."""
    for module in list(model.modules()):
        if isinstance(module, nn.Linear):
            module.weight.requires_grad_(False)
            register_parametrization(module, "weight", Adapter(module.weight))
    return model


@pytest.mark.parametrize("activations", ["store", "recompute"])
@pytest.mark.parametrize("make", [hdgnn, escn])
@pytest.mark.parametrize("way", [plain, on_cpu, functional])
def test_adapters_learn(
    make: Callable[..., nn.Module], way: Callable[[nn.Module], Gradients], activations: str
) -> None:
    expected = plain(with_adapters(make(implementation="reference")))
    assert_equal(way(with_adapters(make(activations=activations))), expected)


@pytest.mark.parametrize("activations", ["store", "recompute"])
def test_a_gradient_that_would_be_lost_is_refused(activations: str) -> None:
    """The convolution's list of parameters has another tensor each time that somebody reads it."""
    model = escn(activations=activations)
    outer = model.backbone.layers[0].message.convolution.outer
    register_parametrization(outer, "0", Adapter(outer[0]))
    with pytest.raises(RuntimeError, match=r"would be lost.*implementation: reference"):
        loss_of(model).backward()


@pytest.mark.parametrize("activations", ["store", "recompute"])
@pytest.mark.parametrize("make", [hdgnn, escn])
def test_parameters_changed_before_the_backward_pass_are_refused(
    make: Callable[..., nn.Module], activations: str
) -> None:
    model = make(activations=activations)
    with save_on_cpu():
        loss = loss_of(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("make", [hdgnn, escn])
def test_frozen_parameters_change_nothing_for_the_others(make: Callable[..., nn.Module]) -> None:
    """In eSCN's first layer x has no orders but 0, so that nothing is left to train there."""
    expected, model = plain(make(activations="recompute")), make(activations="recompute")
    for name, parameter in model.named_parameters():
        parts = ("embedding", ".inner.0", ".outer.0", ".scale.")
        parameter.requires_grad_(not any(part in name for part in parts))
    found = plain(model)
    assert 5 < len(found) < len(expected)
    assert_equal(found, {name: expected[name] for name in found})


@pytest.mark.parametrize("make", [hdgnn, escn])
def test_training_after_evaluation_in_inference_mode(make: Callable[..., nn.Module]) -> None:
    """With sizes that no other test has, so that inference is the first to ask for the constants."""
    sizes = {"lmax": 5, "sphere_channels": 2, "hidden_channels": 2, "num_layers": 1}
    with torch.inference_mode():
        make(**sizes)
    model = make(**sizes)
    with torch.inference_mode():
        loss_of(model)
    assert plain(model)
