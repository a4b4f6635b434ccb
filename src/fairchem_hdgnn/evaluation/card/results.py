"""The card's section on errors, and the metrics in its front matter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairchem_hdgnn.evaluation.card.markdown import code, table
from fairchem_hdgnn.evaluation.card.scores import Scores, renamed
from fairchem_hdgnn.evaluation.card.subject import Subject
from fairchem_hdgnn.evaluation.report import HEADINGS, markdown

NAMES = {
    **HEADINGS,
    "ewt": "Energy within 20 meV, %",
    "efwt": "Energy within 20 meV and forces within 30 meV/Å, %",
}


def results_section(subject: Subject, scores: Scores | None, title: str) -> list[str]:
    """Lines of the section: scores with intervals, or the validation metrics stored in the checkpoint."""
    if scores is not None:
        return ["## Results", "", markdown(renamed(scores, title), scores.notes, with_paper=False)]
    kept, best = (_measured_all(subject, values) for values in (subject.record.validation, subject.record.best))
    lines = ["## Results", ""]
    if kept:
        lines += ["Means over the validation set of the training, without intervals and without a baseline to compare:"]
        lines += ["", *table(("metric", "value"), ((code(name), text) for name, text in kept.items())), ""]
    elif best:
        values = ", ".join(f"{code(name)} {text}" for name, text in best.items())
        lines += [f"Best of the run on its validation set: {values}, without interval and without a baseline to"]
        lines += ["compare. The weights in this file may be those of another epoch.", ""]
    else:
        lines += ["There are no scores in the file.", ""]
    return [*lines, "`fairchem-hdgnn card --data ROOT` evaluates and adds intervals and the median baseline.", ""]


def model_index(subject: Subject, scores: Scores | None, title: str, dataset: str) -> list[dict[str, Any]]:
    """``model-index`` of the front matter; empty without scores.

    Args:
        subject: the checkpoint.
        scores: with intervals.
        title: of the card.
        dataset: name of the data.
    """
    if scores is not None:
        row = scores.comparison.models[0]
        found = {
            split: [
                {
                    "type": metric,
                    "name": NAMES[metric],
                    "value": round(rows[row][split].value, 4),
                }
                for metric, rows in scores.comparison.scores.items()
            ]
            for split in scores.comparison.splits
        }
    else:
        name = f"{subject.target}_mae"
        value, unit = subject.record.validation.get(name), subject.units[subject.target]
        metrics = (
            []
            if value is None
            else [{"type": "mae", "name": f"MAE of {subject.target}, {unit}", "value": round(value, 6)}]
        )
        found = {"validation": metrics} if metrics else {}
    task = {"type": "graph-ml", "name": f"{subject.target} of atomic structures"}
    results = [
        {"task": dict(task), "dataset": {"type": dataset, "name": dataset, "split": split}, "metrics": metrics}
        for split, metrics in found.items()
    ]
    return [{"name": title, "results": results}] if results else []


def _measured_all(subject: Subject, values: Mapping[str, float]) -> dict[str, str]:
    found = {name: _measured(subject, name, value) for name, value in values.items()}
    return {name: text for name, text in found.items() if text is not None}


def _measured(subject: Subject, metric: str, value: float) -> str | None:
    """A mean with its unit; ``None`` for metrics without a known unit, such as the loss."""
    if metric.endswith("within_threshold"):
        return f"{100 * value:.2f} %"
    if metric.endswith("cosine_similarity"):
        return f"{value:.4f} (a cosine)"
    for output, unit in subject.units.items():
        if metric.startswith(output) and metric.endswith(("_mae", "_magnitude_error")):
            return f"{value:.4f} {unit}"
        if metric.startswith(output) and metric.endswith("_mse"):
            return f"{value:.4f} ({unit})²"
    return None
