"""``fairchem-hdgnn equivariance``: measure how much energies depend on orientation and on edge frames."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from fairchem_hdgnn.cli._flags import path, require_at_least
from fairchem_hdgnn.cli._inference import add_inference_arguments, inference_options
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.evaluation.equivariance import Differences, Subject, measure, open_subject
from fairchem_hdgnn.files import complete_or_absent

COLUMNS = {"mad": "MAD", "frame_noise": "frame noise", "rotation": "rotation error"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "models",
        nargs="+",
        metavar="CHECKPOINT|CONFIG",
        help="checkpoints, or configs (.yml; random weights, in the heads too)",
    )
    parser.add_argument("data", type=path, metavar="DATA", help="an LMDB file, or a folder of LMDBs")
    parser.add_argument(
        "--systems", type=int, default=100, metavar="N", help="systems, evenly spaced in DATA (default: 100)"
    )
    parser.add_argument(
        "--rotations", type=int, default=4, metavar="N", help="random rotations per system (default: 4)"
    )
    parser.add_argument("--out", type=path, metavar="FILE", help="also write the numbers to FILE, as JSON")
    add_inference_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Measure every model and print one row for each."""
    require_at_least(1, {"--systems": args.systems, "--rotations": args.rotations})
    if args.num_gpus > 1:
        raise ConfigError(f"--num-gpus {args.num_gpus}: this command uses one")
    options = inference_options(args)
    subjects = [open_subject(name, options) for name in args.models]
    unit, factor = _unit(subjects)
    table = Table(unit, *COLUMNS.values(), "spread of E", box=None)
    found, count, untrained = {}, 0, False
    for name, subject in zip(args.models, subjects):
        differences = measure(subject, args.data, args.systems, args.rotations, options)
        found[name] = numbers(differences, factor)
        count, untrained = len(differences.energy), untrained or not subject.trained
        cells = [f"{found[name][key]:.3g} ± {found[name][key + '_error']:.1g}" for key in COLUMNS]
        table.add_row(name, *cells, f"{found[name]['spread']:.3g}")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(
        f"\nMean absolute differences of the energy in {unit} ± standard error over {count} systems, "
        f"{args.rotations} random rotations each.\n"
        "MAD: before and after a rotation, model unchanged. Frame noise: same orientation, two draws of edge frames.\n"
        "Rotation error: structure and frames rotated together.",
        markup=False,
    )
    if untrained:
        console.print("A config has random weights: compare with the spread of E over the systems.")
    if args.out is not None:
        content = {"unit": unit, "systems": count, "rotations": args.rotations, "seed": args.seed, "models": found}
        with complete_or_absent(args.out) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
        console.print(f"Written: {args.out}")


def _unit(subjects: Sequence[Subject]) -> tuple[str, float]:
    """The unit of the numbers, and how many of it are one unit of the target."""
    first = subjects[0].opened.unit
    for subject in subjects:
        if subject.opened.unit != first:
            raise ConfigError(
                f"{subjects[0].name} predicts in {first}, {subject.name} in {subject.opened.unit}; measure them apart"
            )
    return ("meV", 1000.0) if first == "eV" else (first.strip("()"), 1.0)


def numbers(differences: Differences, factor: float) -> dict[str, float]:
    """Means and standard errors of the differences, and the standard deviation of the energy over systems.

    Args:
        differences: in the unit of the target, such as eV.
        factor: from this unit to that of the result.
    """
    result = {}
    for key in COLUMNS:
        values = factor * getattr(differences, key)
        result[key], result[f"{key}_error"] = float(values.mean()), float(values.std() / len(values) ** 0.5)
    return {**result, "spread": float(factor * differences.energy.std())}
