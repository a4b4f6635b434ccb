"""Time to read a record with ``safe_lmdb``, compared with fairchem's own ``lmdb``.

Usage: ``python benchmarks/safe_lmdb.py [LMDB]``; without an LMDB, records like OC20's are made.
CPU time, best of five rounds over the same records, both data sets in one process, in turn.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from fairchem.core.datasets.lmdb_dataset import LmdbDataset
from torch_geometric.data import Data

from fairchem_hdgnn.data.encoding import oc20_pickle
from fairchem_hdgnn.data.lmdb import write_lmdb
from fairchem_hdgnn.host.fairchem1.safe_lmdb import SafeLmdbDataset

ROUNDS = 5


def records(count: int, natoms: int, nedges: int) -> Iterator[Data]:
    """Records with OC20's attributes, filled with random numbers; without edges if ``nedges`` is 0."""
    for sid in range(count):
        record = Data(
            atomic_numbers=torch.randint(1, 80, (natoms,)).float(),
            pos=torch.rand(natoms, 3),
            cell=torch.rand(1, 3, 3),
            natoms=natoms,
            tags=torch.randint(0, 3, (natoms,)),
            fixed=torch.zeros(natoms),
            sid=sid,
            y_init=1.0,
            y_relaxed=-0.5,
            pos_relaxed=torch.rand(natoms, 3),
        )
        if nedges:
            record.edge_index = torch.randint(0, natoms, (2, nedges))
            record.cell_offsets = torch.randint(-1, 2, (nedges, 3))
            record.distances = torch.rand(nedges)
        yield record


def microseconds_per_record(dataset: LmdbDataset) -> float:
    """CPU time to read all records once, per record."""
    start = time.process_time()
    for index in range(len(dataset)):
        dataset[index]
    return 1e6 * (time.process_time() - start) / len(dataset)


def compare(path: Path) -> tuple[float, float]:
    """Microseconds a record with fairchem's data set and with ours."""
    timings: dict[type[LmdbDataset], list[float]] = {LmdbDataset: [], SafeLmdbDataset: []}
    for _ in range(ROUNDS):
        for dataset_class, results in timings.items():
            dataset = dataset_class({"src": str(path)})
            results.append(microseconds_per_record(dataset))
            del dataset
    return min(timings[LmdbDataset]), min(timings[SafeLmdbDataset])


def main() -> None:
    """Print one line per kind of record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lmdb", type=Path, nargs="?")
    path = parser.parse_args().lmdb
    with tempfile.TemporaryDirectory() as folder:
        places = {str(path): path} if path else {}
        for natoms, nedges in ((20, 0), (80, 0), (80, 4000)) if path is None else ():
            name = f"{natoms} atoms, {nedges} edges"
            places[name] = Path(folder) / f"{natoms}-{nedges}"
            places[name].mkdir()
            write_lmdb(places[name], records(200, natoms, nedges), oc20_pickle)
            places[name] /= "data.lmdb"
        for name, place in places.items():
            stock, safe = compare(place)
            print(f"{name}: lmdb {stock:.0f} us, safe_lmdb {safe:.0f} us a record: {safe / stock - 1:+.0%}")


if __name__ == "__main__":
    main()
