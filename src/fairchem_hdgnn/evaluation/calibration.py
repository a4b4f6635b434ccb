"""Calibration of predicted standard deviations: rank correlation, coverage of intervals, one scale factor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.special import erf
from scipy.stats import spearmanr

from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.evaluation.ensemble import EnsemblePredictions

FITTED_ON = "val_id"
"""The split on which the scale is fitted, if it is evaluated."""


@dataclass(frozen=True)
class SplitCalibration:
    """Errors and standard deviations of an ensemble on one split, energies in eV.

    Attributes:
        num_systems: number of systems.
        num_certain: number of systems with a standard deviation of 0.
        rmse: root mean square error of the mean.
        mean_std: mean of the predicted standard deviations, before the scale.
        mean_between: mean of their part between checkpoints; ``None`` for one checkpoint.
        mean_within: mean of their part from draws of frames; ``None`` for one draw.
        rank_correlation: Spearman's, between ``|error|`` and standard deviation; ``None`` where it is undefined.
        miscalibration_area: see :func:`miscalibration_area`, before the scale.
        scaled_miscalibration_area: the same with the scaled standard deviations.
    """

    num_systems: int
    num_certain: int
    rmse: float
    mean_std: float
    mean_between: float | None
    mean_within: float | None
    rank_correlation: float | None
    miscalibration_area: float
    scaled_miscalibration_area: float


@dataclass(frozen=True)
class Calibration:
    """Calibration of an ensemble.

    Attributes:
        scale: factor for the standard deviations, fitted on one split.
        fitted_on: that split; its scaled scores are optimistic.
        splits: name -> scores.
    """

    scale: float
    fitted_on: str
    splits: Mapping[str, SplitCalibration]


def calibrate(ensemble: Mapping[str, EnsemblePredictions]) -> Calibration:
    """Fit the scale on ``val_id``, or on the first split if that is not there, and score all splits.

    Args:
        ensemble: split -> predictions, with labels.

    Raises:
        DataError: there are no labels, or no scale can be fitted.
    """
    fitted_on = FITTED_ON if FITTED_ON in ensemble else next(iter(ensemble))
    scale = fit_scale(ensemble[fitted_on].mean.errors, ensemble[fitted_on].energy_std)
    return Calibration(scale, fitted_on, {split: _score(each, scale) for split, each in ensemble.items()})


def fit_scale(errors: Float64[np.ndarray, "systems"], std: Float64[np.ndarray, "systems"]) -> float:
    """The maximum-likelihood factor for normal errors, ``sqrt(mean(errors**2 / std**2))``.

    Systems with a standard deviation of 0 are excluded: no factor makes their errors likely.

    Args:
        errors: eV.
        std: predicted standard deviations, eV.

    Raises:
        DataError: all standard deviations, or all errors, are 0.
    """
    uncertain = std > 0
    if not uncertain.any():
        raise DataError("the standard deviation is 0 for all systems: the members of the ensemble are the same")
    scale = float(np.sqrt(np.mean((errors[uncertain] / std[uncertain]) ** 2)))
    if scale == 0:
        raise DataError("all errors are 0, so no scale of the standard deviations can be fitted")
    return scale


def miscalibration_area(errors: Float64[np.ndarray, "systems"], std: Float64[np.ndarray, "systems"]) -> float:
    """Area between the coverage of central normal intervals and the diagonal, exact; from 0 to 0.5.

    The interval of probability p is ``± std * sqrt(2) * erfinv(p)``; its coverage is the share of the systems whose
    error is inside (Tran et al., Mach. Learn.: Sci. Technol. 1, 025006, 2020). With n systems, errors that follow the
    predicted normal distributions have 0.31 / sqrt(n) on average (the integral of a Brownian bridge's absolute value).

    Args:
        errors: eV.
        std: predicted standard deviations, eV.
    """
    bounds = np.concatenate([[0.0], smallest_probabilities(errors, std), [1.0]])
    coverage = np.arange(len(bounds) - 1) / (len(bounds) - 2)
    before, after = bounds[:-1] - coverage, bounds[1:] - coverage
    return float(np.sum(after * np.abs(after) - before * np.abs(before)) / 2)


def smallest_probabilities(
    errors: Float64[np.ndarray, "systems"], std: Float64[np.ndarray, "systems"]
) -> Float64[np.ndarray, "systems"]:
    """Probability of the smallest central normal interval that contains each error, ascending: where coverage rises."""
    size = np.abs(errors)
    ratio = np.where(size > 0, np.inf, 0.0)
    np.divide(size, std, out=ratio, where=std > 0)
    return np.sort(erf(ratio / np.sqrt(2)))


def rank_correlation(errors: Float64[np.ndarray, "systems"], std: Float64[np.ndarray, "systems"]) -> float | None:
    """Spearman's, between ``|errors|`` and ``std``; ``None`` if one of them is the same for all systems."""
    if np.ptp(std) == 0 or np.ptp(np.abs(errors)) == 0:
        return None
    return float(spearmanr(np.abs(errors), std)[0])


def _score(ensemble: EnsemblePredictions, scale: float) -> SplitCalibration:
    errors, std = ensemble.mean.errors, ensemble.energy_std
    return SplitCalibration(
        num_systems=len(errors),
        num_certain=int((std == 0).sum()),
        rmse=float(np.sqrt(np.mean(errors**2))),
        mean_std=float(std.mean()),
        mean_between=None if ensemble.between is None else float(ensemble.between.mean()),
        mean_within=None if ensemble.within is None else float(ensemble.within.mean()),
        rank_correlation=rank_correlation(errors, std),
        miscalibration_area=miscalibration_area(errors, std),
        scaled_miscalibration_area=miscalibration_area(errors, scale * std),
    )
