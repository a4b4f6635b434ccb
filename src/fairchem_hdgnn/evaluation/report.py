"""Tables of a comparison: for a terminal, and as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fairchem_hdgnn.evaluation.metrics import MEAN, METRICS, OOD_MEAN, Comparison, Estimate
from fairchem_hdgnn.evaluation.published import TABLE_1_CAPTION, table_1
from fairchem_hdgnn.evaluation.splits import suffix_of, title_of
from fairchem_hdgnn.files import complete_or_absent

HEADINGS = {"mae": "Energy MAE, meV", "ewt": "EwT (energy within 20 meV), %"}
_DIGITS = {"mae": 0, "ewt": 2}
_BOUND_DIGITS = {"mae": 0, "ewt": 1}


def print_tables(comparison: Comparison, notes: list[str], *, with_paper: bool, console: Console | None = None) -> None:
    """Print one table per metric, with 95 % intervals under the scores, then paired differences and notes."""
    console = console or Console()
    for metric in METRICS:
        console.print(_score_table(comparison, metric, with_paper))
    if len(comparison.models) > 1:
        console.print(_difference_table(comparison))
    for note in (*notes, *([TABLE_1_CAPTION] if with_paper else [])):
        console.print(note, style="dim", highlight=False, markup=False)


def write_tables(
    comparison: Comparison, notes: list[str], facts: Mapping[str, Any], folder: Path, *, with_paper: bool
) -> list[Path]:
    """Write ``table.md``, ``table.csv`` and ``table.json`` into ``folder``.

    Args:
        comparison: what to write.
        notes: sentences that the numbers need beside them.
        facts: how the numbers came about (checkpoints, seeds, versions); goes into the JSON.
        folder: made if absent.
        with_paper: add the paper's Table 1.
    """
    texts = {
        "table.md": markdown(comparison, notes, with_paper=with_paper),
        "table.csv": _csv(comparison, with_paper),
        "table.json": json.dumps(_json(comparison, notes, facts, with_paper), indent=2) + "\n",
    }
    for name, text in texts.items():
        with complete_or_absent(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def markdown(comparison: Comparison, notes: list[str], *, with_paper: bool) -> str:
    """The tables as Markdown."""
    lines = []
    for metric, heading in HEADINGS.items():
        lines += [f"### {heading} (95 % interval)", "", *_markdown_head(comparison)]
        for model in comparison.models:
            row = comparison.scores[metric][model]
            lines.append(_markdown_row(model, [_plain(row[column], metric) for column in comparison.columns]))
        for model, published in table_1(metric).items() if with_paper else ():
            cells = [f"*{cell}*" if cell else "" for cell in _published_cells(published, comparison, metric)]
            lines.append(_markdown_row(f"*{model}* \\*", cells))
        lines.append("")
    if len(comparison.models) > 1:
        lines += [f"### Paired difference in energy MAE from {comparison.models[0]}, meV (95 % interval)", ""]
        lines += _markdown_head(comparison)
        for model, row in comparison.differences["mae"].items():
            lines.append(
                _markdown_row(model, [_plain(row[column], "mae", signed=True) for column in comparison.columns])
            )
        lines.append("")
    lines += [f"- {note}".replace("*", "\\*") for note in (*notes, *([TABLE_1_CAPTION] if with_paper else []))]
    return "\n".join(lines) + "\n"


# === terminal ====================================================================================


def _score_table(comparison: Comparison, metric: str, with_paper: bool) -> Table:
    table = _empty_table(comparison, HEADINGS[metric])
    for model in comparison.models:
        row = comparison.scores[metric][model]
        table.add_row(escape(model), *(_stacked(row[column], metric) for column in comparison.columns))
    if with_paper:
        table.add_section()
        for model, published in table_1(metric).items():
            table.add_row(f"{model} *", *_published_cells(published, comparison, metric), style="italic")
    return table


def _difference_table(comparison: Comparison) -> Table:
    table = _empty_table(comparison, f"Paired difference in energy MAE from {comparison.models[0]}, meV")
    for model, row in comparison.differences["mae"].items():
        table.add_row(escape(model), *(_stacked(row[column], "mae", signed=True) for column in comparison.columns))
    return table


def _empty_table(comparison: Comparison, title: str) -> Table:
    table = Table(
        title=escape(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("", overflow="fold")
    for column in comparison.columns:
        table.add_column(_heading(comparison, column), justify="right", no_wrap=True)
    return table


def _heading(comparison: Comparison, column: str) -> str:
    if column in comparison.num_systems:
        return f"{title_of(column)}\nn={comparison.num_systems[column]}"
    return {MEAN: "mean", OOD_MEAN: "OOD mean"}[column]


def _stacked(estimate: Estimate, metric: str, *, signed: bool = False) -> str:
    value = _number(estimate.value, metric, signed=signed)
    low, high = (
        _number(bound, metric, signed=signed, digits=_BOUND_DIGITS[metric]) for bound in (estimate.low, estimate.high)
    )
    return f"{value}\n[dim]{low}…{high}[/dim]"


# === files =======================================================================================


def _markdown_head(comparison: Comparison) -> list[str]:
    headings = [_heading(comparison, column).replace("\n", ", ") for column in comparison.columns]
    return [_markdown_row("model", headings), "| --- |" + " ---: |" * len(headings)]


def _markdown_row(first: str, cells: list[str]) -> str:
    return "| " + " | ".join([first.replace("|", "\\|"), *cells]) + " |"


def _plain(estimate: Estimate, metric: str, *, signed: bool = False) -> str:
    value, low, high = (_number(number, metric, signed=signed) for number in asdict(estimate).values())
    return f"{value} ({low}…{high})"


def _number(value: float, metric: str, *, signed: bool = False, digits: int | None = None) -> str:
    digits = _DIGITS[metric] if digits is None else digits
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def _published_cells(published: Mapping[str, float], comparison: Comparison, metric: str) -> list[str]:
    return [_number(published[key], metric) if (key := _key(c)) in published else "" for c in comparison.columns]


def _key(column: str) -> str:
    return column if column in (MEAN, OOD_MEAN) else suffix_of(column)


def _csv(comparison: Comparison, with_paper: bool) -> str:
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
    for metric in METRICS if with_paper else ():
        for model, published in table_1(metric).items():
            for column, value in published.items():
                writer.writerow([model, column, "", metric, METRICS[metric], value, "", "", "Table 1, test sets"])
    return text.getvalue()


def _json(comparison: Comparison, notes: list[str], facts: Mapping[str, Any], with_paper: bool) -> dict[str, Any]:
    def estimates(tables: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> dict[str, Any]:
        return {
            metric: {model: {c: asdict(e) for c, e in row.items()} for model, row in models.items()}
            for metric, models in tables.items()
        }

    report = {
        "units": METRICS,
        "systems": dict(comparison.num_systems),
        "scores": estimates(comparison.scores),
        "paired_differences": {"from": comparison.models[0], **estimates(comparison.differences)},
        "notes": notes,
        **facts,
    }
    if with_paper:
        report["table_1"] = {"caption": TABLE_1_CAPTION, **{metric: table_1(metric) for metric in METRICS}}
    return report
