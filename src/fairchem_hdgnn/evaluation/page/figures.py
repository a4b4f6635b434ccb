"""The page's plots, as plotly figures. Points have their split; the page's script adds the hover texts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from plotly.graph_objects import Bar, Figure, Scatter, Scattergl

from fairchem_hdgnn.evaluation.groups import Groups, Models, grouped, mean_and_interval, pooled_errors
from fairchem_hdgnn.evaluation.metrics import ENERGY_THRESHOLD
from fairchem_hdgnn.evaluation.plot_style import GREY, GRID, colour
from fairchem_hdgnn.evaluation.predictions import Predictions
from fairchem_hdgnn.evaluation.splits import title_of

MOST_SVG_POINTS = 3000
"""With more points than this, WebGL is used."""

THRESHOLDS = 200
"""Points of a curve over thresholds."""

HOVER = (
    "<b>%{customdata[0]}</b> · %{customdata[1]}<br>%{customdata[2]}<br>"
    "reference %{customdata[3]:.3f} eV<br>predicted %{customdata[4]:.3f} eV<br>error %{customdata[5]:+.0f} meV"
    "<extra></extra>"
)
"""``customdata`` is filled in by the page's script: id, split, composition, reference, prediction, error."""


def parity_figure(of_model: Mapping[str, Predictions]) -> Figure:
    """Predicted against reference energies, eV; one trace a split."""
    figure = empty_figure("reference energy, eV", "predicted energy, eV")
    energies = np.concatenate([values for each in of_model.values() for values in (each.labels, each.energy)])
    margin = 0.04 * float(np.ptp(energies)) or 0.5
    limits = [float(energies.min()) - margin, float(energies.max()) + margin]
    figure.add_shape(
        type="line", x0=limits[0], y0=limits[0], x1=limits[1], y1=limits[1], line=thin_line(), layer="below"
    )
    labels = {split: each.labels for split, each in of_model.items()}
    add_points(figure, labels, {split: each.energy for split, each in of_model.items()}, HOVER)
    figure.update_xaxes(range=limits)
    figure.update_yaxes(range=limits)
    return figure


def error_figure(of_model: Mapping[str, Predictions]) -> Figure:
    """Prediction minus reference, meV, against reference energies, eV; one trace a split."""
    figure = empty_figure("reference energy, eV", "error, meV")
    figure.add_hline(y=0, line=thin_line(), layer="below")
    labels = {split: each.labels for split, each in of_model.items()}
    add_points(figure, labels, {split: 1000 * each.errors for split, each in of_model.items()}, HOVER)
    return figure


def threshold_figure(models: Models) -> Figure:
    """Share of all systems with a smaller error, against the error; EwT is the share at 20 meV."""
    figure = empty_figure("absolute energy error, meV", "systems with a smaller error, %")
    errors = pooled_errors(models)
    largest = max(float(each.max()) for each in errors.values())
    thresholds = np.geomspace(1, max(largest, 1000 * ENERGY_THRESHOLD) * 1.01, THRESHOLDS)
    for position, (name, of_model) in enumerate(errors.items()):
        shares = 100 * np.searchsorted(np.sort(of_model), thresholds) / len(of_model)
        hover = "%{y:.1f} % below %{x:.3g} meV"
        figure.add_trace(_line(name, thresholds, shares, position, hover))
    ewt = 1000 * ENERGY_THRESHOLD
    figure.add_shape(type="line", x0=ewt, x1=ewt, y0=0, y1=1, yref="paper", line={**thin_line(), "dash": "dash"})
    # On a logarithmic axis plotly places texts, unlike shapes, by the logarithm.
    figure.add_annotation(
        x=np.log10(ewt), y=1, yref="paper", text="EwT", showarrow=False, xanchor="right", yanchor="top"
    )
    figure.update_xaxes(type="log", range=[0, np.log10(thresholds[-1])])
    figure.update_yaxes(range=[0, 102])
    return figure


def group_figures(models: Models) -> dict[str, Figure]:
    """MAE by adsorbate, by element of the slab and by size, meV, over all splits together, with 95 % intervals."""
    errors = pooled_errors(models)
    return {title: _group_figure(groups, errors) for title, groups in grouped(models).items()}


def _group_figure(groups: Groups, errors: Mapping[str, np.ndarray]) -> Figure:
    figure = empty_figure("energy MAE, meV", "")
    for position, (name, of_model) in enumerate(errors.items()):
        means, intervals = mean_and_interval(of_model, groups)
        figure.add_trace(
            Bar(
                name=name,
                x=rounded(means, 1),
                y=list(groups),
                error_x={"type": "data", "array": rounded(intervals, 1), "thickness": 1},
                customdata=[int(systems.sum()) for systems in groups.values()],
                hovertemplate="%{y}: %{x:.0f} meV (%{customdata} systems)",
                orientation="h",
                marker_color=colour(position),
            )
        )
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False, dtick=1)
    figure.update_layout(height=120 + (14 + 10 * len(errors)) * len(groups), barmode="group", bargap=0.25)
    return figure


def add_points(figure: Figure, x: Mapping[str, np.ndarray], y: Mapping[str, np.ndarray], hover: str) -> None:
    """Add a trace of points for each split, one point a system, which the page's script links to its structure."""
    many = sum(map(len, x.values())) > MOST_SVG_POINTS
    for position, split in enumerate(x):
        figure.add_trace(
            (Scattergl if many else Scatter)(
                name=title_of(split),
                x=rounded(x[split], 4),
                y=rounded(y[split], 4),
                mode="markers",
                marker={"size": 4 if many else 6, "opacity": 0.6, "color": colour(position)},
                meta=split,
                hovertemplate=hover,
            )
        )


def empty_figure(x_title: str, y_title: str) -> Figure:
    """Axes in the style of the page, without data."""
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GREY, "automargin": True}
    return Figure(
        layout={
            "template": "none",
            "showlegend": True,
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "xaxis": {**axis, "title": {"text": x_title}},
            "yaxis": {**axis, "title": {"text": y_title}},
            "margin": {"l": 60, "r": 10, "t": 40, "b": 50},
            "height": 460,
            "hovermode": "closest",
            "font": {"family": "system-ui, sans-serif", "size": 13},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
        }
    )


def thin_line() -> dict[str, object]:
    """Style of a line that guides the eye."""
    return {"color": GREY, "width": 1}


def rounded(values: np.ndarray, digits: int) -> list[float]:
    """Numbers for JSON, with as many digits as a plot shows."""
    return np.round(values.astype(np.float64), digits).tolist()


def _line(name: str, x: np.ndarray, y: np.ndarray, position: int, hover: str) -> Scatter:
    line = {"color": colour(position), "width": 2}
    return Scatter(name=name, x=rounded(x, 2), y=rounded(y, 2), mode="lines", line=line, hovertemplate=hover)
