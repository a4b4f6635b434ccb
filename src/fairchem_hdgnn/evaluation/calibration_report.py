"""The table of an ensemble's calibration: for a terminal, and as Markdown, CSV and JSON. Energies in meV."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from fairchem_hdgnn.evaluation.calibration import FITTED_ON, Calibration, SplitCalibration
from fairchem_hdgnn.evaluation.ensemble import ENSEMBLE
from fairchem_hdgnn.evaluation.splits import title_of

TITLE = "Calibration of the ensemble's standard deviations, meV"
MARK = "†"
UNITS = {
    "rmse": "meV",
    "mean_std": "meV",
    "mean_between": "meV",
    "mean_within": "meV",
    "scaled_mean_std": "meV",
    "rank_correlation": "",
    "miscalibration_area": "",
    "scaled_miscalibration_area": "",
}
"""Units of the scores of a split in CSV and JSON."""

HEADINGS = {
    "rmse": "RMSE",
    "mean_std": "std",
    "mean_between": "between",
    "mean_within": "within",
    "scaled_mean_std": "scaled std",
    "rank_correlation": "Spearman",
    "miscalibration_area": "area",
    "scaled_miscalibration_area": "scaled area",
}


def calibration_table(calibration: Calibration) -> Table:
    """For a terminal."""
    names, *rows = calibration_cells(calibration)
    table = Table(title=TITLE, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, justify="right" if name else "left")
    for row in rows:
        table.add_row(*row)
    return table


def calibration_lines(calibration: Calibration) -> list[str]:
    """As lines of Markdown, its notes below it."""
    names, *rows = calibration_cells(calibration)
    rule = "| --- |" + " ---: |" * (len(names) - 1)
    table = ["| " + " | ".join(row) + " |" for row in (["split", *names[1:]], *rows)]
    notes = [f"- {note}" for note in calibration_notes(calibration)]
    return [f"### {TITLE}", "", table[0], rule, *table[1:], "", *notes, ""]


def calibration_cells(calibration: Calibration) -> list[list[str]]:
    """Names of the columns, the first one empty, then a row for each split; without columns that no split has."""
    rows = {split: _scores(each, calibration.scale) for split, each in calibration.splits.items()}
    shown = [name for name in UNITS if any(row[name] is not None for row in rows.values())]
    cells = [["", "n", *(HEADINGS[name] for name in shown)]]
    for split, row in rows.items():
        mark = f" {MARK}" if split == calibration.fitted_on else ""
        numbers = [_number(row[name], UNITS[name]) for name in shown]
        cells.append([title_of(split) + mark, str(calibration.splits[split].num_systems), *numbers])
    return cells


def calibration_notes(calibration: Calibration) -> list[str]:
    """Notes on the numbers and on how to use the scale."""
    scale = f"{calibration.scale:.3g}"
    missing = "" if calibration.fitted_on == FITTED_ON else f" ({FITTED_ON} is not among the splits)"
    notes = [
        f"Scale {scale}, fitted on {calibration.fitted_on}{missing}. For new systems: predict --std-scale {scale}",
        f"{MARK} The scale was fitted on this split, so its scaled numbers are better than those of new systems.",
        "Area: between the coverage of central normal intervals and the diagonal, 0 to 0.5; errors that follow the "
        "standard deviations have about 0.31 / √n.",
    ]
    if all(None not in (each.mean_between, each.mean_within) for each in calibration.splits.values()):
        notes.append("std² of a system is between² (of the checkpoints) + within² (of one checkpoint's draws).")
    certain = {split: each.num_certain for split, each in calibration.splits.items() if each.num_certain}
    if certain:
        counts = ", ".join(f"{number} in {split}" for split, number in certain.items())
        notes.append(f"Systems with a standard deviation of 0 ({counts}) were excluded from the fit of the scale.")
    return notes


def calibration_rows(calibration: Calibration) -> Iterator[list[Any]]:
    """As rows of ``table.csv``: model, split, systems, metric, unit, value, no interval, source."""
    fitted_on, systems = calibration.fitted_on, calibration.splits[calibration.fitted_on].num_systems
    yield [ENSEMBLE, fitted_on, systems, "std_scale", "", calibration.scale, "", "", _source(calibration, fitted_on)]
    for split, each in calibration.splits.items():
        for metric, value in _scores(each, calibration.scale).items():
            if value is not None:
                source = _source(calibration, split)
                yield [ENSEMBLE, split, each.num_systems, metric, UNITS[metric], value, "", "", source]


def calibration_json(calibration: Calibration) -> dict[str, Any]:
    """For ``table.json``."""
    return {
        "std_scale": calibration.scale,
        "fitted_on": calibration.fitted_on,
        "units": UNITS,
        "splits": {
            split: {
                "systems": each.num_systems,
                "systems_with_zero_std": each.num_certain,
                "scale_fitted_here": split == calibration.fitted_on,
                **_scores(each, calibration.scale),
            }
            for split, each in calibration.splits.items()
        },
    }


def _source(calibration: Calibration, split: str) -> str:
    return "calibration, scale fitted here" if split == calibration.fitted_on else "calibration"


def _scores(of_split: SplitCalibration, scale: float) -> dict[str, float | None]:
    """All scores of a split, in the order of ``UNITS``, in its units."""
    values = {**asdict(of_split), "scaled_mean_std": scale * of_split.mean_std}
    return {
        name: 1000 * values[name] if unit == "meV" and values[name] is not None else values[name]
        for name, unit in UNITS.items()
    }


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    if not unit:
        return f"{value:.2f}"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
