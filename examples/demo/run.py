"""The whole way in some minutes: data, training, table, plots and a leaderboard file; ``make demo`` runs it.

With fairchem-core 2 in the environment, as ``make demo HOST=2`` has it, the training is its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fairchem_hdgnn.host.which import Host, installed_host
from running.interruption import ended_in_one_line
from running.outline import outline
from running.run import Run
from running.scoring import score
from structures.build import unpack_data
from structures.manifest import MANIFEST_FILE, RECIPE, read_manifest
from structures.splits import split_sizes

PROGRAM = "examples/demo/run.py"

NEXT = """\
Next, real OC20 (8.6 GB to download, 103 GB on disk):
  fairchem-hdgnn download is2re
  {training}
  fairchem-hdgnn evaluate --checkpoint {checkpoint} --data ROOT --paper
  fairchem-hdgnn predict --checkpoint {checkpoint} --data ROOT --out predictions
  fairchem-hdgnn make-submission --help"""


def main(argv: Sequence[str] | None = None) -> None:
    """Make the data, train, score, and write a practice submission; what was finished before is not done again."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description="data, training, table, plots, leaderboard file")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for all of it (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the training (default: %(default)s)")
    args = parser.parse_args(argv)
    with ended_in_one_line(PROGRAM, "run the same command to continue"):
        training = make_training(args.out, args.seed)
        source = make_data(training.data)
        if not training.is_planned:
            print("Measuring how fast this machine trains, to plan the rest (some 20 s)", flush=True)
        print("\n".join(["\nPlan", *outline(training, source)]))

        print(f"\nTraining, by the stock trainer (its output: {training.log})\n  {training.typed}", flush=True)
        if training.finished:
            print(f"  {training.checkpoint} is there already")
        else:
            training.run()
        print(f"\n{score(training)}\n{NEXT.format(**training.NEXT)}")


def make_training(folder: Path, seed: int) -> Run:
    """The training by the fairchem-core that is installed."""
    if installed_host() is Host.FAIRCHEM_2:
        from running.second_host import SecondHostTraining  # noqa: PLC0415 - imports the one fairchem

        return SecondHostTraining(folder, seed)
    from running.training import Training  # noqa: PLC0415 - imports the other

    return Training(folder, seed)


def make_data(data: Path) -> str:
    """See that the data are there; in words, where they come from."""
    if (data / MANIFEST_FILE).is_file():
        found, supplied = read_manifest(data), {"recipe": RECIPE, "seed": 0, "sizes": split_sizes(500, 100, 0)}
        same = all(found[key] == value for key, value in supplied.items())
        return "there already" if same else "there already, made otherwise than those supplied"
    unpack_data(data)
    return "written: relaxed structures that come with the demo; make_data.py re-creates them"


if __name__ == "__main__":
    main()
