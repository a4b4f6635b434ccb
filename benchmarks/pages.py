"""Parts of the documentation that scripts write, and the format of results there."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path


def marks(name: str) -> tuple[str, str]:
    """Markers before and after the part of that name."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def replaced(text: str, name: str, part: str) -> str:
    """A page with ``part`` between its marks."""
    begin, end = marks(name)
    before, rest = text.split(begin)
    return f"{before}{begin}\n{part.strip()}\n{end}{rest.split(end)[1]}"


def put_into(page: Path, name: str, part: str) -> None:
    """Write ``part`` between its marks on a page."""
    page.write_text(replaced(page.read_text(), name, part))


def of_seeds(values: Sequence[float]) -> str:
    """The mean, and the largest distance of a seed from it."""
    mean = statistics.mean(values)
    return f"{mean:.0f}" + (f" ± {max(abs(value - mean) for value in values):.0f}" if len(values) > 1 else "")
