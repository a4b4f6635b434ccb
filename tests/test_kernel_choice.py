"""``implementation: auto``: the kernels where a stored measurement proves them right and faster, and only there."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fairchem_hdgnn.models.arithmetic.precision import Compute
from fairchem_hdgnn.models.escn.config import ESCNConfig
from fairchem_hdgnn.models.hdgnn.config import HDGNNConfig
from fairchem_hdgnn.models.ops import proven
from fairchem_hdgnn.models.ops.edge_ops import FastEdgeOps
from fairchem_hdgnn.models.ops.execution import Execution, Implementation
from fairchem_hdgnn.models.ops.triton_ops import TritonEdgeOps

GPU, CPU = torch.device("cuda"), torch.device("cpu")
BFLOAT16, FLOAT32, TF32 = Compute(torch.bfloat16, False), Compute(torch.float32, False), Compute(torch.float32, True)
HDGNN, ESCN = HDGNNConfig.from_keys({"preset": "authors"}), ESCNConfig.from_keys({})


@pytest.fixture(autouse=True)
def table_and_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A card of capability 9.0, and an empty table."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(proven, "TABLE", tmp_path / "proven.json")
    proven._records.cache_clear()
    yield tmp_path / "proven.json"
    proven._records.cache_clear()


@pytest.fixture
def reporter(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("gpu_report")


def has_kernels(config: Any, compute: Compute, device: torch.device) -> bool:
    return Execution.chosen(config, compute, device, torch.float32).ops is TritonEdgeOps


def result() -> dict[str, Any]:
    """As `benchmarks/gpu.py` writes it: kernels right and faster in bfloat16, HDGNN alone."""
    rows = []
    for network, config, step in (("authors", HDGNN, 5.0), ("escn", ESCN, 20.0)):
        for num_layers in (16, 4):
            row = {
                "network": network,
                "num_layers": num_layers,
                "precision": "bfloat16",
                "ok": True,
                "forward_ms": step,
            }
            rows.append({**row, "step_ms": 3 * step, "sizes": proven.sizes_of(config), "implementation": "triton"})
    plain = [{**row, "forward_ms": 10.0, "step_ms": 30.0} for row in rows]
    agreeing = [{"network": name, "precision": "bfloat16", "ok": True} for name in ("authors", "escn")]
    parity = {"networks": agreeing, "same_step_twice": [{"ok": True}]}
    stages = {"networks": plain, "triton_networks": rows, "triton_parity": parity}
    made = {"machine": {"capability": "9.0"}, "stages": {name: {"result": found} for name, found in stages.items()}}
    return json.loads(json.dumps(made))


def test_sizes_that_a_result_proves(reporter: Any, table_and_card: Path) -> None:
    table_and_card.write_text(reporter.table_of([result(), result()]))
    assert len(json.loads(table_and_card.read_text())) == 1
    assert has_kernels(HDGNN, BFLOAT16, GPU)
    assert not has_kernels(HDGNN, BFLOAT16, CPU)
    assert not has_kernels(HDGNN, FLOAT32, GPU) and not has_kernels(HDGNN, TF32, GPU)
    assert not has_kernels(ESCN, BFLOAT16, GPU)
    assert not has_kernels(HDGNNConfig.from_keys({"preset": "authors", "sphere_channels": 64}), BFLOAT16, GPU)
    assert not has_kernels(HDGNNConfig.from_keys({"preset": "paper"}), BFLOAT16, GPU)
    for key, value in (("neural_input", "rotated"), ("activations", "recompute"), ("lmax_far", 6)):
        assert not has_kernels(HDGNNConfig.from_keys({"preset": "authors", key: value}), BFLOAT16, GPU)
    deeper = HDGNNConfig.from_keys({"preset": "authors", "num_layers": 3, "cutoff": 8.0})
    assert has_kernels(deeper, BFLOAT16, GPU)
    assert has_kernels(HDGNNConfig.from_keys({"preset": "paper", "implementation": "triton"}), BFLOAT16, GPU)
    assert not has_kernels(HDGNNConfig.from_keys({"preset": "authors", "implementation": "fast"}), BFLOAT16, GPU)


def test_another_card_is_not_proven(reporter: Any, table_and_card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table_and_card.write_text(reporter.table_of([result()]))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
    assert not has_kernels(HDGNN, BFLOAT16, GPU)


def test_no_kernels_without_triton_or_on_other_cards(
    reporter: Any, table_and_card: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table_and_card.write_text(reporter.table_of([result()]))
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert not has_kernels(HDGNN, BFLOAT16, GPU)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not has_kernels(HDGNN, BFLOAT16, GPU)


def test_a_result_that_refutes_another(reporter: Any) -> None:
    slower = result()
    slower["stages"]["triton_networks"]["result"][0]["step_ms"] = 1e9
    assert reporter.table_of([result(), slower]) == reporter.table_of([slower, result()]) == "[]\n"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda stages: stages["triton_parity"]["result"]["networks"][0].update(ok=False),
        lambda stages: stages["triton_parity"]["result"]["same_step_twice"][0].update(ok=False),
        lambda stages: stages["triton_parity"].update(result={"skipped": "no Triton"}),
        lambda stages: stages.pop("triton_parity"),
        lambda stages: stages["triton_networks"]["result"][1].update(step_ms=31.0),
        lambda stages: stages["triton_networks"]["result"][0].update(forward_ms=11.0),
        lambda stages: stages["triton_networks"]["result"][0].update(forward_ms=9.8),
        lambda stages: stages["triton_networks"]["result"][0].update(ok=False),
        lambda stages: stages["triton_networks"]["result"][1].pop("step_ms"),
        lambda stages: stages["networks"]["result"].pop(1),
        lambda stages: stages["triton_networks"]["result"].pop(1),
        lambda stages: stages["triton_parity"]["result"].update(networks={"error_message": "memory", "ok": False}),
        lambda stages: [row.pop("sizes") for row in stages["triton_networks"]["result"]],
        lambda stages: stages.pop("networks"),
    ],
    ids=[
        "wrong", "does not repeat", "no parity", "nothing compared", "slower step when shallow", "slower forward pass",
        "as fast within noise",        "not a number", "not timed", "nothing to compare with", "one depth alone",
        "networks failed", "an older result", "no plain times",
    ],
)  # fmt: skip
def test_what_proves_nothing(reporter: Any, spoil: Any) -> None:
    made = copy.deepcopy(result())
    spoil(made["stages"])
    assert reporter.table_of([made]) == "[]\n"


def test_table_is_made_from_the_stored_results(reporter: Any) -> None:
    assert reporter.TABLE.read_text() == reporter.table_of(reporter.stored_reports())


def test_kernels_are_for_float32() -> None:
    config = HDGNNConfig(implementation=Implementation.TRITON)
    for dtype, ops in ((torch.float32, TritonEdgeOps), (torch.float64, FastEdgeOps), (torch.bfloat16, FastEdgeOps)):
        assert Execution.chosen(config, Compute(dtype, tf32=False), GPU, dtype).ops is ops
    assert Execution.chosen(config, BFLOAT16, GPU, torch.float32).ops is TritonEdgeOps
