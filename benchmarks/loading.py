"""How many processes load data for a GPU: ``python benchmarks/loading.py [LMDB ...]``.

Without an LMDB, records like OC20's are made. For fairchem's ``lmdb`` and for ``safe_lmdb``: the CPU time to read a
record (as benchmarks/safe_lmdb.py measures it) and to put it into a batch of 7, and what one process of a
``DataLoader`` hands over. All are the best of several rounds. The files are in the page cache, so no disk is measured.
Writes its table into docs/scaling.md.
"""

from __future__ import annotations

import argparse
import math
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
BATCH_SIZE = 7
RATES = (10, 100, 1000)
"""Structures that a GPU takes in a second."""

MADE = ((80, 0), (80, 3200))
"""Atoms and edges of the records that are made."""


def collate_microseconds(dataset: LmdbDataset) -> float:
    """CPU time to put a record into a batch."""
    records = [dataset[index] for index in range(BATCH_SIZE)]
    times = []
    for _ in range(5 * safe_lmdb.ROUNDS):
        start = time.process_time()
        data_list_collater(records, otf_graph=True)
        times.append(time.process_time() - start)
    return 1e6 * min(times) / BATCH_SIZE


def structures_per_second(dataset: LmdbDataset) -> float:
    """What one process hands over, from its first batch to its last."""
    best = 0.0
    for _ in range(safe_lmdb.ROUNDS):
        loader = DataLoader(
            dataset, BATCH_SIZE, num_workers=1, collate_fn=partial(data_list_collater, otf_graph=True), drop_last=True
        )
        batches = iter(loader)
        next(batches)
        start = time.perf_counter()
        count = sum(1 for _ in batches)
        best = max(best, count * BATCH_SIZE / (time.perf_counter() - start))
    return best


def workers(rate: float, structures: float) -> int:
    """Processes that hand over ``rate`` structures a second, of ``structures`` each."""
    return math.ceil(rate / structures)


def rows(name: str, path: Path) -> list[str]:
    """Rows of the table for one LMDB."""
    lines = []
    readings = safe_lmdb.compare(path)
    for kind, (dataset_class, read) in zip(("lmdb", "safe_lmdb"), zip((LmdbDataset, SafeLmdbDataset), readings)):
        dataset = dataset_class({"src": str(path)})
        collate, structures = collate_microseconds(dataset), structures_per_second(dataset)
        needed = [f"{workers(rate, structures)}" for rate in RATES]
        del dataset
        lines.append(f"| {name} | `{kind}` | {read:.0f} | {collate:.0f} | {structures:,.0f} | {' | '.join(needed)} |")
    return lines


def main() -> None:
    """Measure, and put the table into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lmdb", type=Path, nargs="*")
    args = parser.parse_args()
    columns = ["records", "format", "read, µs", "collate, µs", "structures/s from one process"]
    columns += [f"`num_workers` for {rate:,}/s" for rate in RATES]
    lines = [f"| {' | '.join(columns)} |", f"| --- | --- |{' ---: |' * (len(columns) - 2)}"]
    with tempfile.TemporaryDirectory() as folder:
        for atoms, edges in () if args.lmdb else MADE:
            place = Path(folder) / f"{atoms}-{edges}"
            place.mkdir()
            write_lmdb(place, safe_lmdb.records(700, atoms, edges), oc20_pickle)
            lines += rows(f"{atoms} atoms, {edges:,} edges", place / DATA_FILE)
        for path in args.lmdb:
            lines += rows(path.stem, path)
    put_into(PAGE, "loading", "\n".join(lines))


if __name__ == "__main__":
    main()
