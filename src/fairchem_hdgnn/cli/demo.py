"""``fairchem-hdgnn demo``: data, training, table, plots and a leaderboard file, in one go."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from fairchem_hdgnn.cli.make_submission import summary
from fairchem_hdgnn.data.demo.build import unpack_demo_data
from fairchem_hdgnn.data.demo.manifest import MANIFEST_FILE, RECIPE, read_manifest
from fairchem_hdgnn.data.demo.splits import split_sizes
from fairchem_hdgnn.evaluation.evaluate import BASELINE, Evaluation, evaluate, write_systems
from fairchem_hdgnn.evaluation.expected import expected_systems
from fairchem_hdgnn.evaluation.inference import InferenceOptions
from fairchem_hdgnn.evaluation.plots import draw_all
from fairchem_hdgnn.evaluation.report import print_tables, write_tables
from fairchem_hdgnn.evaluation.splits import SUFFIXES, VALIDATION_SPLITS
from fairchem_hdgnn.evaluation.submission import make_submission
from fairchem_hdgnn.host.demo import Training
from fairchem_hdgnn.host.interruption import ended_by_signals

NAME = "HDGNN"

NEXT = """\
Next, real OC20: fetch the IS2RE LMDBs (https://fair-chem.github.io/core/datasets/oc20.html), name them in the config
under dataset, and
  fairchem --mode train --config-yml configs/oc20/is2re/10k/hdgnn.yml
  fairchem-hdgnn evaluate --checkpoint checkpoints/RUN/best_checkpoint.pt --data ROOT --paper
  fairchem-hdgnn predict --checkpoint checkpoints/RUN/best_checkpoint.pt --data ROOT --out predictions
  fairchem-hdgnn make-submission --help"""


EXTRA_SCORING_SECONDS = 15.0
"""What scoring takes beside the predictions: intervals by resampling, and plots."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for all of it (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the training (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Make the data, train, score, and write a practice submission; what was finished before is not done again."""
    with ended_by_signals("fairchem-hdgnn demo", "the same command goes on from here"):
        data, results = args.out / "data", args.out / "results"
        source = _make_data(data)
        training = Training(args.out, args.seed)
        if not training.is_planned:
            print("Measuring how fast this machine trains, to plan the rest (some 20 s)", flush=True)
        print("\n".join(["\nPlan", *plan_lines(training, source)]))

        print(f"\nTraining, by the stock trainer (its output: {training.log})\n  {training.typed}", flush=True)
        if training.finished:
            print(f"  {training.checkpoint} is there already")
        else:
            training.run()
        _score(training, data, results)


def _make_data(data: Path) -> str:
    """See that the data are there; in words, where they come from."""
    if (data / MANIFEST_FILE).is_file():
        found, packaged = read_manifest(data), {"recipe": RECIPE, "seed": 0, "sizes": split_sizes(500, 100, 0)}
        same = all(found[key] == value for key, value in packaged.items())
        return "there already" if same else "there already, made otherwise than those of the package"
    unpack_demo_data(data)
    return "written: relaxed structures that come with the package; make-demo-data makes them anew"


def plan_lines(training: Training, source: str) -> Iterator[str]:
    """What will be done, and how long each part is expected to take.

    Args:
        training: with its data.
        source: where the data come from.
    """
    plan, done, full = training.plan, training.steps_done, training.optim["max_epochs"]
    sizes = read_manifest(training.folder / "data")["sizes"]
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
        progress = f"; goes on after step {done}" if done else ""
        speed = f"{training.steps_per_epoch} steps each, {plan.step_seconds:.2f} s a step on {threads}"
        steps = training.steps - done
        validated = (1 + steps // training.optim["eval_every"]) * sizes.get("val_id", 0)
        seconds = steps * plan.step_seconds + validated * plan.predict_seconds
        yield _line("training", plan.start_seconds + seconds, f"{epochs}: {speed}{progress}")
    seconds = EXTRA_SCORING_SECONDS + scored * plan.predict_seconds
    yield _line("scoring", seconds, f"{scored} structures, table, plots, leaderboard file")


def _line(what: str, seconds: float, how: str) -> str:
    duration = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
    return f"  {what:<10}{duration if seconds else 'done':<9}{how}"


def _score(training: Training, data: Path, results: Path) -> None:
    # One thread: more would gain seconds, and take minutes where another process wants a core.
    torch.set_num_threads(1)
    print("\nScores on the four validation splits", flush=True)
    evaluation = evaluate({NAME: training.checkpoint}, data, VALIDATION_SPLITS, InferenceOptions(cpu=True))
    print_tables(evaluation.comparison, evaluation.notes, with_paper=False)
    written = write_tables(evaluation.comparison, evaluation.notes, evaluation.facts, results, with_paper=False)
    written += write_systems(evaluation, results)
    written += draw_all(evaluation.predictions, {NAME: training.checkpoint}, results)

    print("A leaderboard file (from the validation splits, so for practice only)")
    submission = training.folder / "submission.npz"
    predictions = results / "predictions" / NAME
    arrays = make_submission(
        {suffix: predictions / f"val_{suffix}.npz" for suffix in SUFFIXES},
        submission,
        expected_systems(data, "val"),
        task="is2re",
        official_counts=False,
    )
    print(f"{summary(arrays)}\n")
    print("Files")
    for what, path in _files(training, results, submission, written):
        print(f"  {what:<12}{path}")
    print(f"\n{_verdict(evaluation)}\n{NEXT}")


def _files(training: Training, results: Path, submission: Path, written: list[Path]) -> list[tuple[str, Path]]:
    plots = [path for path in written if path.suffix == ".png"]
    return [
        ("data", training.folder / "data"),
        ("checkpoint", training.checkpoint),
        ("logs", training.folder / "logs"),
        ("tables", results),
        *(("plot", path) for path in plots),
        ("submission", submission),
    ]


def _verdict(evaluation: Evaluation) -> str:
    scores = evaluation.comparison.scores["mae"]
    ours, baseline = (scores[name]["val_id"].value for name in (NAME, BASELINE))
    verdict = f"On val_id HDGNN is off by {ours:.0f} meV on average, the training set's median by {baseline:.0f} meV."
    return verdict if ours < 0.75 * baseline else f"{verdict} It should be far better: see the training's log."
