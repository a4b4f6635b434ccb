"""How fast this machine trains the demonstration's model, on one thread and on two: a program of its own.

``python speed.py SETTINGS DATA``, the settings as JSON, prints it as JSON. It runs apart from the demonstration
because OpenMP reads its environment once, when torch is loaded.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch_geometric.data import Batch
from tqdm import tqdm

from fairchem_hdgnn.data.lmdb import open_lmdb, read_length, read_record
from fairchem_hdgnn.host import models
from fairchem_hdgnn.host.allocator import keep_freed_memory

BATCHES = 3
REPEATS = 2


def thread_counts() -> list[int]:
    """The numbers of threads to try: what the user chose, or one and two as far as there are cores."""
    if "OMP_NUM_THREADS" in os.environ:
        return [torch.get_num_threads()]
    return [1, 2][: len(os.sched_getaffinity(0))]


class Model(models.PlainModel):
    """HDGNN, whichever fairchem trains it."""

    architecture = models.HDGNN


def measure(settings: dict, data: Path) -> dict[int, dict[str, float]]:
    """Seconds of a training step and of the prediction for one structure, by number of threads."""
    model = Model(**settings["model"])
    optimizer = torch.optim.AdamW(model.parameters(), **settings["optimizer"])
    batches = _batches(settings["batch_size"], data / "train" / "data.lmdb")
    predicted = sum(len(batch.natoms) for batch in batches)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        model(batch)["energy"].square().sum().backward()
        optimizer.step()

    @torch.no_grad()
    def predict(batch: Batch) -> None:
        model(batch)

    step(batches[0])
    counts = thread_counts()
    seconds = {}
    with tqdm(total=2 * REPEATS * len(batches) * len(counts), desc="measuring", unit="step") as bar:
        for threads in counts:
            torch.set_num_threads(threads)
            seconds[threads] = {
                "step": _fastest(step, batches, bar) / len(batches),
                "predict": _fastest(predict, batches, bar) / predicted,
            }
    return seconds


def _batches(size: int, source: Path) -> list[Batch]:
    environment = open_lmdb(source)
    systems = [read_record(environment, index) for index in range(min(read_length(environment), BATCHES * size))]
    return [Batch.from_data_list(systems[start : start + size]) for start in range(0, len(systems), size)]


def _fastest(call: Callable[[Batch], None], batches: list[Batch], bar: tqdm) -> float:
    """Seconds for all batches: the fastest repeat, since what another process takes now and then does not count."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for batch in batches:
            call(batch)
            bar.update()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    keep_freed_memory()
    begin = time.perf_counter()
    threads = measure(json.loads(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps({"threads": threads, "seconds": time.perf_counter() - begin}))
