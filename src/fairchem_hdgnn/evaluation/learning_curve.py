"""Learning curves from the event files that fairchem's tensorboard logger writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.evaluation.plot_style import colour, light_grid

SMOOTHED_POINTS = 100
"""Training curves are averaged to about this many points, because single batches are noisy."""


@dataclass(frozen=True)
class Curve:
    """One logged quantity over the steps of training."""

    steps: Float64[np.ndarray, "points"]
    values: Float64[np.ndarray, "points"]

    def averaged(self, points: int = SMOOTHED_POINTS) -> Curve:
        """The curve with blocks of neighbouring points replaced by their means."""
        block = max(1, len(self.steps) // points)
        starts = np.arange(0, len(self.steps), block)
        counts = np.diff(np.append(starts, len(self.steps)))
        return Curve(*(np.add.reduceat(values, starts) / counts for values in (self.steps, self.values)))


def read_curves(checkpoints: Mapping[str, Path], logs: Path | None = None) -> dict[str, dict[str, Curve]]:
    """Curves of each run that has event files: ``curves[name]["val/energy_mae"]``.

    Args:
        checkpoints: name -> checkpoint in fairchem's ``checkpoints/RUN/``; its events are in ``logs/tensorboard/RUN/``.
        logs: folder of the events of the first checkpoint, if they are elsewhere.

    Raises:
        DataError: ``logs`` is given but contains no event files.
    """
    if logs is not None:
        require_events(logs)
    curves = {}
    for position, (name, checkpoint) in enumerate(checkpoints.items()):
        run = checkpoint.resolve().parent
        folder = logs if logs is not None and position == 0 else run.parent.parent / "logs/tensorboard" / run.name
        if _has_events(folder):
            curves[name] = read_events(folder)
    return curves


def require_events(folder: Path) -> None:
    """Raise :class:`DataError` if ``folder`` contains no event files."""
    if not _has_events(folder):
        raise DataError(f"{folder}: no event files (events.out.tfevents.*) there")


def _has_events(folder: Path) -> bool:
    return any(folder.glob("events.out.tfevents.*"))


def read_events(folder: Path) -> dict[str, Curve]:
    """All scalars of the event files in ``folder``; if a resumed run logged a step again, the later value is used."""
    accumulator = EventAccumulator(str(folder), size_guidance={SCALARS: 0})
    accumulator.Reload()
    curves = {}
    for tag in accumulator.Tags()["scalars"]:
        by_step = {event.step: event.value for event in sorted(accumulator.Scalars(tag), key=lambda e: e.wall_time)}
        steps = sorted(by_step)
        values = np.array([by_step[step] for step in steps], dtype=np.float64)
        curves[tag] = Curve(np.array(steps, dtype=np.float64), values)
    return curves


def learning_curve_figure(runs: Mapping[str, Mapping[str, Curve]]) -> Figure:
    """Energy MAE over training, on batches of the training set and on the validation set, and the learning rate."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    errors, rates = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for position, (name, curves) in enumerate(runs.items()):
        if "train/energy_mae" in curves:
            _draw(
                errors, curves["train/energy_mae"].averaged(), 1000, position, f"{name}, training batches", alpha=0.45
            )
        if "val/energy_mae" in curves:
            _draw(errors, curves["val/energy_mae"], 1000, position, f"{name}, validation", marker="o")
        if "train/lr" in curves:
            _draw(rates, curves["train/lr"], 1, position, name)
    errors.set(yscale="log", ylabel="energy MAE, meV")
    rates.set(xlabel="training step", ylabel="learning rate", ylim=(0, None))
    errors.legend(fontsize=9)
    errors.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    errors.yaxis.set_major_formatter("{x:.0f}")
    errors.yaxis.set_minor_formatter(NullFormatter())
    for axes in (errors, rates):
        light_grid(axes)
    return figure


def _draw(axes: Axes, curve: Curve, scale: float, position: int, label: str, **style: Any) -> None:
    axes.plot(
        curve.steps, scale * curve.values, color=colour(position), linewidth=1.4, markersize=3, label=label, **style
    )
