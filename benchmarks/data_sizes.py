"""HDGNN's full message and its tensor product alone on fewer and more molecules, with equally many steps.

``python benchmarks/data_sizes.py data/qm9 runs/data_sizes --hours H``: the gap of 2,500 molecules for 40 epochs and of
100,000 for one; that of 10,000 for 10 epochs is evidence.py's study ``qm9``. All else is as there. A call works for H
hours; call it again to continue.

Writes the table in docs/evidence.md, and benchmarks/results/data_sizes.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evidence import PAGE, ROOT, STUDIES, kept, runs_of
from kept_results import KeptResults
from long_runs import LongRun, add_arguments, continue_runs
from pages import of_seeds, put_into

MODELS = ("HDGNN, tensor product alone", "HDGNN")
EPOCHS = {100_000: 1, 2_500: 40}
"""Of each number of molecules, in the order of training."""

KEPT = KeptResults(ROOT / "benchmarks/results/data_sizes.json")


def runs_of_sizes(data: Path, out: Path) -> list[LongRun]:
    """Seed by seed."""
    studies = [replace(STUDIES["qm9"], train=size, epochs=epochs, models=MODELS) for size, epochs in EPOCHS.items()]
    runs = [run for study in studies for run in runs_of(study, data, out / f"molecules_{study.train}")]
    return sorted(runs, key=lambda run: run.seed)


def all_results() -> list[dict[str, Any]]:
    """Those of the other study, too."""
    return KEPT.results + [result for result in kept("qm9").results if result["model"] in MODELS]


def table(results: Sequence[dict[str, Any]]) -> str:
    """As Markdown, meV; a row for each number of molecules."""
    lines = [
        "| molecules | epochs | " + " | ".join(MODELS) + " |",
        "| ---: | ---: | " + " | ".join("---:" for _ in MODELS) + " |",
    ]
    for size, epochs in sorted({(result["structures"], result["epochs"]) for result in results}):
        of_size = [result for result in results if result["structures"] == size]
        cells = []
        for model in MODELS:
            errors = [result["mae"]["test"] for result in of_size if result["model"] == model]
            cells.append(of_seeds(errors) if errors else "")
        lines.append(f"| {size:,} | {epochs} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_page(runs: Sequence[LongRun]) -> None:
    """Table and JSON of what is done."""
    KEPT.take(runs)
    put_into(PAGE, "data_sizes", table(all_results()))


def main() -> None:
    """Go on with the trainings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    add_arguments(parser)
    args = parser.parse_args()
    runs = KEPT.left(runs_of_sizes(args.data.resolve(), args.out.resolve()))
    continue_runs(runs, args.hours, args.processes, lambda: write_page(runs))


if __name__ == "__main__":
    main()
