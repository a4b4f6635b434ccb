"""Mean and standard deviation of the labels of a training set, beside those that a configuration normalises with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.data.statistics import LABELS, Spread
from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.host.config_files import read_config

TOLERANCE = 0.05
"""Deviation of mean or standard deviation, in standard deviations, up to which a normaliser is called right."""


@dataclass(frozen=True)
class Normaliser:
    """What a configuration says of the target.

    Attributes:
        key: attribute of the records that is the target, e.g. ``y_relaxed``.
        mean: subtracted, eV.
        stdev: divided by, eV.
    """

    key: str
    mean: float
    stdev: float

    def deviations(self, labels: Spread) -> list[str]:
        """One sentence for each number that is off by more than ``TOLERANCE`` standard deviations."""
        pairs = {"mean": (self.mean, labels.mean), "stdev": (self.stdev, labels.std)}
        return [
            f"{name}: {configured:.4f} in the config, {found:.4f} in the data"
            for name, (configured, found) in pairs.items()
            if abs(configured - found) > TOLERANCE * max(labels.std, 1e-12)
        ]


def read_normaliser(source: str, target: str = "energy") -> Normaliser:
    """The normaliser of ``target`` in a configuration, includes resolved.

    Args:
        source: a file, or ``hdgnn:...`` for a shipped config.
        target: name of the output.

    Raises:
        ConfigError: the file cannot be read, or has no such normaliser.
    """
    config = read_config(source)
    settings = _at(config, "dataset", "train", "transforms", "normalizer", target)
    if not isinstance(settings, Mapping) or not {"mean", "stdev"} <= set(settings):
        raise ConfigError(
            f"{source}: no dataset.train.transforms.normalizer.{target} with mean and stdev; fairchem then trains "
            "on raw numbers"
        )
    mapping = _at(config, "dataset", "train", "key_mapping") or {}
    sources = [stored for stored, name in mapping.items() if name == target]
    return Normaliser(sources[0] if sources else target, float(settings["mean"]), float(settings["stdev"]))


def _at(config: Any, *keys: str) -> Any:
    """What stands below these keys, one in the other, or ``None``."""
    for key in keys:
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def target_spread(path: Path, key: str | None = None, *, progress: bool = True) -> tuple[str, Spread]:
    """Distribution of one label over all records.

    Args:
        path: LMDB file or folder.
        key: attribute; without it the first of ``LABELS`` that the records have.
        progress: show a progress bar.

    Raises:
        DataError: a record lacks the label, or it is not finite.
    """
    records = Records(path)
    values: list[float] = []
    for index, record in enumerate(tqdm(records, total=len(records), unit="record", disable=not progress, leave=False)):
        if key is None:
            key = next((label for label in LABELS if label in record), None)
        if key is None or key not in record:
            has = ", ".join(sorted(record.keys()))
            raise DataError(f"{path}, record {index}: no '{key or LABELS[0]}'; it has {has} (name one with --key)")
        values.append(float(record[key]))
        if not abs(values[-1]) < float("inf"):
            raise DataError(f"{path}, record {index}: {key} is {values[-1]}")
    if key is None:
        raise DataError(f"{path}: holds no record")
    return key, Spread.of(values)
