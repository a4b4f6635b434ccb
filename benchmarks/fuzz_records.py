"""Mutate pickled records and read each: it must be read or refused, and nothing else may happen.

Usage: ``python benchmarks/fuzz_records.py [--count 100000] [--seed 0]``
"""

from __future__ import annotations

import argparse
import pickle
from collections import Counter

import numpy as np
import torch
from torch_geometric.data import Data
from tqdm import tqdm

from fairchem_hdgnn.data.safe_pickle import RefusedError, load_record


def seeds_of_fuzzing() -> list[bytes]:
    """Small records of PyG 1 and 2, in every binary pickle protocol."""
    record = Data(pos=torch.rand(3, 3), tags=torch.tensor([0, 1, 2]), natoms=3, sid=7, y_relaxed=-0.5)
    record.array, record.name = np.arange(4.0), "CO"
    old = Data.__new__(Data)
    old.__dict__.update(x=None, edge_index=None, **record.to_dict())
    return [pickle.dumps(graph, protocol=protocol) for graph in (record, old) for protocol in (2, 3, 4, 5)]


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """One to four changes: a byte, a bit, a run of bytes removed, repeated or moved, or the end cut off."""
    mutated = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        start, stop = sorted(int(place) for place in rng.integers(0, len(mutated) + 1, size=2))
        stop = min(stop, start + 16)
        kind = rng.integers(6)
        if kind == 0 and mutated:
            mutated[start % len(mutated)] = rng.integers(256)
        elif kind == 1 and mutated:
            mutated[start % len(mutated)] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            del mutated[start:stop]
        elif kind == 3:
            mutated[start:start] = mutated[start:stop]
        elif kind == 4:
            run = bytes(mutated[start:stop])
            place = int(rng.integers(0, len(mutated) + 1))
            mutated[place:place] = run
        elif rng.random() < 0.1:
            del mutated[stop:]
    return bytes(mutated)


def fuzz(count: int, seed: int, progress: bool = False) -> Counter[str]:
    """How many of ``count`` mutated records were read and refused; any other exception passes through."""
    rng = np.random.default_rng(seed)
    originals = seeds_of_fuzzing()
    outcomes: Counter[str] = Counter()
    for index in tqdm(range(count), disable=not progress, unit="record"):
        try:
            load_record(mutate(originals[index % len(originals)], rng))
            outcomes["read"] += 1
        except RefusedError:
            outcomes["refused"] += 1
    return outcomes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    result = fuzz(arguments.count, arguments.seed, progress=True)
    print(f"{arguments.count} mutated records: {result['read']} read, {result['refused']} refused, nothing else")
