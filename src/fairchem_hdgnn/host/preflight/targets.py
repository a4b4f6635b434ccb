"""The normaliser of each target, held against the targets themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.host.noisy_nodes import TARGET, TRANSFORM
from fairchem_hdgnn.host.preflight.findings import Finding, error, value_findings, warning
from fairchem_hdgnn.host.preflight.records import Records, read, sample
from fairchem_hdgnn.host.sections import Normalizer
from fairchem_hdgnn.schema import faults

SAMPLE = 200
"""Training records whose targets are read: they tell a standard deviation to about 5 %."""

STANDARD_ERRORS = 6
"""A mean off by more than this many is no accident of the sample."""

RATIO = 1.5
"""Nor is a standard deviation that differs by this factor."""


def target_findings(
    transforms: dict[str, Any], dataset: Records, targets: dict[str, bool], seed: int = 0
) -> Iterator[Finding]:
    """Compare ``dataset.train.transforms.normalizer`` with a sample of the training targets.

    Args:
        transforms: of the training data.
        dataset: training records as the trainer gets them.
        targets: names, and whether each is one number an atom.
        seed: of the sample.
    """
    settings = transforms.get("normalizer") or {}
    for name, normalizer in settings.items():
        if name in targets and isinstance(normalizer, dict):
            yield from value_findings(f"dataset.train.transforms.normalizer.{name}", Normalizer, normalizer)
    if settings.get("file") or settings.get("fit") or transforms.get("element_references"):
        return
    indices = sample(len(dataset), SAMPLE, seed)
    if len(indices) < 20:
        return
    try:
        records = [read(dataset, index) for index in indices]
    except DataError as problem:
        yield error("dataset.train", str(problem))
        return
    # Training sees structures that noisy_nodes has moved, whose displacements are larger than the records'.
    for name in targets if TRANSFORM not in transforms else set(targets) - {TARGET}:
        values = torch.cat([torch.as_tensor(record[name], dtype=torch.float64).flatten() for record in records]).numpy()
        yield from _statistics_findings(name, values, settings.get(name) or {})


def _statistics_findings(name: str, values: np.ndarray, normalizer: dict[str, Any]) -> Iterator[Finding]:
    subject = f"dataset.train.transforms.normalizer.{name}"
    mean, deviation = float(values.mean()), float(values.std())
    if faults(Normalizer, normalizer):
        return
    spread = normalizer.get("stdev", normalizer.get("rmsd", 1.0))
    centre = normalizer.get("mean", 0.0)
    said = f"mean {centre:g} and standard deviation {spread:g}" if normalizer else "no normaliser"
    off_centre = abs(mean - centre) > max(STANDARD_ERRORS * deviation / math.sqrt(len(values)), 0.1 * spread)
    off_spread = not spread / RATIO < deviation < spread * RATIO
    if off_centre or off_spread:
        yield warning(
            subject,
            f"{said}, but {len(values)} training targets have mean {mean:.4g} and standard deviation {deviation:.4g}",
            "set mean and stdev to those of the training set",
        )
