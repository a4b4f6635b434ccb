"""Time to load a batch of QM9, compared with a training step: ``python benchmarks/qm9_loading.py``.

Prints milliseconds per batch for reading records, for collating them, and for a training step of the config's model,
all in one process. Loading limits training only if (read + collate) / num_workers exceeds the step.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from fairchem.core.datasets import data_list_collater
from fairchem.core.datasets.lmdb_dataset import LmdbDataset
from qm9_loop import read_config

from fairchem_hdgnn import HDGNN, SafeLmdbDataset


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Shortest time of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/qm9"))
    parser.add_argument("--config", type=Path, default=Path("configs/qm9/gap.yml"))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    source = {"src": str(args.data / "val" / "data.lmdb")}
    safe = SafeLmdbDataset(source)
    rows = range(args.batch_size)
    print(f"read, format safe_lmdb: {milliseconds(lambda: [safe[row] for row in rows], args.repeats):8.1f} ms")
    del safe
    plain = LmdbDataset(source)
    print(f"read, format lmdb:      {milliseconds(lambda: [plain[row] for row in rows], args.repeats):8.1f} ms")
    records = [plain[row] for row in rows]
    print(f"collate:                {milliseconds(lambda: data_list_collater(records), args.repeats):8.1f} ms")

    keys = {key: value for key, value in read_config(args.config)["model"].items() if key != "name"}
    model = HDGNN(**keys).to(args.device)
    batch = data_list_collater(records).to(args.device)

    def step() -> None:
        model.zero_grad()
        model(batch)[keys["output_name"]].abs().mean().backward()
        if args.device != "cpu":
            torch.cuda.synchronize()

    step()
    print(f"forward and backward on {args.device}: {milliseconds(step, args.repeats):8.1f} ms")


if __name__ == "__main__":
    main()
