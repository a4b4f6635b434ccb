"""With ``weight_init: unit_variance`` signals keep their size through the layers of an untrained network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fairchem_hdgnn.data.neighbor_lists import NeighborList

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def signal_path() -> Any:
    """benchmarks/signal_path.py, which makes the figure of docs/training.md."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import signal_path as module  # noqa: PLC0415 - not on the path before

        yield module
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.mark.parametrize(
    ("name", "differs"),
    [("HDGNN, paper", 0.05), ("HDGNN, paper, fully_tp", 0.03), ("HDGNN, authors", 0.01), ("eSCN", 1e-3)],
)
def test_signals_keep_their_size(signal_path: Any, name: str, differs: float) -> None:
    kind, keys = signal_path.NETWORKS[name]
    keys = {**keys, "lmax": 2, "num_layers": 10, "sphere_channels": 32, "hidden_channels": 32}
    batch = signal_path.batch_with_edges([signal_path.slab((3, 3, 3))], NeighborList.PAIRS)
    measured = {}
    for start in signal_path.STARTS:
        torch.manual_seed(0)
        measured[start] = signal_path.measure(kind(**keys, weight_init=start).eval(), batch)
    signals = measured["unit_variance"]
    assert signals[-1].differs > max(differs, 3 * measured["torch"][-1].differs)
    sizes = [signal.x[0] for signal in signals[1:]]
    assert min(sizes) > 1e-3 and max(sizes) < 1e2
    assert max(sizes) < 100 * min(sizes)
