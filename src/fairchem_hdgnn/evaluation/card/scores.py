"""Scores for a card: from a new evaluation, or from the checkpoint's row in the table of an earlier one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fairchem_hdgnn.errors import DataError, UserError
from fairchem_hdgnn.evaluation.card.subject import Subject
from fairchem_hdgnn.evaluation.evaluate import BASELINE, evaluate
from fairchem_hdgnn.evaluation.inference import InferenceOptions
from fairchem_hdgnn.evaluation.metrics import ENERGY_METRICS, METRICS, Comparison, Estimate
from fairchem_hdgnn.host.training_record import shortened


@dataclass(frozen=True)
class Scores:
    """Scores with intervals.

    Attributes:
        comparison: of the checkpoint, which is its first model, and of the median baseline; no differences.
        notes: sentences printed with the numbers, without paths.
    """

    comparison: Comparison
    notes: list[str]


def evaluated(
    subject: Subject, root: Path, splits: Sequence[str], options: InferenceOptions, num_resamples: int
) -> Scores:
    """Score the checkpoint on splits under ``root`` now.

    Raises:
        DataError: a file is missing, unreadable or has no labels.
        ConfigError: the checkpoint predicts no energy.
    """
    name = subject.default_title
    found = evaluate({name: subject.path}, root, splits, options, num_resamples=num_resamples)
    return _of_row(found.comparison, name, _shared(found.notes, options.model_overrides))


def of_table(path: Path, subject: Subject, name: str | None = None) -> Scores:
    """The row of the checkpoint in a ``table.json`` of ``fairchem-hdgnn evaluate``.

    Args:
        path: the table.
        subject: the checkpoint; its row is found by SHA-256, or by path in tables without SHA-256.
        name: name of the row; if given, the checkpoint is not searched for.

    Raises:
        DataError: the table cannot be read, or does not contain the checkpoint.
    """
    table = _read(path)
    try:
        comparison = _comparison(table)
        row = _row(table, comparison, path, subject, name)
        notes = _shared([str(note) for note in table["notes"]], table["options"]["model_overrides"])
        if name is not None and (found := table.get("sha256", {}).get(name)) != subject.sha256:
            known = f"SHA-256 {found}" if found else "SHA-256 not in the table"
            notes.append(f"The row was chosen by its name; it was evaluated from a file with {known}.")
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: not a complete table of `fairchem-hdgnn evaluate` ({error}); evaluate again"
        ) from error
    return _of_row(comparison, row, notes)


def renamed(scores: Scores, title: str) -> Comparison:
    """The comparison with the checkpoint under the title of its card."""
    first, *others = scores.comparison.models
    rows = {
        metric: {title if model == first else model: row for model, row in models.items()}
        for metric, models in scores.comparison.scores.items()
    }
    return replace(scores.comparison, models=(title, *others), scores=rows)


def _read(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"--table {path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"--table {path}: not JSON; give the table.json that evaluate --out writes") from error
    if not isinstance(table, dict):
        raise DataError(f"--table {path}: not a table; give the table.json that evaluate --out writes")
    return table


def _comparison(table: Mapping[str, Any]) -> Comparison:
    units = dict(table["units"])
    if any(METRICS.get(metric) != unit for metric, unit in units.items()) or not set(ENERGY_METRICS) <= set(units):
        raise ValueError(f"units {units}")
    scores = {
        metric: {
            str(model): {str(column): _estimate(numbers) for column, numbers in row.items()}
            for model, row in table["scores"][metric].items()
        }
        for metric in units
    }
    systems = {str(split): int(number) for split, number in table["systems"].items()}
    comparison = Comparison(tuple(scores["mae"]), tuple(systems), systems, scores, {})
    for metric, models in scores.items():
        expected = comparison.models if metric in ENERGY_METRICS else models
        if any(set(models[model]) != set(comparison.columns) for model in expected):
            raise ValueError(f"columns of '{metric}'")
    return comparison


def _estimate(numbers: Mapping[str, Any]) -> Estimate:
    return Estimate(*(float(numbers[name]) for name in ("value", "low", "high")))


def _row(table: Mapping[str, Any], comparison: Comparison, path: Path, subject: Subject, name: str | None) -> str:
    models = [model for model in comparison.models if model != BASELINE]
    if name is not None:
        if name not in models:
            raise DataError(f"--name {name}: not in {path}; it has: {', '.join(models)}")
        return name
    digests, files = table.get("sha256", {}), table["checkpoints"]
    for model in models:
        if digests.get(model) == subject.sha256:
            return model
    here = [model for model in models if Path(files[model]).resolve() == subject.path.resolve()]
    if here and here[0] not in digests:
        return here[0]
    changed = " as it is now (the file has changed since)" if here else ""
    contents = ", ".join(f"{model} ({files[model]})" for model in models)
    raise DataError(f"--table {path}: does not contain {subject.path}{changed}; it has: {contents}; see --name")


def _of_row(comparison: Comparison, row: str, notes: list[str]) -> Scores:
    models = (row, BASELINE) if BASELINE in comparison.models else (row,)
    scores = {
        metric: {model: rows[model] for model in models if model in rows}
        for metric, rows in comparison.scores.items()
        if row in rows
    }
    return Scores(replace(comparison, models=models, scores=scores, differences={}), notes)


def _shared(notes: Sequence[str], overrides: Mapping[str, Any]) -> list[str]:
    """Notes without folders of the machine that evaluated, and with keys that were replaced."""
    found = [
        re.sub(r"(?<=the median label of )\S.*?(?= \(\d+ systems)", lambda path: shortened(path[0]), note)
        for note in notes
    ]
    changes = ", ".join(f"{key}: {value}" for key, value in overrides.items())
    return [*found, f"Evaluated with other keys of the model than the file's: {changes}."] if changes else found
