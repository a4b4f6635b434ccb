"""The page's plots of an ensemble's standard deviations, as plotly's figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from plotly.graph_objects import Figure, Scatter

from fairchem_hdgnn.evaluation.calibration import Calibration, smallest_probabilities
from fairchem_hdgnn.evaluation.calibration_plot import binned
from fairchem_hdgnn.evaluation.page.figures import HOVER, add_points, empty_figure, rounded, thin_line
from fairchem_hdgnn.evaluation.plot_style import colour
from fairchem_hdgnn.evaluation.predictions import Predictions
from fairchem_hdgnn.evaluation.splits import title_of

PROBABILITIES = np.linspace(0, 1, 101)
"""Of the intervals whose coverage is drawn."""


def coverage_figure(ensemble: Mapping[str, Predictions], calibration: Calibration) -> Figure:
    """Share of systems in the central normal interval against its probability: scaled, and dotted as predicted.

    Args:
        ensemble: split -> predictions with ``energy_std`` and labels.
        calibration: of them.
    """
    figure = empty_figure("probability of the interval, %", "systems inside, %")
    figure.add_shape(type="line", x0=0, x1=100, y0=0, y1=100, line=thin_line(), layer="below")
    for position, (split, each) in enumerate(ensemble.items()):
        for name, scale, dash in (("as predicted", 1.0, "dot"), ("scaled", calibration.scale, "solid")):
            reached = smallest_probabilities(each.errors, scale * each.deviations)
            shares = np.searchsorted(reached, PROBABILITIES, side="right") / len(each)
            figure.add_trace(
                Scatter(
                    name=f"{title_of(split)}, {name}",
                    x=rounded(100 * PROBABILITIES, 1),
                    y=rounded(100 * shares, 2),
                    mode="lines",
                    line={"color": colour(position), "width": 2, "dash": dash},
                    hovertemplate="%{y:.1f} % inside the interval of %{x:.0f} %",
                )
            )
    figure.update_xaxes(range=[0, 100])
    figure.update_yaxes(range=[0, 102])
    return figure


def deviation_figure(ensemble: Mapping[str, Predictions], calibration: Calibration) -> Figure:
    """Size of the error against the scaled standard deviation, meV, and root mean squares of both in bins.

    Args:
        ensemble: split -> predictions with ``energy_std`` and labels.
        calibration: of them.
    """
    figure = empty_figure("scaled standard deviation, meV", "size of the error; RMSE of the bin, meV")
    scaled = {split: 1000 * calibration.scale * each.deviations for split, each in ensemble.items()}
    sizes = {split: 1000 * np.abs(each.errors) for split, each in ensemble.items()}
    largest = max(float(std.max()) for std in scaled.values())
    figure.add_shape(type="line", x0=0, x1=largest, y0=0, y1=largest, line=thin_line(), layer="below")
    hover = HOVER.replace("<extra>", "<br>standard deviation %{customdata[6]:.0f} meV, scaled %{x:.0f} meV<extra>")
    add_points(figure, scaled, sizes, hover)
    figure.update_traces(opacity=0.4)
    for position, (split, each) in enumerate(ensemble.items()):
        deviations, root_errors = binned(sizes[split], scaled[split])
        figure.add_trace(
            Scatter(
                name=f"{title_of(split)}, bins",
                x=rounded(deviations, 1),
                y=rounded(root_errors, 1),
                mode="lines+markers",
                line={"color": colour(position), "width": 2},
                marker={"size": 9, "symbol": "diamond"},
                hovertemplate=f"RMSE %{{y:.0f}} meV, {len(each) // len(deviations)} systems or one more<extra></extra>",
            )
        )
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(rangemode="tozero")
    return figure
