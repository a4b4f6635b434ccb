"""``fairchem-hdgnn demo``: data, training, table, plots and a leaderboard file, in one go."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from fairchem_hdgnn.commands.make_submission import summary
from fairchem_hdgnn.data.demo.build import build_demo_data
from fairchem_hdgnn.data.demo.manifest import MANIFEST_FILE
from fairchem_hdgnn.evaluation.evaluate import BASELINE, Evaluation, evaluate, write_systems
from fairchem_hdgnn.evaluation.expected import expected_systems
from fairchem_hdgnn.evaluation.inference import InferenceOptions
from fairchem_hdgnn.evaluation.plots import draw_all
from fairchem_hdgnn.evaluation.report import print_tables, write_tables
from fairchem_hdgnn.evaluation.splits import SUFFIXES, VALIDATION_SPLITS
from fairchem_hdgnn.evaluation.submission import make_submission
from fairchem_hdgnn.integration.demo import Training

NAME = "HDGNN"

NEXT = """\
Next, real OC20: fetch the IS2RE LMDBs (https://fair-chem.github.io/core/datasets/oc20.html), name them in the config
under dataset, and
  fairchem --mode train --config-yml configs/oc20/is2re/10k/hdgnn.yml
  fairchem-hdgnn evaluate --checkpoint checkpoints/RUN/best_checkpoint.pt --data ROOT --paper
  fairchem-hdgnn predict --checkpoint checkpoints/RUN/best_checkpoint.pt --data ROOT --out predictions
  fairchem-hdgnn make-submission --help"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for all of it (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Make the data, train, score, and write a practice submission; what was finished before is not done again."""
    data, results = args.out / "data", args.out / "results"
    print("1. Data: slabs with adsorbates, relaxed in the EMT potential, in OC20's format")
    if (data / MANIFEST_FILE).is_file():
        print(f"   {data} is there already")
    else:
        build_demo_data(data, train=500, val=100, test=0, seed=0, workers=os.cpu_count() or 1)

    training = Training(args.out)
    print(f"\n2. Training, by the stock trainer (its output: {training.log})\n   {shlex.join(training.command)}")
    if training.finished:
        print(f"   {training.checkpoint} is there already")
    else:
        training.run()

    print("\n3. Scores on the four validation splits")
    evaluation = evaluate({NAME: training.checkpoint}, data, VALIDATION_SPLITS, InferenceOptions(cpu=True))
    print_tables(evaluation.comparison, evaluation.notes, with_paper=False)
    written = write_tables(evaluation.comparison, evaluation.notes, evaluation.facts, results, with_paper=False)
    written += write_systems(evaluation, results)
    written += draw_all(evaluation.predictions, {NAME: training.checkpoint}, results)

    print("4. A leaderboard file (from the validation splits, so for practice only)")
    submission = args.out / "submission.npz"
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
