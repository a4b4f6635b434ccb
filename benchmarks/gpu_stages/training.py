"""The remaining time: a learning curve on QM9's gap, or on adsorption energies of alloys."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from plain_loop import Run, Session, Task
from qm9_loop import qm9_network, qm9_task
from torch import nn

from fairchem_hdgnn.models.hdgnn.network import HDGNNNetwork
from gpu_stages.bench import Bench
from gpu_stages.slabs import slabs

GAP = Path(__file__).parents[2] / "configs/qm9/gap.yml"
TINY = {"num_layers": 1, "lmax": 2, "sphere_channels": 8, "hidden_channels": 16, "distance_resolution": 0.2}
ALLOYS: dict[str, Any] = {
    "preset": "authors", "num_resolutions": 1, "lmax": 4, "num_layers": 4, "sphere_channels": 64,
    "hidden_channels": 256, "cutoff": 6.0, "edge_channels": 64, "invariant_channels": 128,
}  # fmt: skip
ALLOY_NEIGHBORS = 20
ALLOY_SPLITS = ("val_id", "val_ood_ads", "val_ood_cat", "val_ood_both")
TESTING = 0.12
"""Share of the time that evaluations take."""


def training(bench: Bench) -> dict[str, Any]:
    """Train for the rest of the time; the curve is also in ``OUT/qm9.json`` or ``OUT/hea.json``."""
    torch.manual_seed(0)
    try:
        task, network = (qm9 if bench.train == "qm9" else alloys)(bench)
    except (ImportError, FileNotFoundError) as failure:
        return {"skipped": str(failure)}
    seconds = 2.0 if bench.tiny else (1 - TESTING) * bench.seconds_left()
    if seconds < 1:
        return {"skipped": "no time was left"}
    run = Run(
        seconds=seconds,
        val_size=32 if bench.tiny else 2000,
        test_size=32 if bench.tiny else 2000,
        batch_size=8 if bench.tiny else 64 if bench.train == "qm9" else 32,
        evaluations=2 if bench.tiny else 6,
        precision="tf32",
    )
    # The state is large and of no use once this machine is given back.
    with tempfile.TemporaryDirectory() as folder:
        result = Session(run, task, network.to(bench.device), Path(folder)).train()
    assert result is not None
    result["steps_per_s"] = result["steps"] / result["seconds"]
    (bench.out / f"{bench.train}.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def qm9(bench: Bench) -> tuple[Task, nn.Module]:
    """HOMO-LUMO gap of 110,000 molecules, meV, with the network of configs/qm9/gap.yml."""
    path = bench.carry / "qm9_gap.npz"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; `make gpu-bundle` makes it")
    return qm9_task(GAP, path, bench.device), qm9_network(GAP, **(TINY if bench.tiny else {}))


def alloys(bench: Bench) -> tuple[Task, nn.Module]:
    """Adsorption energies of small molecules on alloys, meV, from starting geometries."""
    path = bench.carry / "hea_adsorption.npz"
    structures = slabs(path, bench, ALLOYS["cutoff"], ALLOY_NEIGHBORS)
    if not bench.tiny:
        for rows in structures.rows.values():
            structures.find_edges(rows)
    task = Task("adsorption energy", "meV", 1000.0, structures, ALLOYS["cutoff"], "val_id", ALLOY_SPLITS)
    return task, HDGNNNetwork({**ALLOYS, **(TINY if bench.tiny else {})})
