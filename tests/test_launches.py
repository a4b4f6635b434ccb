"""What a further layer costs a GPU besides arithmetic: operations to launch, and waits for their results."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from emulated_tf32 import take_the_branches_of_a_gpu
from small_networks import SMALL, clusters, network
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from waits import Waits

from fairchem_hdgnn.models.escn.config import ESCNConfig
from fairchem_hdgnn.models.escn.network import ESCNNetwork

NO_KERNEL = {
    "_unsafe_view", "alias", "as_strided", "detach", "empty", "empty_like", "expand", "new_empty", "new_empty_strided",
    "permute", "promote_types", "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind",
    "unsqueeze", "view",
}  # fmt: skip
"""Operations that change what a tensor is called, or reserve memory."""


class Operations(TorchDispatchMode):
    """Counts what is dispatched, and in place of operations by this package's kernels, the kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter = Counter()
        self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace != "fairchem_hdgnn" or func is torch.ops.fairchem_hdgnn.gather.default:
            self.counts[func._overloadpacket.__name__] += 1
            return func(*args, **(kwargs or {}))
        launching = importlib.import_module("fairchem_hdgnn.models.kernels.launching")
        with mock.patch.object(launching, "launch", self._count_kernel):
            return func(*args, **(kwargs or {}))

    def _count_kernel(self, kernel: Any, *arguments: Any, **sizes: Any) -> None:
        self.counts[kernel.__name__] += 1


def hdgnn(**keys: Any) -> nn.Module:
    """The authors' messages at one resolution."""
    return network(torch.float32, preset="authors", num_resolutions=1, **keys)


def escn(**keys: Any) -> nn.Module:
    shared = {name: value for name, value in SMALL.items() if name in ESCNConfig.__dataclass_fields__}
    return ESCNNetwork({**shared, "mmax": 2, "regress_forces": False, **keys}).eval()


def operations_of_a_step(make: Callable[..., nn.Module], num_layers: int, activations: str) -> Operations:
    """Forward and backward, all constants at hand."""
    model = make(num_layers=num_layers, lmax=6, activations=activations)
    graph = clusters((7, 5), dtype=torch.float32)
    for _ in range(2):
        model.zero_grad()
        with Operations() as operations, Waits() as waits:
            model(*graph.arguments())["energy"].sum().backward()
        operations.waits = waits.count
    return operations


def further_layer(make: Callable[..., nn.Module], activations: str, **keys: Any) -> tuple[Counter, int]:
    """Launches of one more layer, by operation, and its waits."""
    three, two = (operations_of_a_step(partial(make, **keys), layers, activations) for layers in (3, 2))
    more = {name: count - two.counts[name] for name, count in three.counts.items() if name not in NO_KERNEL}
    return Counter(more), three.waits - two.waits


@pytest.mark.parametrize(
    ("make", "activations", "most"),
    [(hdgnn, "store", 580), (hdgnn, "recompute", 665), (escn, "store", 280), (escn, "recompute", 330)],
)
def test_a_further_layer(
    monkeypatch: pytest.MonkeyPatch, make: Callable[..., nn.Module], activations: str, most: int
) -> None:
    """One block of edges, as on a GPU."""
    take_the_branches_of_a_gpu(monkeypatch)
    launches, waits = further_layer(make, activations)
    assert 100 < sum(launches.values()) <= most, launches
    assert waits == 0
