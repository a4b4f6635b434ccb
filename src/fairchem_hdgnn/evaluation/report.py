"""Tables of a comparison: for a terminal, and as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.segment import Segments
from rich.table import Table

from fairchem_hdgnn.evaluation.calibration import Calibration
from fairchem_hdgnn.evaluation.calibration_report import (
    calibration_lines,
    calibration_notes,
    calibration_rows,
    calibration_table,
)
from fairchem_hdgnn.evaluation.metrics import ENERGY_METRICS, MEAN, METRICS, OOD_MEAN, Comparison, Estimate
from fairchem_hdgnn.evaluation.published import TABLE_1_CAPTION, table_1
from fairchem_hdgnn.evaluation.splits import suffix_of, title_of
from fairchem_hdgnn.files import complete_or_absent

HEADINGS = {
    "mae": "Energy MAE, meV",
    "ewt": "EwT (energy within 20 meV), %",
    "force_mae": "Force MAE, meV/Å",
    "force_cos": "Force cosine",
    "efwt": "EFwT (energy within 20 meV and forces within 30 meV/Å), %",
}
_DIFFERENCES = {"mae": "energy MAE", "force_mae": "force MAE"}
_DIGITS = {"mae": 0, "ewt": 2, "force_mae": 1, "force_cos": 3, "efwt": 2}
_BOUND_DIGITS = {"mae": 0, "ewt": 1, "force_mae": 1, "force_cos": 3, "efwt": 1}


@dataclass(frozen=True)
class Section:
    """One table of a comparison.

    Attributes:
        title: what the numbers are, with their unit.
        metric: key of ``METRICS``.
        rows: ``rows[model][column]``.
        published: the paper's rows, printed below.
        signed: whether the numbers are differences.
    """

    title: str
    metric: str
    rows: Mapping[str, Mapping[str, Estimate]]
    published: Mapping[str, Mapping[str, float]]
    signed: bool = False

    def number(self, value: float, digits: int | None = None) -> str:
        """A formatted number, by default with the significant digits."""
        digits = _DIGITS[self.metric] if digits is None else digits
        return f"{value:+.{digits}f}" if self.signed else f"{value:.{digits}f}"

    def published_cells(self, model: str, columns: Sequence[str]) -> list[str]:
        """The paper's numbers of a model under the columns of a comparison, empty if it has none."""
        row = self.published[model]
        return [self.number(row[column]) if column in row else "" for column in columns]


def sections(comparison: Comparison, *, with_paper: bool) -> list[Section]:
    """One table per metric, then paired differences if there are several models."""
    found = [
        Section(heading, metric, comparison.scores[metric], table_1(metric, comparison.columns) if with_paper else {})
        for metric, heading in HEADINGS.items()
        if metric in comparison.scores
    ]
    for metric, name in _DIFFERENCES.items():
        if rows := comparison.differences.get(metric):
            title = f"Paired difference in {name} from {comparison.models[0]}, {METRICS[metric]}"
            found.append(Section(title, metric, rows, {}, signed=True))
    return found


def print_tables(
    comparison: Comparison,
    notes: list[str],
    *,
    with_paper: bool,
    calibration: Calibration | None = None,
    console: Console | None = None,
) -> None:
    """Print one table per metric, with 95 % intervals under the scores, then paired differences, notes, calibration."""
    console = console or Console()
    for section in sections(comparison, with_paper=with_paper):
        _print_whole(console, _terminal_table(comparison, section))
    _print_notes(console, all_notes(notes, with_paper))
    if calibration:
        console.print()
        _print_whole(console, calibration_table(calibration))
        _print_notes(console, calibration_notes(calibration))


def _print_whole(console: Console, table: Table) -> None:
    """Wider than the terminal rather than with numbers cut off, which would read as others."""
    needed = Measurement.get(console, console.options.update_width(10_000), table).minimum
    options = console.options.update_width(max(needed, console.width))
    console.print(Segments(console.render(table, options)), soft_wrap=True, end="")


def _print_notes(console: Console, notes: list[str]) -> None:
    for note in notes:
        console.print(note, style="dim", highlight=False, markup=False)


def write_tables(
    comparison: Comparison,
    notes: list[str],
    facts: Mapping[str, Any],
    folder: Path,
    *,
    with_paper: bool,
    calibration: Calibration | None = None,
) -> list[Path]:
    """Write ``table.md``, ``table.csv`` and ``table.json`` into ``folder``.

    Args:
        comparison: what to write.
        notes: sentences printed with the numbers.
        facts: provenance of the numbers (checkpoints, seeds, versions), for the JSON.
        folder: created if absent.
        with_paper: add the paper's Table 1.
        calibration: of an ensemble, for Markdown and CSV; the JSON has it in ``facts``.
    """
    further = "\n" + "\n".join(calibration_lines(calibration)) if calibration else ""
    texts = {
        "table.md": markdown(comparison, notes, with_paper=with_paper) + further,
        "table.csv": _csv(comparison, with_paper, calibration),
        "table.json": json.dumps(_json(comparison, notes, facts, with_paper), indent=2) + "\n",
    }
    for name, text in texts.items():
        with complete_or_absent(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def markdown(comparison: Comparison, notes: list[str], *, with_paper: bool) -> str:
    """The tables as Markdown."""
    headings = [heading(comparison, column).replace("\n", ", ") for column in comparison.columns]
    lines = []
    for section in sections(comparison, with_paper=with_paper):
        lines += [f"### {section.title} (95 % interval)", ""]
        lines += [_markdown_row("model", headings), "| --- |" + " ---: |" * len(headings)]
        for model, row in section.rows.items():
            numbers = [map(section.number, astuple(row[column])) for column in comparison.columns]
            lines.append(_markdown_row(model, [f"{value} ({low}…{high})" for value, low, high in numbers]))
        for model in section.published:
            cells = section.published_cells(model, comparison.columns)
            lines.append(_markdown_row(f"*{model}* \\*", [f"*{cell}*" if cell else "" for cell in cells]))
        lines.append("")
    lines += [f"- {note}".replace("*", "\\*") for note in all_notes(notes, with_paper)]
    return "\n".join(lines) + "\n"


def _markdown_row(first: str, cells: list[str]) -> str:
    return "| " + " | ".join([first.replace("|", "\\|"), *cells]) + " |"


def _terminal_table(comparison: Comparison, section: Section) -> Table:
    table = Table(
        title=escape(section.title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("", overflow="fold")
    for column in comparison.columns:
        table.add_column(heading(comparison, column), justify="right", no_wrap=True)
    for model, row in section.rows.items():
        table.add_row(escape(model), *(_stacked(section, row[column]) for column in comparison.columns))
    if section.published:
        table.add_section()
    for model in section.published:
        table.add_row(f"{model} *", *section.published_cells(model, comparison.columns), style="italic")
    return table


def _stacked(section: Section, estimate: Estimate) -> str:
    low, high = (section.number(bound, _BOUND_DIGITS[section.metric]) for bound in (estimate.low, estimate.high))
    return f"{section.number(estimate.value)}\n[dim]{low}…{high}[/dim]"


def all_notes(notes: list[str], with_paper: bool) -> list[str]:
    """The notes of a comparison, with the caption of the paper's table if it is shown."""
    return [*notes, TABLE_1_CAPTION] if with_paper else notes


def heading(comparison: Comparison, column: str) -> str:
    """Title of a column, with the number of systems in a second line, if it is a split."""
    if column in comparison.num_systems:
        return f"{title_of(column)}\nn={comparison.num_systems[column]}"
    return {MEAN: "mean", OOD_MEAN: "OOD mean"}[column]


def _csv(comparison: Comparison, with_paper: bool, calibration: Calibration | None) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "split", "systems", "metric", "unit", "value", "low_95", "high_95", "source"])
    for kind, tables in (("score", comparison.scores), ("difference", comparison.differences)):
        for metric, models in tables.items():
            for model, row in models.items():
                name = model if kind == "score" else f"{model} - {comparison.models[0]}"
                for column, estimate in row.items():
                    systems = comparison.num_systems.get(column, "")
                    writer.writerow([name, column, systems, metric, METRICS[metric], *asdict(estimate).values(), kind])
    writer.writerows(calibration_rows(calibration) if calibration else [])
    for metric in ENERGY_METRICS if with_paper else ():
        for model, published in table_1(metric, comparison.columns).items():
            for column, value in published.items():
                writer.writerow(
                    [model, suffix_of(column), "", metric, METRICS[metric], value, "", "", "Table 1, test sets"]
                )
    return text.getvalue()


def _json(comparison: Comparison, notes: list[str], facts: Mapping[str, Any], with_paper: bool) -> dict[str, Any]:
    def estimates(tables: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> dict[str, Any]:
        return {
            metric: {model: {c: asdict(e) for c, e in row.items()} for model, row in models.items()}
            for metric, models in tables.items()
        }

    report = {
        "units": {metric: METRICS[metric] for metric in comparison.scores},
        "systems": dict(comparison.num_systems),
        "scores": estimates(comparison.scores),
        "paired_differences": {"from": comparison.models[0], **estimates(comparison.differences)},
        "notes": notes,
        **facts,
    }
    if with_paper:
        report["table_1"] = {"caption": TABLE_1_CAPTION, **{metric: table_1(metric) for metric in ENERGY_METRICS}}
    return report
