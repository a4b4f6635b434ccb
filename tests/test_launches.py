"""What a further layer costs a GPU besides arithmetic: operations to launch, and waits for their results."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from emulated_tf32 import take_the_branches_of_a_gpu
from small_networks import clusters, network
from torch.utils._python_dispatch import TorchDispatchMode
from waits import Waits

NO_KERNEL = {
    "_unsafe_view", "alias", "as_strided", "detach", "empty", "empty_like", "expand", "new_empty", "new_empty_strided",
    "permute", "promote_types", "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind",
    "unsqueeze", "view",
}  # fmt: skip
"""Operations that change what a tensor is called, or reserve memory."""


class Operations(TorchDispatchMode):
    """Counts what is dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter = Counter()
        self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func._overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def operations_of_a_step(num_layers: int, **keys: Any) -> Operations:
    """Forward and backward, all constants at hand."""
    model = network(torch.float32, num_layers=num_layers, **keys)
    graph = clusters((7, 5), dtype=torch.float32)
    for _ in range(2):
        with Operations() as operations, Waits() as waits:
            model(*graph.arguments())["energy"].sum().backward()
        operations.waits = waits.count
    return operations


@pytest.mark.parametrize("activations", ["store", "recompute"])
def test_a_further_layer(monkeypatch: pytest.MonkeyPatch, activations: str) -> None:
    """One block of edges, as on a GPU; the authors' messages at one resolution."""
    take_the_branches_of_a_gpu(monkeypatch)
    keys = {"preset": "authors", "lmax": 6, "num_resolutions": 1, "activations": activations}
    three, two = (operations_of_a_step(layers, **keys) for layers in (3, 2))
    further = Counter({name: count - two.counts[name] for name, count in three.counts.items()})
    launches = sum(count for name, count in further.items() if name not in NO_KERNEL)
    assert 100 < launches <= 850, further
    assert three.waits == two.waits
