"""``fairchem-hdgnn evaluate``: score checkpoints on labelled splits."""

from __future__ import annotations

import argparse
from pathlib import Path

from fairchem_hdgnn.cli._flags import path, require_at_least
from fairchem_hdgnn.cli._inference import (
    add_ensemble_arguments,
    add_inference_arguments,
    frame_draws,
    inference_options,
)
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.evaluation.ensemble import ENSEMBLE
from fairchem_hdgnn.evaluation.evaluate import checkpoint_names, evaluate, write_systems
from fairchem_hdgnn.evaluation.report import print_tables, write_tables
from fairchem_hdgnn.evaluation.splits import VALIDATION_SPLITS
from fairchem_hdgnn.files import require_writable

LARGEST_ERRORS = 50


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "--checkpoint", type=path, nargs="+", required=True, metavar="C", help="one or more checkpoints"
    )
    parser.add_argument("--names", nargs="+", metavar="NAME", help="names of the checkpoints (default: model and run)")
    parser.add_argument(
        "--data", type=path, required=True, metavar="ROOT", help="folder with SPLIT/data.lmdb or SPLIT.lmdb"
    )
    parser.add_argument("--splits", nargs="+", default=list(VALIDATION_SPLITS), metavar="SPLIT")
    parser.add_argument("--paper", action="store_true", help="append Table 1 of the HDGNN paper")
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="bootstrap resamples (default: 1000)")
    parser.add_argument("--out", type=path, metavar="DIR", help="also write tables, predictions and plots to DIR")
    parser.add_argument("--plots", action="store_true", help="draw parity, errors by group, EwT, learning curve")
    parser.add_argument("--plot-format", choices=("png", "svg"), help="of --plots (default: png)")
    parser.add_argument(
        "--html", action="store_true", help="write evaluation.html: tables, plots, rotatable structures"
    )
    parser.add_argument(
        "--worst",
        type=int,
        metavar="N",
        help="with --html: show the structures of the N largest errors per split and model "
        f"(default: {LARGEST_ERRORS})",
    )
    parser.add_argument(
        "--logs",
        type=path,
        metavar="DIR",
        help="event files of TensorBoard for --plots (default: of the checkpoint's run)",
    )
    add_ensemble_arguments(parser)
    add_inference_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Evaluate, print, and write."""
    for flag in ("plots", "html"):
        if getattr(args, flag) and args.out is None:
            raise ConfigError(f"--{flag} needs --out DIR to write to")
    for flag, needed in {"plot_format": "plots", "logs": "plots", "worst": "html"}.items():
        if getattr(args, flag) is not None and not getattr(args, needed):
            raise ConfigError(f"--{flag.replace('_', '-')} has no effect without --{needed}")
    require_at_least(1, {"--bootstrap": args.bootstrap, "--worst": args.worst})
    plot_format, worst = args.plot_format or "png", args.worst or LARGEST_ERRORS
    if args.out is not None:
        require_writable(args.out)
    if args.logs is not None:
        from fairchem_hdgnn.evaluation.learning_curve import require_events  # noqa: PLC0415 (slow to import)

        require_events(args.logs)
    num_draws = frame_draws(args)
    checkpoints = checkpoint_names(args.checkpoint, args.names, trusted=args.trust_checkpoint)
    options = inference_options(args)
    evaluation = evaluate(
        checkpoints, args.data, args.splits, options, num_resamples=args.bootstrap, frame_draws=num_draws
    )
    comparison, notes, calibration = evaluation.comparison, evaluation.notes, evaluation.calibration
    written: list[Path] = []
    if args.out is not None:
        written += write_tables(
            comparison, notes, evaluation.facts, args.out, with_paper=args.paper, calibration=calibration
        )
        written += write_systems(evaluation, args.out)
    print_tables(comparison, notes, with_paper=args.paper, calibration=calibration)
    if args.out is None:
        return
    if args.plots:
        from fairchem_hdgnn.evaluation.plots import draw_all  # noqa: PLC0415 (matplotlib only where it is needed)

        written += draw_all(evaluation.predictions, checkpoints, args.out, plot_format, logs=args.logs)
        if calibration:
            from fairchem_hdgnn.evaluation.calibration_plot import draw_calibration  # noqa: PLC0415 (likewise)

            ensemble = evaluation.predictions[ENSEMBLE]
            written.append(draw_calibration(ensemble, calibration, args.out / f"calibration.{plot_format}"))
    if args.html:
        from fairchem_hdgnn.evaluation.page.page import write_page  # noqa: PLC0415 (plotly only where it is needed)

        written.append(write_page(args.out / "evaluation.html", evaluation, options, worst, with_paper=args.paper))
    print("Written:", *(f"  {path}" for path in written), sep="\n")
    found = {path for kind in ("*.png", "*.svg", "*.html", "predictions/*/*.npz") for path in args.out.glob(kind)}
    earlier = sorted(found - set(written))
    if earlier:
        print("Not of this evaluation:", *(f"  {path}" for path in earlier), sep="\n")
