"""Make an OC20-format IS2RE data set by relaxations with EMT: the one that comes with the demo, or a larger one."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from running.interruption import ended_in_one_line
from structures.build import build_data
from structures.manifest import MANIFEST_FILE

PROGRAM = "examples/demo/make_data.py"


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description="a small OC20-format IS2RE data set, relaxed with EMT")
    parser.add_argument("out", type=Path, help="directory to make; one directory per split inside")
    parser.add_argument("--train", type=positive, default=500, help="training systems (default: %(default)s)")
    parser.add_argument(
        "--val", type=positive, default=100, help="systems in each of the four validation splits (default: %(default)s)"
    )
    parser.add_argument(
        "--test",
        type=positive,
        default=0,
        metavar="N",
        help="also four test splits of N systems without labels (default: none)",
    )
    parser.add_argument("--seed", type=int, default=0, help="decides every system (default: %(default)s)")
    parser.add_argument("--workers", type=positive, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument(
        "--archive",
        type=Path,
        metavar="FILE",
        help="also keep the relaxed systems in FILE (.npz), as in the demo",
    )
    return parser.parse_args(argv)


def positive(text: str) -> int:
    """An argument that must be a whole number above zero."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return number


def main(argv: Sequence[str] | None = None) -> None:
    """Make the data set unless it is there, and describe it."""
    args = parsed(argv)
    finished_before = (args.out / MANIFEST_FILE).is_file()
    with ended_in_one_line(PROGRAM, "nothing was left at the destination"):
        manifest = build_data(
            args.out,
            train=args.train,
            val=args.val,
            test=args.test,
            seed=args.seed,
            workers=args.workers,
            archive=args.archive,
        )
    console = Console()
    console.print(
        f"{args.out} was finished before; nothing to do" if finished_before else f"made {args.out}", highlight=False
    )
    console.print(describe(manifest))
    target = manifest["target"]
    console.print(
        f"training target: mean {target['mean']:.4f} eV, std {target['std']:.4f} eV (for the config's normalizer)"
    )
    if manifest["left_out"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in manifest["left_out"].items())
        console.print(f"relaxations left out, as OC20 does: {reasons}", highlight=False)


def describe(manifest: dict) -> Table:
    """A table of the splits."""
    table = Table(title="Adsorption energies (EMT), eV", caption="median MAE: always answering the training median")
    columns = {"mean": "mean", "std": "std", "min": "min", "max": "max", "median MAE": "median_baseline_mae"}
    table.add_column("split")
    for heading in ("systems", *columns):
        table.add_column(heading, justify="right")
    for split, size in manifest["sizes"].items():
        statistics = manifest["splits"].get(split)
        numbers = [f"{statistics[key]:.3f}" if statistics else "-" for key in columns.values()]
        table.add_row(split, str(size), *numbers)
    return table


if __name__ == "__main__":
    main()
