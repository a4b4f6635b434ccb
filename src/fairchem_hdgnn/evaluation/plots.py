"""Plots of predictions: parity with residuals, errors by group, and the EwT curve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fairchem_hdgnn.evaluation.learning_curve import learning_curve_figure, read_curves
from fairchem_hdgnn.evaluation.metrics import ENERGY_THRESHOLD
from fairchem_hdgnn.evaluation.plot_style import GREY, colour, light_grid, save, style
from fairchem_hdgnn.evaluation.predictions import Predictions
from fairchem_hdgnn.evaluation.splits import title_of

MOST_POINTS = 3000
"""Above this many systems a scatter plot is drawn as densities."""

MOST_GROUPS = 20
FEWEST_SYSTEMS = 5
NUM_SIZE_BINS = 8

Models = Mapping[str, Mapping[str, Predictions]]


def draw_all(
    models: Models, checkpoints: Mapping[str, Path], folder: Path, suffix: str = "png", *, logs: Path | None = None
) -> list[Path]:
    """Draw every plot that the data allow.

    Args:
        models: ``models[name][split]``, with labels.
        checkpoints: name -> file, to find the event files of the runs.
        folder: where the plots go.
        suffix: ``png`` or ``svg``.
        logs: folder of event files, instead of the one that belongs to the first checkpoint's run.
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
    pooled = list(next(iter(models.values())).values())
    errors = {
        name: 1000 * np.abs(np.concatenate([each.errors for each in of_model.values()]))
        for name, of_model in models.items()
    }
    panels = {
        "By adsorbate": _frequent(_by_adsorbate(pooled), errors),
        "By element in the slab": _frequent(_by_element(pooled), errors),
        "By number of atoms": _by_size(pooled),
    }
    rows = max(6, *map(len, panels.values()))
    figure = Figure(figsize=(12, 1.6 + 0.26 * rows), layout="constrained")
    for axes, (title, groups) in zip(figure.subplots(1, len(panels)), panels.items()):
        _group_panel(axes, groups, errors)
        axes.set_title(title)
    figure.supxlabel("energy MAE, meV (bars: 95 % interval; n: systems, all splits together)", fontsize=10)
    _legend_above(figure, figure.axes[0], len(models))
    return figure


# === parts =======================================================================================


def _points(axes: Axes, x: np.ndarray, y: np.ndarray, extent: tuple[float, float, float, float], position: int) -> None:
    if len(x) > MOST_POINTS:
        axes.hexbin(x, y, gridsize=60, extent=extent, bins="log", mincnt=1, cmap="viridis", linewidths=0)
    else:
        axes.scatter(x, y, s=9, color=colour(position), alpha=0.6, linewidths=0)


def _padded(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


Groups = dict[str, Bool[np.ndarray, "systems"]]
"""Name of a group -> which of the systems belong to it."""

Errors = Mapping[str, Float64[np.ndarray, "systems"]]
"""Name of a model -> its absolute errors in meV."""


def _by_adsorbate(splits: list[Predictions]) -> Groups:
    names = np.concatenate([each.adsorbate for each in splits])
    return {name or "none": names == name for name in np.unique(names).tolist()}


def _by_element(splits: list[Predictions]) -> Groups:
    members = [set(text.split("-")) for each in splits for text in each.elements.tolist()]
    names = sorted(set().union(*members) - {""})
    return {name: np.array([name in of_system for of_system in members]) for name in names}


def _by_size(splits: list[Predictions]) -> Groups:
    natoms = np.concatenate([each.natoms for each in splits])
    distinct = np.unique(natoms)
    if len(distinct) <= NUM_SIZE_BINS:
        return {str(number): natoms == number for number in distinct.tolist()}
    starts = np.unique(np.quantile(natoms, np.arange(NUM_SIZE_BINS) / NUM_SIZE_BINS, method="lower"))
    ends = np.append(starts[1:] - 1, distinct[-1])
    bounds = zip(starts.tolist(), ends.tolist())
    return {(f"{low}-{high}" if low < high else f"{low}"): (natoms >= low) & (natoms <= high) for low, high in bounds}


def _frequent(groups: Groups, errors: Errors) -> Groups:
    """The most frequent groups that have enough systems for a mean, those with the first model's least error first."""
    enough = {name: systems for name, systems in groups.items() if systems.sum() >= FEWEST_SYSTEMS} or groups
    frequent = sorted(enough, key=lambda name: -enough[name].sum())[:MOST_GROUPS]
    first = next(iter(errors.values()))
    return {name: groups[name] for name in sorted(frequent, key=lambda name: first[groups[name]].mean())}


def _group_panel(axes: Axes, groups: Groups, errors: Errors) -> None:
    for position, (model, of_model) in enumerate(errors.items()):
        of_groups = [of_model[systems] for systems in groups.values()]
        axes.errorbar(
            [group.mean() for group in of_groups],
            np.arange(len(groups)) + 0.5 * ((position + 0.5) / len(errors) - 0.5),
            xerr=[1.96 * group.std() / np.sqrt(len(group)) for group in of_groups],
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
