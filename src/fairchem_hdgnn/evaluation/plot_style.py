"""Style of all plots: sizes, a colour-blind-safe palette, and saving to files."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from fairchem_hdgnn.files import complete_or_absent

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#777777"
GRID = "#DDDDDD"

STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


def style() -> AbstractContextManager[None]:
    """A context in which figures are made and saved."""
    return rc_context(STYLE)


def colour(position: int) -> str:
    """Colour of the model at ``position``."""
    return COLOURS[position % len(COLOURS)]


def light_grid(axes: Axes, axis: Literal["both", "x", "y"] = "both") -> None:
    """Thin lines behind the data."""
    axes.grid(visible=True, axis=axis, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def save(figure: Figure, path: Path) -> Path:
    """Write ``figure`` as PNG or SVG, whichever ``path`` ends in."""
    canvas = {".png": FigureCanvasAgg, ".svg": FigureCanvasSVG}[path.suffix](figure)
    with complete_or_absent(path) as temporary:
        canvas.print_figure(str(temporary), format=path.suffix[1:], dpi=150, bbox_inches="tight", facecolor="white")
    return path
