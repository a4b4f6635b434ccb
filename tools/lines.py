"""The versions of torch that the project is tested on, each with the Pythons that it supports."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Tuple  # noqa: UP035

ROOT = Path(__file__).resolve().parents[1]

# Python 3.8 must read this file to be refused.
Python = Tuple[int, int]  # noqa: UP006


class Line(NamedTuple):
    """One release of torch; a file in ``constraints/`` pins the packages installed with it.

    Attributes:
        torch: Version.
        oldest: Oldest Python.
        newest: Newest Python.
        numpy: What the constraints file allows.
        cuda_gb: Download of the CUDA build with its libraries, GB.
        pins: Name of the file, where it is not ``torch-X.Y``.
    """

    torch: str
    oldest: Python
    newest: Python
    numpy: str
    cuda_gb: float
    pins: str = ""

    @property
    def name(self) -> str:
        """``2.4`` of ``2.4.1``."""
        return self.torch.rpartition(".")[0]

    @property
    def constraints(self) -> Path:
        """The file of pins."""
        return ROOT / "constraints" / f"{self.pins or f'torch-{self.name}'}.txt"

    def runs_on(self, python: Python) -> bool:
        """Whether the line is tested on this Python."""
        return self.oldest <= python <= self.newest


LINES = (
    Line("2.4.1", (3, 9), (3, 12), "numpy<2", 2.8),
    Line("2.7.1", (3, 9), (3, 13), "numpy>=2", 3.0),
    Line("2.15.0", (3, 11), (3, 13), "numpy>=2", 3.0),
)
"""Oldest first. The first is the one that fairchem-core 1.10 requires; ``make`` uses the last."""

FAIRCHEM_2 = Line("2.13.0", (3, 11), (3, 13), "numpy>=2", 3.4, "fairchem-2")
"""The torch that is tested with fairchem-core 2."""

DOCS_PYTHONS: tuple[Python, Python] = ((3, 10), (3, 13))
"""Oldest and newest Python that builds the documentation, which needs no torch."""

DOCS_PINS = ROOT / "constraints" / "docs.txt"


def find_line(python: Python, name: str = "") -> Line:
    """The line with this name; without a name, the newest that runs on this Python.

    Raises:
        ValueError: there is no such line, or it does not run on this Python; the message names what there is.
    """
    fitting = [line for line in LINES if line.runs_on(python) and name in ("", line.name, line.torch)]
    if fitting:
        return fitting[-1]
    known = ", ".join(f"{line.name} (Python {text(line.oldest)} to {text(line.newest)})" for line in LINES)
    asked = f"torch {name} on Python {text(python)}" if name else f"Python {text(python)}"
    raise ValueError(f"{asked} is not among the tested lines of torch: {known}")


def text(python: Python) -> str:
    """``3.11``."""
    return ".".join(map(str, python))
