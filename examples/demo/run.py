"""The whole way in some minutes: data, training, table, plots and a leaderboard file; ``make demo`` runs it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from running.interruption import ended_in_one_line
from running.outline import outline
from running.scoring import score
from running.training import Training
from structures.build import unpack_data
from structures.manifest import MANIFEST_FILE, RECIPE, read_manifest
from structures.splits import split_sizes

PROGRAM = "examples/demo/run.py"

NEXT = """\
Next, real OC20 (8.6 GB to download, 103 GB on disk):
  fairchem-hdgnn download is2re
  fairchem --mode train --config-yml configs/oc20/is2re/10k/hdgnn.yml
  fairchem-hdgnn evaluate --checkpoint checkpoints/RUN/best_checkpoint.pt --data ROOT --paper
  fairchem-hdgnn predict --checkpoint checkpoints/RUN/best_checkpoint.pt --data ROOT --out predictions
  fairchem-hdgnn make-submission --help"""


def main(argv: Sequence[str] | None = None) -> None:
    """Make the data, train, score, and write a practice submission; what was finished before is not done again."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description="data, training, table, plots, leaderboard file")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for all of it (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the training (default: %(default)s)")
    args = parser.parse_args(argv)
    with ended_in_one_line(PROGRAM, "the same command goes on from here"):
        training = Training(args.out, args.seed)
        source = make_data(training.data)
        if not training.is_planned:
            print("Measuring how fast this machine trains, to plan the rest (some 20 s)", flush=True)
        print("\n".join(["\nPlan", *outline(training, source)]))

        print(f"\nTraining, by the stock trainer (its output: {training.log})\n  {training.typed}", flush=True)
        if training.finished:
            print(f"  {training.checkpoint} is there already")
        else:
            training.run()
        print(f"\n{score(training)}\n{NEXT}")


def make_data(data: Path) -> str:
    """See that the data are there; in words, where they come from."""
    if (data / MANIFEST_FILE).is_file():
        found, supplied = read_manifest(data), {"recipe": RECIPE, "seed": 0, "sizes": split_sizes(500, 100, 0)}
        same = all(found[key] == value for key, value in supplied.items())
        return "there already" if same else "there already, made otherwise than those supplied"
    unpack_data(data)
    return "written: relaxed structures that come with the demo; make_data.py makes them anew"


if __name__ == "__main__":
    main()
