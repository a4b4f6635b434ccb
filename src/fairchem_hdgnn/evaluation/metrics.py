"""Scores of OC20 with their uncertainty: of energies and forces per split, their means, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.evaluation.predictions import Predictions
from fairchem_hdgnn.evaluation.splits import suffix_of

ENERGY_THRESHOLD = 0.02
"""eV; a prediction counts for EwT when its error is smaller (OC20)."""

MEAN, OOD_MEAN = "mean", "ood_mean"
FORCE_THRESHOLD = 0.03
"""eV/Å; a prediction counts for EFwT when no component of a force has a larger error either (OC20)."""

ENERGY_METRICS = {"mae": "meV", "ewt": "%"}
"""Energy MAE and energy within threshold (EwT), with their units."""

FORCE_METRICS = {"force_mae": "meV/Å", "force_cos": "", "efwt": "%"}
"""MAE of the components of forces, cosine of predicted and true forces, and energy and forces within threshold."""

METRICS = ENERGY_METRICS | FORCE_METRICS


@dataclass(frozen=True)
class Estimate:
    """A score, or a difference of scores, with its bootstrap 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Scores of several models on the same systems.

    Attributes:
        models: names, in the order given.
        splits: names, in the order given.
        num_systems: systems in each split.
        scores: ``scores[metric][model][column]``; a column is a split, ``mean`` or ``ood_mean``. ``FORCE_METRICS`` are
            there if a model predicts forces that have labels, with those models only.
        differences: ``differences[metric][model][column]``: model minus the first model, system by system.
    """

    models: tuple[str, ...]
    splits: tuple[str, ...]
    num_systems: Mapping[str, int]
    scores: Mapping[str, Mapping[str, Mapping[str, Estimate]]]
    differences: Mapping[str, Mapping[str, Mapping[str, Estimate]]]

    @property
    def columns(self) -> tuple[str, ...]:
        """The splits, and the means that can be formed from them."""
        return (*self.splits, *mean_columns(self.splits))


def mean_columns(splits: Sequence[str]) -> dict[str, list[int]]:
    """The means over splits (each split counts once, as in the papers) and the positions they are taken over."""
    out_of_domain = [position for position, split in enumerate(splits) if suffix_of(split).startswith("ood_")]
    means = {}
    if len(splits) > 1:
        means[MEAN] = list(range(len(splits)))
    if len(out_of_domain) > 1:
        means[OOD_MEAN] = out_of_domain
    return means


def compare(
    predictions: Mapping[str, Mapping[str, Predictions]],
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Score models on the splits they share and compare them system by system.

    All models are resampled with the same systems, so the interval of a difference is a paired one.

    Args:
        predictions: ``predictions[model][split]``, with labels, sorted by id.
        num_resamples: bootstrap resamples of the systems of each split.
        seed: of the bootstrap.

    Raises:
        DataError: a split has no labels, or the models were run on different systems.
    """
    models = tuple(predictions)
    splits = tuple(predictions[models[0]])
    with_forces = tuple(model for model in models if all(map(has_forces, predictions[model].values())))
    rows = [(metric, model) for metric in ENERGY_METRICS for model in models]
    rows += [(metric, model) for metric in FORCE_METRICS for model in with_forces]
    random = np.random.default_rng(seed)
    values = np.zeros((len(rows), len(splits)))
    samples = np.zeros((num_resamples, *values.shape))
    for column, split in enumerate(splits):
        of_split = {model: predictions[model][split] for model in models}
        _require_same_systems(split, of_split)
        statistics = {model: _statistics(each, forces=model in with_forces) for model, each in of_split.items()}
        sums = np.stack([statistics[model][metric].sums for metric, model in rows], axis=1)
        counts = np.stack([statistics[model][metric].counts for metric, model in rows], axis=1)
        values[:, column] = sums.mean(0) / counts.mean(0)
        resampled = bootstrap_means(np.concatenate([sums, counts], axis=1), num_resamples, random)
        with np.errstate(invalid="ignore"):
            # A resample may have no free atom, and so no force.
            samples[:, :, column] = resampled[:, : len(rows)] / resampled[:, len(rows) :]

    means = mean_columns(splits)
    columns = (*splits, *means)
    values = np.concatenate([values, *(values[..., at].mean(-1, keepdims=True) for at in means.values())], axis=-1)
    samples = np.concatenate([samples, *(samples[..., at].mean(-1, keepdims=True) for at in means.values())], axis=-1)
    compared = [(metric, model) for metric, model in rows if model != models[0] and (metric, models[0]) in rows]
    at = [rows.index(row) for row in compared]
    first = [rows.index((metric, models[0])) for metric, _ in compared]
    scores = _tabulate(values, samples, rows, columns)
    differences = _tabulate(values[at] - values[first], samples[:, at] - samples[:, first], compared, columns)
    num_systems = {split: len(predictions[models[0]][split]) for split in splits}
    return Comparison(models, splits, num_systems, scores, differences)


def has_forces(predictions: Predictions) -> bool:
    """Whether there are forces, predicted and true, of at least one free atom."""
    return predictions.forces is not None and predictions.target_forces is not None and len(predictions.forces) > 0


def constant_baseline(predictions: Mapping[str, Predictions], constant: float | None) -> dict[str, Predictions]:
    """Predictions of a model that always predicts ``constant`` (eV) and no forces.

    ``None`` instead of a constant: the median of each split's labels.
    """
    answers = {}
    for split, of_split in predictions.items():
        if of_split.target is None:
            raise DataError(f"{split}: no labels, so no baseline")
        answer = float(np.median(of_split.target)) if constant is None else constant
        energy = np.full(len(of_split), answer, dtype=np.float32)
        forces = None if of_split.forces is None else np.zeros_like(of_split.forces)
        answers[split] = replace(of_split, energy=energy, forces=forces)
    return answers


def bootstrap_means(
    statistics: Float64[np.ndarray, "systems columns"], num_resamples: int, random: np.random.Generator
) -> Float64[np.ndarray, "resamples columns"]:
    """Means of each column over systems drawn with replacement."""
    num_systems = len(statistics)
    means = np.empty((num_resamples, statistics.shape[1]))
    for resample in range(num_resamples):
        drawn = random.integers(0, num_systems, num_systems)
        means[resample] = np.bincount(drawn, minlength=num_systems) @ statistics / num_systems
    return means


def force_errors(predictions: Predictions) -> Float64[np.ndarray, "systems"]:
    """Mean absolute error of the force components of each system's free atoms, eV/Å; NaN without free atoms."""
    found = _force_statistics(predictions)["force_mae"]
    with np.errstate(invalid="ignore"):
        return found.sums / 1000 / found.counts


class _Statistic(NamedTuple):
    """A metric of each system, or its sum over the system's free atoms, and what that sum is divided by."""

    sums: Float64[np.ndarray, "systems"]
    counts: Float64[np.ndarray, "systems"]


def _statistics(predictions: Predictions, *, forces: bool) -> dict[str, _Statistic]:
    """``ENERGY_METRICS`` and, if wanted, ``FORCE_METRICS``."""
    error, one = np.abs(predictions.errors), np.ones(len(predictions))
    found = {"mae": _Statistic(1000 * error, one), "ewt": _Statistic(100.0 * (error < ENERGY_THRESHOLD), one)}
    return found | _force_statistics(predictions) if forces else found


def _force_statistics(predictions: Predictions) -> dict[str, _Statistic]:
    forces, labels, system = _forces(predictions)
    error = np.abs(forces - labels)
    lengths = np.linalg.norm(forces, axis=1) * np.linalg.norm(labels, axis=1)
    cosine = (forces * labels).sum(1) / np.maximum(lengths, 1e-8)
    largest = np.zeros(len(predictions))
    np.maximum.at(largest, system, error.max(1))
    within = (np.abs(predictions.errors) < ENERGY_THRESHOLD) & (largest < FORCE_THRESHOLD)
    atoms = np.bincount(system, minlength=len(predictions)).astype(np.float64)
    return {
        "force_mae": _Statistic(np.bincount(system, 1000 * error.mean(1), len(predictions)), atoms),
        "force_cos": _Statistic(np.bincount(system, cosine, len(predictions)), atoms),
        "efwt": _Statistic(100.0 * within, np.ones(len(predictions))),
    }


def _forces(
    predictions: Predictions,
) -> tuple[Float64[np.ndarray, "atoms 3"], Float64[np.ndarray, "atoms 3"], Int64[np.ndarray, "atoms"]]:
    """Predicted and true forces of the free atoms, eV/Å, and their systems."""
    forces, labels, free_atoms = predictions.forces, predictions.target_forces, predictions.free_atoms
    if forces is None or labels is None or free_atoms is None:
        raise DataError("these predictions have no forces with labels to compare with")
    system = np.repeat(np.arange(len(predictions)), free_atoms)
    return forces.astype(np.float64), labels.astype(np.float64), system


def _require_same_systems(split: str, predictions: Mapping[str, Predictions]) -> None:
    first_model, first = next(iter(predictions.items()))
    for model, each in predictions.items():
        if each.target is None:
            raise DataError(f"{split}: the systems have no labels; use 'fairchem-hdgnn predict' for test splits")
        unknown = ~np.isfinite(each.target)
        if unknown.any():
            raise DataError(f"{split}: the label of system {each.ids[unknown][0]} is NaN or infinity; correct the LMDB")
        wrong = ~np.isfinite(each.energy)
        if wrong.any():
            raise DataError(f"{split}: {model} predicts NaN or infinity, first for system {each.ids[wrong][0]}")
        if has_forces(each):
            _require_finite_forces(split, model, each)
        if not np.array_equal(each.ids, first.ids):
            raise DataError(f"{split}: {model} and {first_model} were run on different systems")
        same = np.array_equal(each.target, first.labels)
        if has_forces(each) and has_forces(first):
            same = same and np.array_equal(_forces(each)[1], _forces(first)[1])
        if not same:
            raise DataError(
                f"{split}: {model} and {first_model} read different labels, so their errors cannot be compared; "
                "evaluate them separately"
            )


def _require_finite_forces(split: str, model: str, predictions: Predictions) -> None:
    forces, labels, system = _forces(predictions)
    for values, subject, remedy in ((labels, "the forces", "; correct the LMDB"), (forces, f"{model}'s forces", "")):
        wrong = ~np.isfinite(values).all(1)
        if wrong.any():
            name = predictions.ids[system[wrong][0]]
            raise DataError(f"{split}: {subject} of system {name} are NaN or infinity{remedy}")


def _tabulate(
    values: Float64[np.ndarray, "rows columns"],
    samples: Float64[np.ndarray, "resamples rows columns"],
    rows: Sequence[tuple[str, str]],
    columns: Sequence[str],
) -> dict[str, dict[str, dict[str, Estimate]]]:
    """``tables[metric][model][column]`` of rows that are each a metric of a model."""
    if not rows:
        return {}
    low, high = np.nanquantile(samples, [0.025, 0.975], axis=0)
    tables: dict[str, dict[str, dict[str, Estimate]]] = {metric: {} for metric, _ in rows}
    for i, (metric, model) in enumerate(rows):
        tables[metric][model] = {
            column: Estimate(*(float(table[i, j]) for table in (values, low, high))) for j, column in enumerate(columns)
        }
    return tables
