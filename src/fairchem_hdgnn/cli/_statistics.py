"""Format the statistics of records as lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from fairchem_hdgnn.data.statistics import LABELS, Spread, Statistics
from fairchem_hdgnn.data.surfaces.tagging import ADSORBATE, SUBSURFACE, SURFACE

TAG_NAMES = {SUBSURFACE: "subsurface", SURFACE: "surface", ADSORBATE: "adsorbate"}

FAR = 5.0
"""Å; adsorbates move less than this in a relaxation, unless positions jump across a periodic boundary."""


def statistics_lines(statistics: Statistics) -> list[str]:
    """One indented line for each quantity that is present."""
    lines = [
        _line("atoms", f"{_spread(Spread.of([float(n) for n in statistics.natoms]), 'a system', digits=1)}"),
        _line("elements", ", ".join(f"{name} ({count:,})" for name, count in statistics.elements.most_common())),
    ]
    if statistics.tags:
        named = [f"{tag} {TAG_NAMES.get(tag, 'unknown')} {count:,}" for tag, count in sorted(statistics.tags.items())]
        lines.append(_line("atoms by tag", ", ".join(named)))
    lines.append(_line("fixed", f"{statistics.num_fixed:,} of {sum(statistics.natoms):,} atoms"))
    for name in sorted(statistics.numbers, key=lambda name: (name not in LABELS, name)):
        unit = "eV" if name in LABELS else ""
        lines.append(_line(name, _spread(Spread.of(statistics.numbers[name]), unit, digits=4)))
    if statistics.largest_force:
        lines.append(_line("forces", f"up to {statistics.largest_force:.3f} eV/Å"))
    for name, distances in (
        ("displacement", statistics.displacements),
        ("of adsorbate", statistics.adsorbate_displacements),
    ):
        if distances:
            lines.append(_line(name, f"largest: {_spread(Spread.of(distances), 'Å', digits=2)}{_far(distances)}"))
    if statistics.num_edges:
        lines.append(_line("stored edges", _spread(Spread.of([float(n) for n in statistics.num_edges]), "", digits=0)))
    if statistics.duplicates:
        lines.append(_line("duplicate ids", f"{len(statistics.duplicates):,}, e.g. {statistics.duplicates[0]}"))
    return lines


def _line(name: str, text: str) -> str:
    return f"  {name:<15} {text}"


def _spread(spread: Spread, unit: str, *, digits: int) -> str:
    numbers = {"mean": spread.mean, "std": spread.std, "median": spread.median, "min": spread.low, "max": spread.high}
    text = ", ".join(f"{name} {value:.{digits}f}" for name, value in numbers.items())
    return f"{text} {unit}".rstrip()


def _far(distances: Sequence[float]) -> str:
    far = sum(distance > FAR for distance in distances)
    return f" ({far:,} beyond {FAR:g} Å: jumps across a periodic boundary?)" if far else ""
