"""Load imbalance of the ranks in a step: ``python benchmarks/imbalance.py LMDB``.

The batches are those of fairchem's ``BalancedBatchSampler``, with and without balancing by atoms, for all ranks in
one process: the sampler gets the samples of each step directly instead of from other processes. Imbalance is the
largest number of atoms, or edges, on a rank in a step, divided by the mean of all ranks. Every rank waits for the
slowest one, so a step takes longer by this factor than with equal shares. Writes its table into docs/scaling.md.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from fairchem.core.common import data_parallel
from fairchem.core.common.data_parallel import BalancedBatchSampler
from fairchem.core.datasets import data_list_collater
from pages import put_into
from tqdm import tqdm

from fairchem_hdgnn import SafeLmdbDataset
from fairchem_hdgnn.data.neighbor_lists import Search, periodic_edges

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
RANKS = (2, 8, 64)
BATCH_SIZES = (1, 4, 7)
STEPS = 100
"""At the least, over as many epochs as that takes."""

CPU = torch.device("cpu")
SEARCH = Search(cutoff=8.0, max_neighbors=40)
Epoch = list[list[list[int]]]
"""By rank and step the numbers of the records."""


def epoch_of(dataset: SafeLmdbDataset, ranks: int, batch_size: int, epoch: int, balanced: bool) -> Epoch:
    """The batches of all ranks, without the last ones where they are not full."""

    def sampled(rank: int, mode: str | bool) -> list[list[int]]:
        sampler = BalancedBatchSampler(
            dataset, batch_size=batch_size, num_replicas=ranks, rank=rank, device=CPU, seed=0, mode=mode
        )
        sampler.set_epoch(epoch)
        return [[int(row) for row in rows] for rows in sampler]

    drawn = [sampled(rank, False) for rank in range(ranks)]
    if balanced:
        natoms = np.asarray(dataset.get_metadata("natoms", list(range(len(dataset))))).reshape(-1)

        def gathered() -> Iterator[list[torch.Tensor]]:
            for batches in zip(*drawn):
                yield [torch.stack([torch.tensor(rows), torch.tensor(natoms[rows])]) for rows in batches]

        with mock.patch.object(BalancedBatchSampler, "_dist_enabled", return_value=True):
            result = []
            for rank in range(ranks):
                with mock.patch.object(data_parallel.distutils, "all_gather", side_effect=gathered()):
                    result.append(sampled(rank, "atoms"))
    else:
        result = drawn
    full = -(-len(dataset) // ranks) // batch_size
    return [batches[:full] for batches in result]


def imbalances(epoch: Epoch, sizes: np.ndarray) -> list[float]:
    """Of each step the largest total of a rank over the mean of all.

    Args:
        epoch: batches of all ranks.
        sizes: of each record, its atoms or its edges.
    """
    totals = np.array([[sizes[rows].sum() for rows in batches] for batches in epoch])
    return list(totals.max(0) / totals.mean(0))


def atoms_and_edges(dataset: SafeLmdbDataset) -> tuple[np.ndarray, np.ndarray]:
    """Of each record; edges as stored, or those within 8 Å, the nearest 40 of each atom."""
    atoms, edges = [], []
    for row in tqdm(range(len(dataset)), unit="record"):
        record = dataset[row]
        atoms.append(len(record.pos))
        if "edge_index" in record:
            edges.append(record.edge_index.shape[1])
        else:
            edges.append(periodic_edges(data_list_collater([record], otf_graph=True), SEARCH).edge_index.shape[1])
    return np.array(atoms), np.array(edges)


def described(name: str, values: np.ndarray) -> str:
    """In words."""
    low, high, mean, spread = values.min(), values.max(), values.mean(), values.std()
    return f"{low:,} to {high:,} {name}, mean {mean:,.0f}, standard deviation {spread:,.0f}"


def table(dataset: SafeLmdbDataset, ranks: Sequence[int], batch_sizes: Sequence[int]) -> str:
    """As Markdown, after a line on the records; imbalances are means over the steps."""
    atoms, edges = atoms_and_edges(dataset)
    lines = [
        f"{len(dataset):,} records: {described('atoms', atoms)}; {described('edges', edges)}.\n",
        "| ranks | structures per rank | atoms | atoms, balanced | edges | edges, balanced |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for count in ranks:
        for batch_size in batch_sizes:
            steps = -(-len(dataset) // count) // batch_size
            if not steps:
                raise SystemExit(f"{len(dataset)} records do not make a step of {count} ranks x {batch_size}")
            epochs = range(-(-STEPS // steps))
            cells = []
            for balanced in (False, True):
                drawn = [epoch_of(dataset, count, batch_size, epoch, balanced) for epoch in epochs]
                cells.append([np.mean([imbalances(epoch, sizes) for epoch in drawn]) for sizes in (atoms, edges)])
            told = [f"{value:.2f}" for pair in zip(*cells) for value in pair]
            lines.append(f"| {count} | {batch_size} | {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Count, draw batches, and put the table into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lmdb", type=Path, help="with metadata.npz beside it")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    put_into(PAGE, "imbalance", table(SafeLmdbDataset({"src": str(args.lmdb)}), RANKS, BATCH_SIZES))


if __name__ == "__main__":
    main()
