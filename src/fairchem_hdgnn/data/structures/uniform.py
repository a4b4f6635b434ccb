"""Give all records of an LMDB the same attributes, which batches need: PyTorch Geometric takes those of the first."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch_geometric.data import Data
from tqdm import tqdm

from fairchem_hdgnn.data.lmdb import DATA_FILE, write_lmdb
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.data.records import record_id
from fairchem_hdgnn.data.statistics import Statistics


@dataclass(frozen=True)
class Dropped:
    """An attribute that was removed because some records lack it.

    Attributes:
        name: of the attribute.
        count: records that had it.
        without: id of the first record without it.
    """

    name: str
    count: int
    without: str


def make_uniform(
    folder: Path, statistics: Statistics, *, ids_are_strings: bool, progress: bool = True
) -> tuple[list[Dropped], Statistics]:
    """Remove attributes that only some records have, and make ids strings.

    Args:
        folder: with ``data.lmdb``, which is replaced if records change.
        statistics: of its records.
        ids_are_strings: whether some ids are numbers that have to be strings, because others are.
        progress: show a progress bar.

    Returns:
        What was removed, and the statistics of the new records.
    """
    names = [name for name, count in statistics.attributes.items() if count < statistics.num_records]
    if not names and not ids_are_strings:
        return [], statistics
    without: dict[str, str] = {}
    uniform = Statistics()

    def changed() -> Iterator[Data]:
        for record in tqdm(Records(folder), desc="uniform attributes", unit="record", disable=not progress):
            for name in names:
                if name in record:
                    del record[name]
                else:
                    without.setdefault(name, record_id(record))
            if ids_are_strings:
                record.sid = str(record.sid)
            uniform.add(record)
            yield record

    new = folder / "uniform"
    new.mkdir()
    write_lmdb(new, changed())
    (new / DATA_FILE).replace(folder / DATA_FILE)
    shutil.rmtree(new)
    return [Dropped(name, statistics.attributes[name], without[name]) for name in names], uniform
