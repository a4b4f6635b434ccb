"""Facts about a checkpoint's training data: systems of each split, elements and sizes of the training set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.data.splits import has_split, split_source, splits_in
from fairchem_hdgnn.data.statistics import Statistics
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.evaluation.card.subject import Subject
from fairchem_hdgnn.evaluation.inference import evenly_spaced

MAX_RECORDS = 20_000
"""Largest number of systems to read; from a larger training set, evenly spaced ones are read."""


@dataclass(frozen=True)
class TrainingData:
    """The data that are available on this machine.

    Attributes:
        num_systems: split -> number of systems.
        statistics: of the training set, or of a sample; ``None`` if it is not available.
        num_training: systems of the training set.
    """

    num_systems: Mapping[str, int]
    statistics: Statistics | None
    num_training: int

    @property
    def sampled(self) -> str:
        """A phrase that states the sample size; empty if the statistics are of all systems."""
        read = self.statistics.num_records if self.statistics else 0
        return "" if read == self.num_training else f", from {read:,} of them, evenly spaced"


def read_training_data(subject: Subject, root: Path | None) -> TrainingData:
    """The splits under ``root``, and the training set: ``ROOT/train``, else the one that the checkpoint names.

    Args:
        subject: the checkpoint.
        root: folder with ``SPLIT/data.lmdb`` or ``SPLIT.lmdb``; ``None``: use only the path in the checkpoint.

    Raises:
        DataError: there is no split under ``root``, or an LMDB there is damaged.
    """
    if root is not None and not splits_in(root):
        split_source(root, "train")
    num_systems = {split: len(Records(split_source(root, split))) for split in splits_in(root)} if root else {}
    if root is not None and has_split(root, "train"):
        return TrainingData(num_systems, *_statistics(split_source(root, "train")))
    source = subject.trained.dataset.get("src")
    if not isinstance(source, str) or not source or not Path(source).exists():
        return TrainingData(num_systems, None, 0)
    try:
        return TrainingData(num_systems, *_statistics(Path(source)))
    except DataError:
        # Another format, or the file has changed since the training.
        return TrainingData(num_systems, None, 0)


def _statistics(source: Path) -> tuple[Statistics, int]:
    records, statistics = Records(source), Statistics()
    chosen = evenly_spaced(len(records), MAX_RECORDS)
    for index in tqdm(chosen, desc="training set", unit="system", leave=False):
        record = records[index]
        if "natoms" not in record or "atomic_numbers" not in record:
            raise DataError(f"{source}, record {index}: has no structure; re-create the LMDB")
        statistics.add(record)
    if not chosen:
        raise DataError(f"{source}: contains no structures; give an LMDB with at least one")
    return statistics, len(records)
