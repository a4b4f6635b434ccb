"""Plots of predictions: parity with residuals, errors by group, and the EwT curve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fairchem_hdgnn.evaluation.groups import Errors, Groups, Models, grouped, mean_and_interval, pooled_errors
from fairchem_hdgnn.evaluation.learning_curve import learning_curve_figure, read_curves
from fairchem_hdgnn.evaluation.metrics import ENERGY_THRESHOLD
from fairchem_hdgnn.evaluation.plot_style import GREY, colour, light_grid, save, style
from fairchem_hdgnn.evaluation.predictions import Predictions
from fairchem_hdgnn.evaluation.splits import title_of

MOST_POINTS = 3000
"""Above this many systems, a scatter plot is drawn as a 2D histogram."""


def draw_all(
    models: Models, checkpoints: Mapping[str, Path], folder: Path, suffix: str = "png", *, logs: Path | None = None
) -> list[Path]:
    """Draw all plots for which there are data.

    Args:
        models: ``models[name][split]``, with labels.
        checkpoints: name -> file, to find the event files of the runs.
        folder: output folder.
        suffix: ``png`` or ``svg``.
        logs: folder of event files, instead of that of the first checkpoint's run.
    """
    with style():
        figures = {
            (f"parity_{position + 1}" if len(models) > 1 else "parity"): parity_figure(name, of_model)
            for position, (name, of_model) in enumerate(models.items())
        }
        figures["errors_by_group"] = group_figure(models)
        figures["ewt"] = ewt_figure(models)
        curves = read_curves(checkpoints, logs)
        if curves:
            figures["learning_curve"] = learning_curve_figure(curves)
        return [save(figure, folder / f"{name}.{suffix}") for name, figure in figures.items()]


def parity_figure(name: str, splits: Mapping[str, Predictions]) -> Figure:
    """Predicted against reference energies, and below them the residuals, for every split."""
    figure = Figure(figsize=(2.7 * len(splits) + 0.8, 5.0), layout="constrained")
    axes = figure.subplots(2, len(splits), sharex=True, sharey="row", squeeze=False, height_ratios=[2, 1])
    energies = np.concatenate([values for each in splits.values() for values in (each.labels, each.energy)])
    limits = _padded(energies)
    largest = max(np.quantile(np.abs(each.errors), 0.995) for each in splits.values()) * 1.1
    for column, (split, each) in enumerate(splits.items()):
        parity, residuals = axes[:, column]
        error = np.abs(each.errors)
        parity.axline((0, 0), slope=1, color=GREY, linewidth=0.8)
        _points(parity, each.labels, each.energy, (*limits, *limits), column)
        parity.set(xlim=limits, ylim=limits)
        parity.set_title(f"{title_of(split)} (n = {len(each):,})")
        facts = f"MAE {1000 * error.mean():.0f} meV\nEwT {100 * (error < ENERGY_THRESHOLD).mean():.1f} %"
        parity.text(0.04, 0.96, facts, transform=parity.transAxes, va="top")
        residuals.axhline(0, color=GREY, linewidth=0.8)
        _points(residuals, each.labels, each.errors, (*limits, -largest, largest), column)
        residuals.set(ylim=(-largest, largest))
        if beyond := int((error > largest).sum()):
            residuals.text(0.04, 0.96, f"{beyond} beyond this range", transform=residuals.transAxes, va="top")
        for each_axes in (parity, residuals):
            light_grid(each_axes)
    figure.suptitle(name, x=0.01, ha="left", fontweight="bold")
    axes[0, 0].set_ylabel("predicted energy, eV")
    axes[1, 0].set_ylabel("error, eV")
    figure.supxlabel("reference energy, eV", fontsize=10)
    return figure


def ewt_figure(models: Models) -> Figure:
    """Share of systems whose error stays below a threshold, as the threshold grows; EwT is the value at 20 meV."""
    splits = list(next(iter(models.values())))
    figure = Figure(figsize=(3.1 * len(splits) + 0.6, 3.4), layout="constrained")
    panels = figure.subplots(1, len(splits), sharex=True, sharey=True, squeeze=False)[0]
    for panel, split in zip(panels, splits):
        for position, (name, of_model) in enumerate(models.items()):
            error = np.sort(np.abs(of_model[split].errors)) * 1000
            share = 100 * np.arange(1, len(error) + 1) / len(error)
            panel.step(np.maximum(error, 1), share, where="post", color=colour(position), label=name)
        panel.axvline(1000 * ENERGY_THRESHOLD, color=GREY, linewidth=0.8, linestyle="--")
        panel.set(xscale="log", xlim=(1, None), ylim=(0, 100), title=title_of(split))
        panel.xaxis.set_major_formatter("{x:g}")
        light_grid(panel)
    panels[0].annotate(
        f"EwT\n{1000 * ENERGY_THRESHOLD:.0f} meV",
        (1000 * ENERGY_THRESHOLD, 97),
        xytext=(-4, 0),
        textcoords="offset points",
        ha="right",
        va="top",
        color=GREY,
    )
    panels[0].set_ylabel("systems with a smaller error, %")
    figure.supxlabel("absolute energy error, meV", fontsize=10)
    _legend_above(figure, panels[0], len(models))
    return figure


def group_figure(models: Models) -> Figure:
    """MAE by adsorbate, by element of the slab and by system size, over all splits together."""
    errors = pooled_errors(models)
    panels = grouped(models)
    rows = max(6, *map(len, panels.values()))
    figure = Figure(figsize=(12, 1.6 + 0.26 * rows), layout="constrained")
    for axes, (title, groups) in zip(figure.subplots(1, len(panels)), panels.items()):
        _group_panel(axes, groups, errors)
        axes.set_title(title)
    figure.supxlabel("energy MAE, meV (bars: 95 % interval; n: systems, all splits together)", fontsize=10)
    _legend_above(figure, figure.axes[0], len(models))
    return figure


# === panels ======================================================================================


def _points(axes: Axes, x: np.ndarray, y: np.ndarray, extent: tuple[float, float, float, float], position: int) -> None:
    if len(x) > MOST_POINTS:
        axes.hexbin(x, y, gridsize=60, extent=extent, bins="log", mincnt=1, cmap="viridis", linewidths=0)
    else:
        axes.scatter(x, y, s=9, color=colour(position), alpha=0.6, linewidths=0)


def _padded(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


def _group_panel(axes: Axes, groups: Groups, errors: Errors) -> None:
    for position, (model, of_model) in enumerate(errors.items()):
        means, intervals = mean_and_interval(of_model, groups)
        axes.errorbar(
            means,
            np.arange(len(groups)) + 0.5 * ((position + 0.5) / len(errors) - 0.5),
            xerr=intervals,
            fmt="o",
            markersize=4,
            linewidth=1.2,
            color=colour(position),
            label=model,
        )
    axes.set_yticks(range(len(groups)), [f"{name}  (n = {systems.sum():,})" for name, systems in groups.items()])
    axes.set(xlim=(0, None), ylim=(len(groups) - 0.3, -0.7))
    light_grid(axes, "x")


def _legend_above(figure: Figure, panel: Axes, num_models: int) -> None:
    handles, names = panel.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=min(num_models, 3))
