"""The splits as one finished directory: relaxed here in parallel, or read from a file of relaxed systems."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fairchem_hdgnn.data.directories import new_directory
from fairchem_hdgnn.data.encoding import oc20_pickle
from fairchem_hdgnn.data.lmdb import write_lmdb
from fairchem_hdgnn.data.records import atoms_to_record
from fairchem_hdgnn.errors import DataError
from structures.archive import SUPPLIED, read_archive, write_archive
from structures.manifest import MANIFEST_FILE, make_manifest, matching_manifest, versions
from structures.splits import candidates, split_sizes
from structures.system import Relaxed, System, relax_candidate, to_record

FIRST_SID = 1_000_000


def build_data(
    out: Path, *, train: int, val: int, test: int, seed: int, workers: int, archive: Path | None = None
) -> dict:
    """Make the data set by relaxations, or find it made, and return its manifest.

    Args:
        out: Directory that will hold one directory per split, and ``manifest.json``.
        train: Number of training systems.
        val: Number of systems in each of the four validation splits.
        test: Number of systems in each of the four unlabelled test splits; 0 makes none.
        seed: Decides every system, whatever the number of workers.
        workers: Number of processes that relax.
        archive: File for the relaxed systems, which ``unpack_data`` reads; then ``out`` must be new.

    Raises:
        DataError: if ``out`` holds anything but the data set asked for, or cannot be written.
    """
    sizes = split_sizes(train, val, test)
    if archive is None and (out / MANIFEST_FILE).is_file():
        return matching_manifest(out, sizes, seed)
    with new_directory(out) as partial:
        relaxed = _relax_splits(sizes, seed, workers)
        if archive is not None:
            write_archive(archive, relaxed)
        return _write_splits(partial, relaxed)


def unpack_data(out: Path, archive: Path = SUPPLIED) -> dict:
    """Make the data set from systems that were relaxed before, or find it made, and return its manifest.

    Raises:
        DataError: if the archive is damaged, or as ``build_data``.
    """
    relaxed = read_archive(archive)
    if (out / MANIFEST_FILE).is_file():
        return matching_manifest(out, relaxed.sizes, relaxed.seed)
    with new_directory(out) as partial:
        return _write_splits(partial, relaxed)


def _write_splits(directory: Path, relaxed: Relaxed) -> dict:
    """Write the LMDBs and, last, the manifest."""
    count = sum(relaxed.sizes.values())
    sids = iter((FIRST_SID + np.random.default_rng(relaxed.seed).permutation(count)).tolist())
    for split, systems in relaxed.splits.items():
        (directory / split).mkdir()
        labelled = not split.startswith("test")
        write_lmdb(directory / split, (to_record(system, next(sids), labelled) for system in systems), oc20_pickle)
    manifest = make_manifest(relaxed)
    (directory / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _relax_splits(sizes: dict[str, int], seed: int, workers: int) -> Relaxed:
    splits: dict[str, list[System]] = {}
    left_out: Counter[str] = Counter()
    progress = tqdm(total=sum(sizes.values()), desc="relaxing", unit="system", dynamic_ncols=True)
    with _processes(workers) as executor, progress:
        for split, size in sizes.items():
            splits[split] = []
            for outcome in _outcomes(split, sizes, seed, executor, ahead=4 * workers):
                if isinstance(outcome, str):
                    left_out[outcome] += 1
                    continue
                splits[split].append(outcome)
                progress.update()
                if len(splits[split]) == size:
                    break
            else:
                raise DataError(f"{split}: only {len(splits[split])} of {size} systems can be made; ask for fewer")
    return Relaxed(splits, left_out, seed, versions())


def _outcomes(split: str, sizes: dict[str, int], seed: int, executor: Executor, ahead: int) -> Iterator[System | str]:
    """Outcomes in the order of the candidates, with at most ``ahead`` relaxations under way or waiting."""
    pending: deque[Future[System | str]] = deque()
    remaining = candidates(split, sizes, seed)
    try:
        while True:
            for candidate in islice(remaining, ahead - len(pending)):
                pending.append(executor.submit(relax_candidate, candidate))
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _processes(workers: int) -> ProcessPoolExecutor:
    """Worker processes that leave Ctrl-C to the parent.

    They are forked from a server that has done the slow imports and nothing else: a fork of this process, which may
    have threads and torch's objects, can crash. Before Python 3.12.4 the server finds installed modules only.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([atoms_to_record.__module__])
    return ProcessPoolExecutor(workers, context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
