"""Convert the frames of a published archive to a folder of LMDBs, in several processes; can be resumed.

The folder has at most ``PARTS`` LMDBs, each of a run of pairs of files. A pair's records are stored in one transaction,
with a mark that they are there, so that a part holds whole pairs whatever ends its process. The marks are removed, and
the folder takes its name, when all parts are complete.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from tqdm import tqdm

from fairchem_hdgnn.data.encoding import encode
from fairchem_hdgnn.data.lmdb import INITIAL_MAP_SIZE, METADATA_FILE, put_all
from fairchem_hdgnn.data.oc20.archives import Archive
from fairchem_hdgnn.data.oc20.frames import Pair, pairs, records
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.files import complete_or_absent

PARTS = 64
"""Maximum number of files in a data set: all are open while it is read."""

MARK = b"natoms of "
"""Prefix of the key that marks a pair's records as complete; its value is their numbers of atoms."""

LENGTH = b"length"

POLL = 0.2
"""Seconds between progress updates."""


def work_folder(target: Path) -> Path:
    """Folder with the parts of ``target`` until all are complete."""
    return target.with_name(f".{target.name}.partial")


def convert(file: Path, archive: Archive, target: Path, num_workers: int) -> None:
    """Create the folder ``target`` of LMDBs with all frames of an archive.

    Args:
        file: path of the archive.
        archive: which it is.
        target: folder to make; absent or empty, and complete afterwards.
        num_workers: processes.

    Raises:
        DataError: a frame is damaged, the frames are not as many as published, the disk is full, or a process was
            killed. What was converted is kept, and the next call continues it.
    """
    work = work_folder(target)
    work.mkdir(parents=True, exist_ok=True)
    parts = _parts(work, pairs(file))
    metadata = work / METADATA_FILE
    if not metadata.exists():
        _convert_parts(file, parts, archive.frames, num_workers)
        natoms = np.concatenate([_natoms(path, members) for path, members in parts.items()])
        if len(natoms) != archive.frames:
            raise DataError(
                f"{work}: has {len(natoms):,} frames, but the published archive has {archive.frames:,}; delete this "
                "folder, "
                "and re-run the same command"
            )
        with complete_or_absent(metadata) as temporary, temporary.open("wb") as stream:
            np.savez(stream, natoms=natoms)
    for path, members in parts.items():
        _remove_marks(path, members)
    work.replace(target)


def _parts(work: Path, members: list[Pair]) -> dict[Path, list[Pair]]:
    """File of each part, and its pairs; the same for an archive whoever converts it."""
    runs = np.array_split(np.arange(len(members)), min(PARTS, len(members)))
    return {work / f"data.{number:04d}.lmdb": [members[index] for index in run] for number, run in enumerate(runs)}


class _Progress:
    """State shared by the processes of a conversion, without locks, which a killed process would keep.

    Attributes:
        done: frames of each part that are stored; one process writes a part.
        stop: whether to stop.
    """

    def __init__(self, context: Any, num_parts: int) -> None:
        self.done = context.Array("q", num_parts, lock=False)
        self.stop = context.Value("b", 0, lock=False)


_shared: list[_Progress] = []


def _start(progress: _Progress, parent: int) -> None:
    # Ctrl-C reaches every process of a terminal; the first one tells the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _shared[:] = [progress]


def _end_with(parent: int) -> None:
    """Exit if the parent process is gone, perhaps killed: this process would wait for work forever."""
    while os.getppid() == parent:
        time.sleep(POLL)
    os._exit(1)


def _convert_parts(file: Path, parts: dict[Path, list[Pair]], frames: int, num_workers: int) -> None:
    # Forked, so that a lock of this process holds until the last of them has ended.
    context = multiprocessing.get_context("fork")
    progress = _Progress(context, len(parts))
    workers = min(num_workers, len(parts))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(progress, os.getpid())) as pool:
        try:
            tasks = [pool.submit(_convert_part, number, file, *part) for number, part in enumerate(parts.items())]
            with tqdm(desc=f"converting {file.name}", total=frames, unit=" frames", dynamic_ncols=True) as bar:
                _watch(tasks, progress, bar)
        except BrokenProcessPool as error:
            raise DataError(
                f"{file}: the process converting it was killed, perhaps out of memory; re-run the same command to "
                "resume, "
                "with fewer --num-workers"
            ) from error
        finally:
            progress.stop.value = 1
            pool.shutdown(cancel_futures=True)


def _watch(tasks: list[Future], progress: _Progress, bar: tqdm) -> None:
    """Until all tasks have ended, or one has failed, which is raised."""
    waiting = set(tasks)
    while waiting:
        ended, waiting = wait(waiting, timeout=POLL)
        bar.update(sum(progress.done) - bar.n)
        for task in ended:
            task.result()


def _convert_part(number: int, file: Path, path: Path, members: list[Pair]) -> None:
    """Store the missing records of a part, given its number."""
    [progress] = _shared
    with _opened(path) as environment:
        done = _marks(environment)
        index = sum(len(natoms) for natoms in done.values())
        progress.done[number] = index
        for pair in members:
            if pair.name in done:
                continue
            batch, natoms = [], []
            for record in records(file, pair):
                if progress.stop.value:
                    return
                batch.append((str(index).encode(), encode(record)))
                natoms.append(record.natoms)
                index += 1
            put_all(environment, [*batch, (MARK + pair.name.encode(), np.array(natoms, dtype=np.int32).tobytes())])
            progress.done[number] = index


@contextmanager
def _opened(path: Path) -> Iterator[lmdb.Environment]:
    try:
        with lmdb.open(str(path), subdir=False, lock=False, map_size=INITIAL_MAP_SIZE, meminit=False) as environment:
            yield environment
    except (lmdb.InvalidError, lmdb.CorruptedError) as error:
        raise DataError(f"{path}: damaged ({error}); delete it and re-run the same command") from error
    except lmdb.Error as error:
        raise DataError(
            f"{path}: cannot be written ({error}); is the disk full? Converted frames are kept: re-run the same "
            "command to resume"
        ) from error


def _marks(environment: lmdb.Environment) -> dict[str, np.ndarray]:
    """Names of the pairs that are stored, and numbers of atoms of their frames."""
    with environment.begin() as transaction, transaction.cursor() as cursor:
        found = cursor.set_range(MARK)
        marks = {}
        while found and (key := bytes(cursor.key())).startswith(MARK):
            marks[key[len(MARK) :].decode()] = np.frombuffer(cursor.value(), dtype=np.int32)
            found = cursor.next()
    return marks


def _natoms(path: Path, members: list[Pair]) -> np.ndarray:
    """Numbers of atoms of a part's records, in their order."""
    with _opened(path) as environment:
        marks = _marks(environment)
    return np.concatenate([marks[pair.name] for pair in members]).astype(np.int64)


def _remove_marks(path: Path, members: list[Pair]) -> None:
    """Reduce a part to OC20's layout: the records and their number."""
    with _opened(path) as environment:
        marks = _marks(environment)
        if not marks:
            return
        with environment.begin(write=True) as transaction:
            for name in marks:
                transaction.delete(MARK + name.encode())
            transaction.put(LENGTH, pickle.dumps(sum(map(len, marks.values())), protocol=-1))
