"""Scores of OC20 with their uncertainty: energy MAE and EwT per split, their means, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64

from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.evaluation.predictions import Predictions
from fairchem_hdgnn.evaluation.splits import suffix_of

ENERGY_THRESHOLD = 0.02
"""eV; a prediction counts for EwT when its error is smaller (OC20)."""

MEAN, OOD_MEAN = "mean", "ood_mean"
METRICS = {"mae": "meV", "ewt": "%"}
"""Energy MAE and energy within threshold (EwT), with the units of every number here."""


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
        scores: ``scores[metric][model][column]``; a column is a split, ``mean`` or ``ood_mean``.
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
    random = np.random.default_rng(seed)
    values = np.zeros((len(METRICS), len(models), len(splits)))
    samples = np.zeros((num_resamples, *values.shape))
    for column, split in enumerate(splits):
        of_split = [predictions[model][split] for model in models]
        _require_same_systems(split, models, of_split)
        values[:, :, column] = np.array([_scores(each) for each in of_split]).T
        statistics = np.concatenate([_per_system(each) for each in of_split], axis=1)
        resampled = bootstrap_means(statistics, num_resamples, random)
        samples[:, :, :, column] = resampled.reshape(num_resamples, len(models), len(METRICS)).swapaxes(1, 2)

    means = mean_columns(splits)
    columns = (*splits, *means)
    values = np.concatenate([values, *(values[..., at].mean(-1, keepdims=True) for at in means.values())], axis=-1)
    samples = np.concatenate([samples, *(samples[..., at].mean(-1, keepdims=True) for at in means.values())], axis=-1)
    scores = _tabulate(values, samples, models, columns)
    differences = _tabulate(values - values[:, :1], samples - samples[:, :, :1], models, columns)
    for of_metric in differences.values():
        del of_metric[models[0]]
    num_systems = {split: len(predictions[models[0]][split]) for split in splits}
    return Comparison(models, splits, num_systems, scores, differences)


def constant_baseline(predictions: Mapping[str, Predictions], constant: float | None) -> dict[str, Predictions]:
    """Predictions of a model that always predicts ``constant`` (eV); ``None``: the median of each split's labels."""
    answers = {}
    for split, of_split in predictions.items():
        if of_split.target is None:
            raise DataError(f"{split}: no labels, so no baseline")
        answer = float(np.median(of_split.target)) if constant is None else constant
        energy = np.full(len(of_split), answer, dtype=np.float32)
        answers[split] = replace(of_split, energy=energy, forces=None, target_forces=None, free_atoms=None)
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


def _per_system(predictions: Predictions) -> Float64[np.ndarray, "systems metrics"]:
    """Absolute error in meV, and 100 if it is within the threshold, else 0."""
    error = np.abs(predictions.errors)
    return np.stack([1000 * error, 100.0 * (error < ENERGY_THRESHOLD)], axis=1)


def _scores(predictions: Predictions) -> list[float]:
    """MAE in meV and EwT in %, summed in fairchem's order."""
    error = torch.from_numpy(np.abs(predictions.errors))
    within = int((error < ENERGY_THRESHOLD).sum())
    return [1000 * error.mean().item(), 100 * (within / len(error))]


def _require_same_systems(split: str, models: Sequence[str], predictions: Sequence[Predictions]) -> None:
    for model, each in zip(models, predictions):
        if each.target is None:
            raise DataError(f"{split}: the systems have no labels; use 'fairchem-hdgnn predict' for test splits")
        unknown = ~np.isfinite(each.target)
        if unknown.any():
            raise DataError(f"{split}: the label of system {each.ids[unknown][0]} is NaN or infinity; correct the LMDB")
        wrong = ~np.isfinite(each.energy)
        if wrong.any():
            raise DataError(f"{split}: {model} predicts NaN or infinity, first for system {each.ids[wrong][0]}")
        if not np.array_equal(each.ids, predictions[0].ids):
            raise DataError(f"{split}: {model} and {models[0]} were run on different systems")
        if not np.array_equal(each.target, predictions[0].labels):
            raise DataError(
                f"{split}: {model} and {models[0]} read different labels, so their errors cannot be compared; "
                "evaluate them separately"
            )


def _tabulate(
    values: Float64[np.ndarray, "metrics models columns"],
    samples: Float64[np.ndarray, "resamples metrics models columns"],
    models: Sequence[str],
    columns: Sequence[str],
) -> dict[str, dict[str, dict[str, Estimate]]]:
    low, high = np.quantile(samples, [0.025, 0.975], axis=0)
    return {
        metric: {
            model: {
                column: Estimate(*(float(table[i, j, k]) for table in (values, low, high)))
                for k, column in enumerate(columns)
            }
            for j, model in enumerate(models)
        }
        for i, metric in enumerate(METRICS)
    }
