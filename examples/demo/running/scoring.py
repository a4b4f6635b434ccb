"""The trained model's scores: table, plots and a leaderboard file of the validation splits, for practice."""

from __future__ import annotations

import torch

from fairchem_hdgnn.cli.make_submission import summary
from fairchem_hdgnn.evaluation.evaluate import BASELINE, Evaluation, evaluate, write_systems
from fairchem_hdgnn.evaluation.expected import expected_systems
from fairchem_hdgnn.evaluation.inference import InferenceOptions
from fairchem_hdgnn.evaluation.page.page import write_page
from fairchem_hdgnn.evaluation.plots import draw_all
from fairchem_hdgnn.evaluation.report import print_tables, write_tables
from fairchem_hdgnn.evaluation.splits import SUFFIXES, VALIDATION_SPLITS
from fairchem_hdgnn.evaluation.submission import make_submission
from running.run import Run

NAME = "HDGNN"


def score(training: Run) -> str:
    """Predict, print the table, write all files and list them; the outcome in a sentence."""
    # One thread: more would gain seconds, and take minutes where another process wants a core.
    torch.set_num_threads(1)
    results = training.folder / "results"
    print("\nScores on the four validation splits", flush=True)
    options = InferenceOptions(cpu=True)
    evaluation = evaluate({NAME: training.checkpoint}, training.data, VALIDATION_SPLITS, options)
    print_tables(evaluation.comparison, evaluation.notes, with_paper=False)
    write_tables(evaluation.comparison, evaluation.notes, evaluation.facts, results, with_paper=False)
    write_systems(evaluation, results)
    plots = draw_all(evaluation.predictions, {NAME: training.checkpoint}, results)
    page = write_page(results / "evaluation.html", evaluation, options)

    print("A leaderboard file (from the validation splits, so for practice only)")
    submission = training.folder / "submission.npz"
    predictions = results / "predictions" / NAME
    arrays = make_submission(
        {suffix: predictions / f"val_{suffix}.npz" for suffix in SUFFIXES},
        submission,
        expected_systems(training.data, "val"),
        task="is2re",
        official_counts=False,
    )
    print(f"{summary(arrays)}\n")
    print("Files")
    files = [
        ("data", training.data),
        ("checkpoint", training.checkpoint),
        ("logs", training.folder / "logs"),
        ("tables", results),
        *(("plot", path) for path in plots),
        ("page", page),
        ("submission", submission),
    ]
    for what, path in files:
        print(f"  {what:<12}{path}")
    return _verdict(evaluation)


def _verdict(evaluation: Evaluation) -> str:
    scores = evaluation.comparison.scores["mae"]
    ours, baseline = (scores[name]["val_id"].value for name in (NAME, BASELINE))
    verdict = f"On val_id HDGNN is off by {ours:.0f} meV on average, the training set's median by {baseline:.0f} meV."
    return verdict if ours < 0.75 * baseline else f"{verdict} It should be far better: see the training's log."
