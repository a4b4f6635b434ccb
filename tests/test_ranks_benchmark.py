"""The scripts behind docs/scaling.md: formulas, drawn batches, and where their tables go."""

from __future__ import annotations

import importlib
import json
import logging
import multiprocessing
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import yaml
from fairchem.core.common.data_parallel import BalancedBatchSampler
from torch.utils.data import DistributedSampler
from torch_geometric.data import Data

from fairchem_hdgnn import SafeLmdbDataset
from fairchem_hdgnn.data.lmdb import DATA_FILE, write_lmdb

ROOT = Path(__file__).parents[1]
NETWORK = {
    "name": "fairchem_hdgnn.HDGNN",
    "lmax": 1,
    "num_layers": 1,
    "sphere_channels": 4,
    "hidden_channels": 4,
    "max_neighbors": 5,
}
PAGE = "before\n<!-- {0}: begin -->\nold\n<!-- {0}: end -->\nafter\n"


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Iterator[None]:
    """benchmarks/ can be imported from."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture
def ranks() -> Any:
    return importlib.import_module("ranks")


@pytest.fixture
def imbalance() -> Any:
    return importlib.import_module("imbalance")


@pytest.fixture(scope="module")
def lmdb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """29 records of 1 to 30 atoms, with stored edges."""
    folder, generator = tmp_path_factory.mktemp("records"), random.Random(0)
    records = []
    for sid in range(29):
        atoms = generator.randint(1, 30)
        edges = torch.zeros(2, generator.randint(atoms, 9 * atoms), dtype=torch.long)
        values = {"pos": torch.rand(atoms, 3), "atomic_numbers": torch.ones(atoms), "cell": torch.eye(3)[None]}
        records.append(Data(**values, edge_index=edges, natoms=atoms, sid=sid))
    write_lmdb(folder, records)
    return folder / DATA_FILE


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yml"
    path.write_text(yaml.safe_dump({"model": NETWORK, "optim": {"batch_size": 3}}))
    return path


def page_after(script: ModuleType, name: str, arguments: list[str], tmp_path: Path, patch: pytest.MonkeyPatch) -> str:
    """What a script puts between the marks of a page."""
    page = tmp_path / "page.md"
    page.write_text(PAGE.format(name))
    patch.setattr(script, "PAGE", page)
    patch.setattr(sys, "argv", [script.__name__, *arguments])
    script.main()
    before, table = page.read_text().split(f"<!-- {name}: begin -->\n")
    table, after = table.split(f"<!-- {name}: end -->")
    assert (before, after) == ("before\n", "\nafter\n")
    assert "old" not in table
    return table


def test_exchange(ranks: Any) -> None:
    assert [ranks.sent_bytes(400e6, count) for count in (1, 2, 4)] == [0, 400e6, 600e6]
    cluster = ranks.Cluster(gpus=4, inside=100e9, between=10e9, latency=1e-6)
    # 100 MB are four buckets. Four ranks send 150 MB at 100 GB/s, in 6 hops a bucket.
    assert cluster.exchange_seconds(100e6, 1) == 0
    assert cluster.exchange_seconds(100e6, 4) == pytest.approx(1.5e-3 + 24e-6)
    # Eight ranks send 175 MB at 10 GB/s, in 14 hops a bucket.
    assert cluster.exchange_seconds(100e6, 8) == pytest.approx(17.5e-3 + 56e-6)


def test_step(ranks: Any) -> None:
    step = ranks.Step(forward=0.1, backward=0.2, gradient_bytes=100e6)
    assert step.one_after_the_other(0.04) == pytest.approx(0.34)
    # Three buckets of four are hidden in the backward pass, where it is long enough; else the exchange is seen.
    assert step.overlapped(0.04) == pytest.approx(0.1 + 0.2 + 0.01)
    assert step.overlapped(0.4) == pytest.approx(0.1 + 0.4)


def test_times_of_one_rank(ranks: Any, config: Path, tmp_path: Path) -> None:
    ranks.measure_here(0, 1, str(tmp_path), str(config), atoms=3, repeats=1)
    times = json.loads((tmp_path / "times.json").read_text())
    network, neighbors = ranks.network_of(str(config))
    assert times.pop("gradient_bytes") == 4 * sum(parameter.numel() for parameter in network.parameters())
    assert neighbors == NETWORK["max_neighbors"]
    assert list(times) == ["passes", "step", "exchange"]
    assert all(0 < value < 60 for wall_and_cpu in times.values() for value in wall_and_cpu)


def test_predicted_table(ranks: Any, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = page_after(ranks, "ranks_predicted", ["predict", str(config)], tmp_path, monkeypatch)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert [row[:3] for row in rows] == [["`small.yml`", b, n] for b in ("1", "3") for n in ("8", "16", "64", "256")]
    assert all(len(row) == 8 for row in rows)


@pytest.mark.parametrize("balanced", [False, True])
def test_batches_are_those_of_an_independent_draw(imbalance: Any, lmdb: Path, balanced: bool) -> None:
    dataset = SafeLmdbDataset({"src": str(lmdb)})
    atoms = [len(dataset[row].pos) for row in range(len(dataset))]
    expected = []
    orders = [list(DistributedSampler(dataset, 4, rank, seed=0)) for rank in range(4)]
    for step in range(len(orders[0]) // 3):
        shares = [order[3 * step : 3 * step + 3] for order in orders]
        loads = [sum(atoms[row] for row in share) for share in shares]
        if balanced:
            loads = [0] * 4
            for size in sorted((atoms[row] for share in shares for row in share), reverse=True):
                loads[loads.index(min(loads))] += size
        expected.append(max(loads) / (sum(loads) / 4))
    drawn = imbalance.epoch_of(dataset, 4, 3, 0, balanced)
    assert imbalance.imbalances(drawn, np.array(atoms)) == pytest.approx(expected)


def draw(rank: int, path: Path, store: Path, results: Any) -> None:
    """One of two real ranks."""
    logging.disable(logging.WARNING)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    dataset = SafeLmdbDataset({"src": str(path)})
    cpu = torch.device("cpu")
    sampler = BalancedBatchSampler(dataset, batch_size=4, num_replicas=2, rank=rank, device=cpu, seed=0, mode="atoms")
    sampler.set_epoch(2)
    results.put((rank, [[int(row) for row in rows] for rows in sampler]))


def test_batches_are_those_of_two_processes(imbalance: Any, lmdb: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=draw, args=(rank, lmdb, tmp_path / "store", results)) for rank in range(2)]
    for process in processes:
        process.start()
    drawn = dict(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    full = 15 // 4
    expected = [drawn[rank][:full] for rank in range(2)]
    assert imbalance.epoch_of(SafeLmdbDataset({"src": str(lmdb)}), 2, 4, 2, balanced=True) == expected


def test_imbalance_table(imbalance: Any, lmdb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANKS": (2,), "BATCH_SIZES": (1, 3), "STEPS": 5}.items():
        monkeypatch.setattr(imbalance, name, value)
    table = page_after(imbalance, "imbalance", [str(lmdb)], tmp_path, monkeypatch)
    logging.disable(logging.NOTSET)
    head, *rows = table.splitlines()
    assert head.startswith("29 records: ")
    lone, several = ([float(cell) for cell in row.split("|")[3:-1]] for row in rows[-2:])
    # Ranks with one structure each have nothing to exchange.
    assert lone[0] == lone[1] and lone[2] == lone[3]
    assert several[1] < several[0]


def test_loading_table(lmdb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loading = importlib.import_module("loading")
    assert loading.workers(rate=1000, microseconds=2500) == 3
    monkeypatch.setattr(loading.safe_lmdb, "ROUNDS", 1)
    table = page_after(loading, "loading", [str(lmdb)], tmp_path, monkeypatch)
    assert [row.split("|")[2].strip() for row in table.splitlines()[2:]] == ["`lmdb`", "`safe_lmdb`"]
