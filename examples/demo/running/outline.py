"""What is said before anything is done: each part of the demonstration, and how long it is expected to take."""

from __future__ import annotations

from collections.abc import Iterator

from fairchem_hdgnn.evaluation.splits import VALIDATION_SPLITS
from running.run import Run
from structures.manifest import read_manifest

EXTRA_SCORING_SECONDS = 15.0
"""What scoring takes beside the predictions: intervals by resampling, and plots."""


def outline(training: Run, source: str) -> Iterator[str]:
    """What will be done, and how long each part is expected to take.

    Args:
        training: with its data.
        source: where the data come from.
    """
    plan, done, full = training.plan, training.steps_done, training.settings["max_epochs"]
    sizes = read_manifest(training.data)["sizes"]
    scored = sum(sizes.get(split, 0) for split in VALIDATION_SPLITS)
    yield _line("data", 0.0, f"{sum(sizes.values())} structures, {source}")

    epochs = f"{plan.epochs} epochs"
    if plan.epochs < full:
        minutes = full * training.steps_per_epoch * plan.step_seconds / 60
        epochs = f"{plan.epochs} of {full} epochs, since all would take {minutes:.1f} min on this machine"
    if training.finished:
        yield _line("training", 0.0, f"{epochs}, there already")
    else:
        threads = "1 thread" if plan.threads == 1 else f"{plan.threads} threads"
        progress = f"; resumes after step {done}" if done else ""
        speed = f"{training.steps_per_epoch} steps each, {plan.step_seconds:.2f} s a step on {threads}"
        steps = training.steps - done
        evaluations = 1 + steps // training.settings["eval_every"]
        validated = evaluations * sum(sizes.get(split, 0) for split in training.validated)
        seconds = steps * plan.step_seconds + validated * plan.predict_seconds
        yield _line("training", plan.start_seconds + seconds, f"{epochs}: {speed}{progress}")
    seconds = EXTRA_SCORING_SECONDS + scored * plan.predict_seconds
    yield _line("scoring", seconds, f"{scored} structures, table, plots, leaderboard file")


def _line(what: str, seconds: float, how: str) -> str:
    duration = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
    return f"  {what:<10}{duration if seconds else 'done':<9}{how}"
