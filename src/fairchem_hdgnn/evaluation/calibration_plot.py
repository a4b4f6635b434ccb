"""Plot of an ensemble's calibration: coverage of its intervals, and errors against standard deviations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fairchem_hdgnn.evaluation.calibration import Calibration, smallest_probabilities
from fairchem_hdgnn.evaluation.plot_style import GREY, colour, light_grid, save, style
from fairchem_hdgnn.evaluation.predictions import Predictions
from fairchem_hdgnn.evaluation.splits import title_of

MOST_BINS = 10
FEWEST_IN_BIN = 10
"""Smallest number of systems in a bin; with fewer, the root mean square error is too uncertain."""


def draw_calibration(ensemble: Mapping[str, Predictions], calibration: Calibration, path: Path) -> Path:
    """Draw the plot; ``path`` ends in ``.png`` or ``.svg``."""
    with style():
        return save(calibration_figure(ensemble, calibration), path)


def calibration_figure(ensemble: Mapping[str, Predictions], calibration: Calibration) -> Figure:
    """Two panels for each split, with the standard deviations unscaled and scaled.

    Top: the share of systems inside the central normal interval against its probability. Bottom: the root mean square
    error against the root mean square standard deviation of bins of equal size (Levi et al., Sensors 22,
    5540, 2022). Both follow the diagonal if the standard deviations are calibrated.

    Args:
        ensemble: split -> predictions with ``energy_std`` and labels.
        calibration: the ensemble's calibration.
    """
    figure = Figure(figsize=(2.9 * len(ensemble) + 0.6, 5.8), layout="constrained")
    axes = figure.subplots(2, len(ensemble), squeeze=False, sharex="row", sharey="row")
    for column, (split, each) in enumerate(ensemble.items()):
        fitted = ", fitted here" if split == calibration.fitted_on else ""
        axes[0, column].set_xlabel("interval's probability, %")
        axes[0, column].set_title(f"{title_of(split)} (n = {len(each):,}{fitted})")
        for position, (name, scale) in enumerate((("as predicted", 1.0), ("scaled", calibration.scale))):
            label = name if scale == 1.0 else f"{name} by {scale:.3g}"
            std = scale * each.deviations
            _coverage(axes[0, column], each.errors, std, colour(position), label)
            _bins(axes[1, column], each.errors, std, colour(position))
    for panel in axes.flat:
        light_grid(panel)
        panel.axline((0, 0), slope=1, color=GREY, linewidth=0.8)
    axes[0, 0].set(xlim=(0, 100), ylim=(0, 100), ylabel="systems inside, %")
    axes[1, 0].set(xlim=(0, None), ylim=(0, None), ylabel="RMSE of the bin, meV")
    figure.supxlabel("standard deviation of the bin (root mean square), meV", fontsize=10)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=2)
    return figure


def binned(
    errors: Float64[np.ndarray, "systems"], std: Float64[np.ndarray, "systems"]
) -> tuple[Float64[np.ndarray, "bins"], Float64[np.ndarray, "bins"]]:
    """Root mean squares of ``std`` and of ``errors`` in bins of equal size, by ascending ``std``."""
    number = int(np.clip(len(std) // FEWEST_IN_BIN, 1, MOST_BINS))
    bins = np.array_split(np.argsort(std, kind="stable"), number)
    squares = [(np.mean(std[systems] ** 2), np.mean(errors[systems] ** 2)) for systems in bins]
    deviations, root_errors = np.sqrt(np.array(squares)).T
    return deviations, root_errors


def _coverage(
    panel: Axes, errors: Float64[np.ndarray, "systems"], std: Float64[np.ndarray, "systems"], line: str, label: str
) -> None:
    bounds = 100 * np.concatenate([[0.0], smallest_probabilities(errors, std), [1.0]])
    share = 100 * np.append(np.arange(len(errors) + 1) / len(errors), 1.0)
    panel.step(bounds, share, where="post", color=line, label=label)


def _bins(panel: Axes, errors: Float64[np.ndarray, "systems"], std: Float64[np.ndarray, "systems"], dot: str) -> None:
    deviations, root_errors = binned(errors, std)
    panel.plot(1000 * deviations, 1000 * root_errors, "o-", markersize=4, linewidth=1.0, color=dot)
