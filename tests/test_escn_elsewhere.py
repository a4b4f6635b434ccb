"""Where eSCN takes fewer and larger steps than on a CPU: counted, and equal."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from small_networks import clusters, randomise
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fairchem_hdgnn.models.escn import block_products, geometry, update
from fairchem_hdgnn.models.escn.block_products import Activation, BlockProducts
from fairchem_hdgnn.models.escn.network import ESCNNetwork
from fairchem_hdgnn.models.so3.frames import edge_frames

aten = torch.ops.aten


class Operations(TorchDispatchMode):
    """Counts the operations that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[func._overloadpacket] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("device", "slices"), [("cpu", 10), ("meta", 1)])
def test_grid_products_of_a_block(device: str, slices: int) -> None:
    """A device without numbers takes the branch of a GPU."""
    y, gradient = torch.empty(2, 320, 9, 4, device=device).unbind()
    products = object.__new__(BlockProducts)
    products.activation = Activation(torch.empty(30, 9, device=device), torch.empty(9, 30, device=device))
    with Operations() as operations:
        products.activate(y)
    assert operations.count[aten.bmm] == 2 * slices
    with Operations() as operations:
        products.activate_backward(y, gradient)
    assert operations.count[aten.bmm] == 3 * slices


def test_sizes() -> None:
    for device, edges, nodes in (("cpu", 32, 64), ("meta", 5000, 1024)):
        like = torch.empty(5000, 4, 4, device=device)
        assert (block_products.edges_per_grid(like), update.nodes_per_chunk(like)) == (edges, nodes)
    assert block_products.edges_per_grid(torch.empty(0, 4, 4, device="meta")) == 1, "a size that split takes"


def outputs_and_gradients() -> tuple[list[Tensor], int]:
    """Of a small network on 69 atoms, and how many operations it took."""
    torch.manual_seed(0)
    sizes = {"sphere_channels": 4, "hidden_channels": 6, "edge_channels": 5, "num_sphere_samples": 20}
    model = ESCNNetwork({"lmax": 2, "num_layers": 2, "cutoff": 6.0, "distance_resolution": 0.5, **sizes}).double()
    randomise(model)
    graph = clusters((9,) * 7 + (6,))
    frames = edge_frames(graph.edge_vec, torch.linspace(0, 6, len(graph.edge_vec), dtype=torch.float64))
    with Operations() as operations:
        output = model(*graph.arguments(), frames)
        (output["energy"].square().sum() + output["forces"].square().sum()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [output["energy"], output["forces"], *gradients], operations.count.total()


def test_large_steps_equal_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, small_steps = outputs_and_gradients()
    like = torch.empty(0, device="meta")
    for module, name in ((block_products, "edges_per_grid"), (update, "nodes_per_chunk")):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda x, original=original: original(like.new_empty(x.shape)))
    monkeypatch.setattr(geometry, "EDGES_PER_BLOCK_ON_CPU", geometry.EDGES_PER_BLOCK)
    got, large_steps = outputs_and_gradients()
    assert large_steps < 0.8 * small_steps
    for one, other in zip(got, expected):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
