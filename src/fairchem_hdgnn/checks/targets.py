"""Compare the normaliser of each target with the targets: a sample of them, or all."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_geometric.data import Data
from tqdm import tqdm

from fairchem_hdgnn.checks.findings import Finding, error, value_findings, warning
from fairchem_hdgnn.checks.records import Records, read, sample
from fairchem_hdgnn.data import reading
from fairchem_hdgnn.data.statistics import LABELS, Spread
from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.host.fairchem1.config_files import read_config
from fairchem_hdgnn.host.noisy_nodes import TARGET, TRANSFORM
from fairchem_hdgnn.host.sections import Normalizer, mean_and_deviation
from fairchem_hdgnn.schema import faults

SAMPLE = 200
"""Training records sampled for their targets; they give a standard deviation to about 5 %."""

STANDARD_ERRORS = 6
"""A mean that is off by more standard errors than this is not a sampling error."""

RATIO = 1.5
"""Nor is a standard deviation that is off by more than this factor."""

TOLERANCE = 0.05
"""Largest accepted deviation of mean or standard deviation, in standard deviations."""


def target_findings(
    transforms: dict[str, Any],
    dataset: Records,
    targets: dict[str, bool],
    on_free_atoms: Collection[str] = (),
) -> Iterator[Finding]:
    """Compare ``dataset.train.transforms.normalizer`` with a sample of the training targets.

    Args:
        transforms: the transforms of the training data.
        dataset: training records as the trainer reads them.
        targets: names -> whether it is one number per atom.
        on_free_atoms: names of those that are trained on free atoms only.
    """
    settings = transforms.get("normalizer") or {}
    for name, normalizer in settings.items():
        if name in targets and isinstance(normalizer, dict):
            yield from value_findings(f"dataset.train.transforms.normalizer.{name}", Normalizer, normalizer)
    if settings.get("file") or settings.get("fit") or transforms.get("element_references"):
        return
    indices = sample(len(dataset), SAMPLE)
    if len(indices) < 20:
        return
    try:
        records = [read(dataset, index) for index in indices]
    except DataError as problem:
        yield error("dataset.train", str(problem))
        return
    # noisy_nodes moves the atoms in training, so displacements are larger there than in the records.
    for name in targets if TRANSFORM not in transforms else set(targets) - {TARGET}:
        values = np.concatenate([_values(record, name, free=name in on_free_atoms) for record in records])
        yield from _statistics_findings(name, values, settings.get(name) or {})


def _values(record: Data, name: str, *, free: bool) -> np.ndarray:
    values = torch.as_tensor(record[name], dtype=torch.float64)
    return (values.reshape(len(record.pos), -1)[record.fixed == 0] if free else values).flatten().numpy()


def _statistics_findings(name: str, values: np.ndarray, normalizer: dict[str, Any]) -> Iterator[Finding]:
    subject = f"dataset.train.transforms.normalizer.{name}"
    mean, deviation = float(values.mean()), float(values.std())
    if faults(Normalizer, normalizer):
        return
    centre, spread = mean_and_deviation(normalizer)
    said = f"mean {centre:g} and standard deviation {spread:g}" if normalizer else "no normalizer"
    off_centre = abs(mean - centre) > max(STANDARD_ERRORS * deviation / math.sqrt(len(values)), 0.1 * spread)
    off_spread = not spread / RATIO < deviation < spread * RATIO
    if off_centre or off_spread:
        yield warning(
            subject,
            f"{said}, but {len(values)} training targets have mean {mean:.4g} and standard deviation {deviation:.4g}",
            "set mean and stdev to those of the training set",
        )


@dataclass(frozen=True)
class Normaliser:
    """A config's normaliser of a target.

    Attributes:
        key: attribute of the records with the target, e.g. ``y_relaxed``.
        mean: subtracted from the target, eV.
        stdev: divides the target, eV.
        of_rest: whether energies of the elements are subtracted first.
    """

    key: str
    mean: float
    stdev: float
    of_rest: bool = False

    def deviations(self, labels: Spread) -> list[str]:
        """One sentence per number that is off by more than ``TOLERANCE`` standard deviations."""
        pairs = {"mean": (self.mean, labels.mean), "stdev": (self.stdev, labels.std)}
        return [
            f"{name}: {configured:.4f} in the config, {found:.4f} in the data"
            for name, (configured, found) in pairs.items()
            if abs(configured - found) > TOLERANCE * max(labels.std, 1e-12)
        ]


def read_normaliser(source: str, target: str = "energy") -> Normaliser:
    """Read the normaliser of ``target`` from a config, with includes resolved.

    Args:
        source: a file, or ``hdgnn:...`` for a shipped config.
        target: name of the output.

    Raises:
        ConfigError: the file cannot be read, or has no such normaliser.
    """
    config = read_config(source)
    settings = _at(config, "dataset", "train", "transforms", "normalizer", target)
    if not isinstance(settings, Mapping) or "mean" not in settings or not {"rmsd", "stdev"} & set(settings):
        raise ConfigError(
            f"{source}: no dataset.train.transforms.normalizer.{target} with mean and stdev; without it fairchem "
            "trains on raw values"
        )
    mapping = _at(config, "dataset", "train", "key_mapping") or {}
    sources = [stored for stored, name in mapping.items() if name == target]
    of_rest = bool(_at(config, "dataset", "train", "transforms", "element_references", target))
    return Normaliser(sources[0] if sources else target, *mean_and_deviation(settings), of_rest)


def _at(config: Any, *keys: str) -> Any:
    """The value at a path of nested keys, or ``None``."""
    for key in keys:
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def target_spread(path: Path, key: str | None = None, *, progress: bool = True) -> tuple[str, Spread]:
    """Name and distribution of one label over all records; arguments and errors are those of ``labelled_records``."""
    found = [(name, value) for _, name, value in labelled_records(path, key, progress=progress)]
    return found[-1][0], Spread.of([value for _, value in found])


def labelled_records(path: Path, key: str | None = None, *, progress: bool = True) -> Iterator[tuple[Data, str, float]]:
    """Each record with the name and the value of its label.

    Args:
        path: LMDB file or folder.
        key: attribute; by default the first of ``LABELS`` that the records have.
        progress: show a progress bar.

    Raises:
        DataError: no records, or a record lacks the label, or it is not finite.
    """
    records = reading.Records(path)
    if not len(records):
        raise DataError(f"{path}: contains no records")
    for index, record in enumerate(tqdm(records, total=len(records), unit="record", disable=not progress, leave=False)):
        if key is None:
            key = next((label for label in LABELS if label in record), None)
        if key is None or key not in record:
            has = ", ".join(sorted(record.keys()))
            raise DataError(f"{path}, record {index}: no '{key or LABELS[0]}'; it has {has}; name one of these")
        value = _number(record[key], f"{path}, record {index}: {key}")
        if not abs(value) < float("inf"):
            raise DataError(f"{path}, record {index}: {key} is {value}")
        yield record, key, value


def _number(label: Any, subject: str) -> float:
    try:
        return float(label)
    except (TypeError, ValueError, RuntimeError):
        found = f"{torch.as_tensor(label).numel()} numbers" if hasattr(label, "shape") else type(label).__name__
        raise DataError(f"{subject} is {found}, not one number; choose another label") from None
