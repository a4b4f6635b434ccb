"""Draw a message of HDGNN in its edge frame: ``python tools/message_figure.py`` writes docs/figures/message*.svg.

It is eq. 11 as docs/model.md and ``fairchem_hdgnn.models.hdgnn.message`` have it: features of both atoms are rotated
into the frame of their edge, three learned terms and METP are weighed by attention and added, and the sum is rotated
back. The edge vector is r_j - r_i, from the target i to the source j, and lies on the frame's polar axis. One file for
light pages, one for dark ones. Coordinates are hundredths of an inch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Circle, FancyArrowPatch, FancyBboxPatch, Polygon

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
WIDTH, HEIGHT = 1000, 468


@dataclass(frozen=True)
class Palette:
    """Colours of one variant; the pairs are fill and line."""

    page: str
    ink: str
    muted: str
    frame: tuple[str, str]
    first: tuple[str, str]
    second: tuple[str, str]
    strict: tuple[str, str]
    attention: tuple[str, str]
    source: tuple[str, str]
    target: tuple[str, str]


VARIANTS = {
    "message.svg": Palette(
        page="#ffffff",
        ink="#1f2328",
        muted="#57606a",
        frame=("#f6f8fa", "#d0d7de"),
        first=("#ddf0ff", "#0969da"),
        second=("#f1e7ff", "#8250df"),
        strict=("#d9f7e0", "#1a7f37"),
        attention=("#fff1cf", "#9a6700"),
        source=("#ffe3e8", "#c93a58"),
        target=("#e4e8ed", "#57606a"),
    ),
    "message-dark.svg": Palette(
        page="#0d1117",
        ink="#e6edf3",
        muted="#9ea7b3",
        frame=("#161b22", "#3d444d"),
        first=("#0d2d52", "#58a6ff"),
        second=("#2b1d4a", "#bc8cff"),
        strict=("#10301b", "#4ac26b"),
        attention=("#382a0b", "#d9a62e"),
        source=("#47141f", "#ff7b93"),
        target=("#2b3138", "#9ea7b3"),
    ),
}

STYLE: dict[Any, str] = {
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "stix",
    "svg.fonttype": "path",
    "svg.hashsalt": "message",  # the same file from each run
}


class Drawing:
    """An empty page of one palette, and the few shapes that the figure has."""

    def __init__(self, palette: Palette) -> None:
        self.palette = palette
        self.figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), facecolor=palette.page)
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
        self.axes.axis("off")

    def text(self, x: float, y: float, text: str, size: float = 10, color: str = "", **options: str) -> None:
        """Centred at (x, y)."""
        settings: dict[str, Any] = {"ha": "center", "va": "center", **options}
        self.axes.text(x, y, text, size=size, color=color or self.palette.ink, **settings)

    def box(self, x: float, y: float, width: float, height: float, colors: tuple[str, str], radius: float = 9) -> None:
        """A rounded box; (x, y) is its lower left corner."""
        style = f"round,pad=0,rounding_size={radius}"
        self.axes.add_patch(FancyBboxPatch((x, y), width, height, style, fc=colors[0], ec=colors[1], lw=1.2))

    def arrow(self, start: tuple[float, float], end: tuple[float, float], color: str = "", width: float = 1.3) -> None:
        """From start to end."""
        head = "-|>,head_width=3,head_length=5.5"
        color = color or self.palette.muted
        self.axes.add_patch(FancyArrowPatch(start, end, arrowstyle=head, color=color, lw=width, shrinkA=0, shrinkB=0))

    def line(self, start: tuple[float, float], end: tuple[float, float], color: str, width: float = 1.2) -> None:
        """Behind everything but boxes."""
        self.axes.plot([start[0], end[0]], [start[1], end[1]], color=color, lw=width, zorder=1.5)

    def disc(self, x: float, y: float, radius: float, colors: tuple[str, str]) -> None:
        """A circle."""
        self.axes.add_patch(Circle((x, y), radius, fc=colors[0], ec=colors[1], lw=1.2, zorder=3))


def lobes(seed: int, turn: float, size: float) -> np.ndarray:
    """Outline of a signal with degrees 0 to 3 in the plane, turned by ``turn`` (radians): ``[points, 2]``."""
    angle = np.linspace(0, 2 * np.pi, 181)
    amplitudes = {1: (0.16, 0.7), 2: (0.42, 0.3), 3: (0.20, 1.9)} if seed == 0 else {1: (0.30, 2.2), 3: (0.40, 0.5)}
    waves = [size_l * np.cos(degree * angle - phase) for degree, (size_l, phase) in amplitudes.items()]
    radius = 1 + np.sum(waves, axis=0)
    return size * radius[:, None] * np.stack([np.cos(angle + turn), np.sin(angle + turn)], axis=1)


def atom(drawing: Drawing, x: float, y: float, turn: float, seed: int, size: float = 15) -> None:
    """An atom with its features, a signal on the sphere."""
    palette = drawing.palette
    fill, line = palette.source if seed == 0 else palette.target
    drawing.axes.add_patch(Polygon(lobes(seed, turn, size) + np.array((x, y)), fc=fill, ec=line, lw=1.2, zorder=2))
    drawing.disc(x, y, 4, (palette.ink, palette.page))


TARGET, SOURCE = np.array((66.0, 228.0)), np.array((146.0, 296.0))
"""The two atoms in the global frame."""

NEIGHBOURS = np.array(((28.0, 300.0), (10.0, 206.0), (138.0, 180.0)))
"""Other sources of the same target."""


def neighbours(drawing: Drawing, shift: float, color: str) -> None:
    """Arrows from the target's other neighbours."""
    move = np.array((shift, 0))
    for start in NEIGHBOURS:
        x, y = start + move
        drawing.disc(x, y, 4, (drawing.palette.frame[1], drawing.palette.page))
        near, far = start + 0.62 * (TARGET - start) + move, start + 0.08 * (TARGET - start) + move
        drawing.arrow((far[0], far[1]), (near[0], near[1]), color)


def global_frame(drawing: Drawing) -> None:
    """The two atoms as they are, with their features x."""
    palette = drawing.palette
    drawing.text(100, 434, "global frame", weight="bold")
    neighbours(drawing, 0, palette.frame[1])
    edge = SOURCE - TARGET
    end = TARGET + 0.9 * edge
    drawing.arrow((TARGET[0], TARGET[1]), (end[0], end[1]), palette.ink, width=1.6)
    atom(drawing, TARGET[0], TARGET[1], 0, 1)
    atom(drawing, SOURCE[0], SOURCE[1], 0, 0)
    drawing.text(148, 330, r"source  $x_j$", size=11)
    drawing.text(66, 189, r"target  $x_i$", size=11)
    drawing.text(120, 250, r"$r_{ij}$", size=12)
    drawing.text(100, 116, "atoms carry features\nof degree $0 \\leq l \\leq L$", size=9.5, color=palette.muted)


def edge_frame(drawing: Drawing) -> None:
    """The same edge on the polar axis, and the turn about it."""
    palette = drawing.palette
    x, low, high = 290.0, 190.0, 295.0
    drawing.line((x, low - 30), (x, high + 66), palette.muted)
    drawing.arrow((x, low), (x, high - 9), palette.ink, width=1.6)
    edge = SOURCE - TARGET
    turn = np.pi / 2 - np.arctan2(edge[1], edge[0])
    atom(drawing, x, low, turn, 1)
    atom(drawing, x, high, turn, 0)
    drawing.text(x + 22, high + 12, r"$D\,x_j$", size=11, ha="left")
    drawing.text(x + 22, low - 4, r"$D\,x_i$", size=11, ha="left")
    drawing.axes.add_patch(Arc((x, high + 48), 36, 11, theta1=115, theta2=65, ec=palette.ink, lw=1.2))
    drawing.arrow((x + 9, high + 52.6), (x + 5, high + 53.8), palette.ink, width=0.6)
    drawing.text(x + 22, high + 56, "roll", size=9.5, color=palette.muted, ha="left")
    drawing.text(x, 116, "the edge is the\npolar axis", size=9.5, color=palette.muted)


def lanes(drawing: Drawing) -> None:
    """The four terms, their coefficients and their sum."""
    palette, plus = drawing.palette, (752.0, 250.0)
    rows = (
        (366.0, palette.first, "source", r"$\mathrm{NN}_1(x_j^{\prime\prime}) + \mathrm{NN}_1(x_j)$"),
        (308.0, palette.first, "target, same weights", r"$\mathrm{NN}_1(x_i^{\prime\prime}) + \mathrm{NN}_1(x_i)$"),
        (
            250.0,
            palette.second,
            "pair",
            r"$\mathrm{NN}_2(x_i^{\prime\prime} + x_j^{\prime\prime}) + \mathrm{NN}_2(x_i + x_j)$",
        ),
        (158.0, palette.strict, "METP, of channel means", r"$(x_i + x_j) \otimes S(r_{ij}), \quad l \leq L^{\prime}$"),
    )
    drawing.line((374, rows[0][0]), (374, rows[-1][0]), palette.muted)
    drawing.line((346, plus[1]), (374, plus[1]), palette.muted)
    drawing.line((690, 62), (690, rows[0][0]), palette.attention[1])
    for term, (y, colors, name, formula) in enumerate(rows, start=1):
        drawing.arrow((374, y), (399, y))
        drawing.box(400, y - 22, 250, 44, colors)
        drawing.text(411, y + 12, name, size=8.5, color=colors[1], ha="left", weight="bold")
        drawing.text(525, y - 6, formula, size=12.5)
        drawing.arrow((650, y), (673, y))
        drawing.disc(690, y, 15, palette.attention)
        drawing.text(690, y - 0.5, rf"$a_{term}$", size=12)
        way = np.array(plus) - (690, y)
        start, end = (np.array((690, y)) + way / np.hypot(*way) * 15, np.array(plus) - way / np.hypot(*way) * 15)
        drawing.arrow((start[0], start[1]), (end[0], end[1]))
    drawing.disc(*plus, 14, (palette.page, palette.ink))
    drawing.text(plus[0], plus[1] - 0.5, "+", size=14)
    drawing.text(525, 402, "learned: unrestricted networks", size=9.5, color=palette.first[1], weight="bold")
    drawing.text(525, 212, r"$x^{\prime\prime} = D\,x - x$", size=11, color=palette.muted)
    drawing.text(525, 122, "strictly equivariant: a tensor product", size=9.5, color=palette.strict[1], weight="bold")


def message(drawing: Drawing) -> None:
    """The message, back in the global frame, at its target."""
    palette, shift = drawing.palette, 832.0
    drawing.text(shift + 86, 434, "global frame", weight="bold")
    neighbours(drawing, shift, palette.muted)
    (x, y), edge = TARGET + np.array((shift, 0)), SOURCE - TARGET
    drawing.disc(x + edge[0], y + edge[1], 4, (palette.ink, palette.page))
    drawing.arrow((x + 0.94 * edge[0], y + 0.94 * edge[1]), (x + 10, y + 8.5), palette.ink, width=1.8)
    drawing.disc(x, y, 7, (palette.ink, palette.page))
    drawing.text(x + 54, y + 24, r"$m_{ij}$", size=13)
    drawing.text(shift + 80, 116, "the target adds\nits messages", size=9.5, color=palette.muted)


def figure(palette: Palette) -> Figure:
    """The whole picture."""
    drawing = Drawing(palette)
    drawing.box(226, 86, 564, 372, palette.frame, radius=14)
    drawing.text(508, 434, "edge frame", weight="bold")
    global_frame(drawing)
    edge_frame(drawing)
    lanes(drawing)
    message(drawing)
    drawing.arrow((184, 250), (246, 250), palette.ink, width=1.8)
    drawing.text(203, 266, r"$D$", size=12)
    drawing.arrow((767, 250), (842, 250), palette.ink, width=1.8)
    drawing.text(815, 266, r"$D^{-1}$", size=12)
    drawing.box(400, 14, 306, 48, palette.attention)
    drawing.text(553, 46, "attention, from invariants only", size=9.5, color=palette.attention[1], weight="bold")
    drawing.text(553, 28, r"$a_1 \ldots a_4$ for each edge and channel", size=10.5)
    return drawing.figure


def main() -> None:
    """Write both files."""
    for name, palette in VARIANTS.items():
        with mpl.rc_context(STYLE):
            figure(palette).savefig(FIGURES / name, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
