"""How many data-loading processes a GPU needs: ``python benchmarks/loading.py [LMDB ...]``.

Without an LMDB, it makes records like OC20's. For fairchem's ``lmdb`` and for ``safe_lmdb``, it measures CPU times, the
best of several rounds: reading a record (as in benchmarks/safe_lmdb.py), collating it, all work of a ``DataLoader``
process, and receiving it in the training process. The files are in the page cache, so no disk is measured. Writes its
table into docs/scaling.md.
"""

from __future__ import annotations

import argparse
import math
import resource
import tempfile
import time
from functools import partial
from pathlib import Path

import safe_lmdb
from fairchem.core.datasets import data_list_collater
from fairchem.core.datasets.lmdb_dataset import LmdbDataset
from pages import put_into
from torch.utils.data import DataLoader

from fairchem_hdgnn import SafeLmdbDataset
from fairchem_hdgnn.data.encoding import oc20_pickle
from fairchem_hdgnn.data.lmdb import DATA_FILE, write_lmdb

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
RATES = (10, 100, 1000)
"""Structures that a GPU takes in a second."""

PASSES = 5
"""Over the records, so that the start of a process hardly counts."""

MADE = ((80, 0), (80, 3200))
"""Atoms and edges of the records that are made."""


def collate_microseconds(dataset: LmdbDataset, batch_size: int) -> float:
    """CPU time to put a record into a batch."""
    records = [dataset[index] for index in range(batch_size)]
    times = []
    for _ in range(5 * safe_lmdb.ROUNDS):
        start = time.process_time()
        data_list_collater(records, otf_graph=True)
        times.append(time.process_time() - start)
    return 1e6 * min(times) / batch_size


def loader_microseconds(dataset: LmdbDataset, batch_size: int) -> tuple[float, float]:
    """CPU time of a loading process, with its start and the hand-over, and of the one that receives, per record."""
    rows = list(range(len(dataset))) * PASSES
    best = [math.inf, math.inf]
    for _ in range(safe_lmdb.ROUNDS):
        before, receiving = children_seconds(), time.process_time()
        collate = partial(data_list_collater, otf_graph=True)
        for _ in DataLoader(dataset, batch_size, sampler=rows, num_workers=1, collate_fn=collate):
            pass
        spent = children_seconds() - before, time.process_time() - receiving
        best = [min(least, 1e6 * value / len(rows)) for least, value in zip(best, spent)]
    return best[0], best[1]


def children_seconds() -> float:
    """CPU time of all processes that this one has started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def workers(rate: float, microseconds: float) -> int:
    """Processes that load ``rate`` structures a second, if each takes a core so long for a structure."""
    return math.ceil(1e-6 * rate * microseconds)


def rows_of(name: str, path: Path, batch_size: int) -> list[str]:
    """Rows of the table for one LMDB."""
    lines = []
    readings = safe_lmdb.compare(path)
    for kind, dataset_class, read in zip(("lmdb", "safe_lmdb"), (LmdbDataset, SafeLmdbDataset), readings):
        dataset = dataset_class({"src": str(path)})
        loading, receiving = loader_microseconds(dataset, batch_size)
        values = [f"{value:.0f}" for value in (read, collate_microseconds(dataset, batch_size), loading, receiving)]
        del dataset
        needed = [f"{workers(rate, loading)}" for rate in RATES]
        lines.append(f"| {name} | `{kind}` | {' | '.join(values + needed)} |")
    return lines


def main() -> None:
    """Measure, and put the table into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lmdb", type=Path, nargs="*")
    parser.add_argument("--batch-size", type=int, default=7)
    args = parser.parse_args()
    columns = ["records", "format", "read, µs", "collate, µs", "loading process, µs", "receive, µs"]
    columns += [f"`num_workers` for {rate:,}/s" for rate in RATES]
    lines = [f"| {' | '.join(columns)} |", f"| --- | --- |{' ---: |' * (len(columns) - 2)}"]
    with tempfile.TemporaryDirectory() as folder:
        for atoms, edges in () if args.lmdb else MADE:
            place = Path(folder) / f"{atoms}-{edges}"
            place.mkdir()
            write_lmdb(place, safe_lmdb.records(700, atoms, edges), oc20_pickle)
            lines += rows_of(f"{atoms} atoms, {edges:,} edges", place / DATA_FILE, args.batch_size)
        for path in args.lmdb:
            lines += rows_of(path.stem, path, args.batch_size)
    put_into(PAGE, "loading", "\n".join(lines))


if __name__ == "__main__":
    main()
