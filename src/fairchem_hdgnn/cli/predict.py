"""``fairchem-hdgnn predict``: predict splits with or without labels."""

from __future__ import annotations

import argparse
import math
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np

from fairchem_hdgnn.cli._flags import path
from fairchem_hdgnn.cli._inference import (
    add_ensemble_arguments,
    add_inference_arguments,
    frame_draws,
    inference_options,
)
from fairchem_hdgnn.data.splits import split_source
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.evaluation.ensemble import combine, predict_members
from fairchem_hdgnn.evaluation.inference import predict_splits
from fairchem_hdgnn.evaluation.origin import Origin
from fairchem_hdgnn.evaluation.predictions import Predictions, write_predictions
from fairchem_hdgnn.evaluation.splits import SUFFIXES, TEST_SPLITS, VALIDATION_SPLITS
from fairchem_hdgnn.files import require_writable
from fairchem_hdgnn.host.opening import describe_checkpoint

SPLITS = {"test": TEST_SPLITS, "val": VALIDATION_SPLITS}
"""By make-submission's ``--prefix``."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "--checkpoint", type=path, nargs="+", required=True, metavar="C", help="one checkpoint; several with --ensemble"
    )
    parser.add_argument(
        "--data", type=path, required=True, metavar="ROOT", help="folder with SPLIT/data.lmdb or SPLIT.lmdb"
    )
    parser.add_argument("--splits", nargs="+", default=list(TEST_SPLITS), metavar="SPLIT")
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="folder for the SPLIT.npz files")
    add_ensemble_arguments(parser)
    parser.add_argument(
        "--std-scale",
        type=float,
        metavar="S",
        help="scale factor for the energies' standard deviations, as fitted by evaluate --ensemble (default: 1)",
    )
    add_inference_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Predict and write one ``.npz`` per split, like fairchem's ``--mode predict`` but in float32."""
    _check(args)
    sources = {split: split_source(args.data, split) for split in args.splits}
    require_writable(args.out)
    unit = describe_checkpoint(args.checkpoint[0], trusted=args.trust_checkpoint).target.unit
    origin = Origin.of(args.checkpoint, {"set": args.set, "frame_draws": frame_draws(args)})
    for split, source in sources.items():
        predictions = _predicted(args, split, source)
        path = args.out / f"{split}.npz"
        # A later split may fail.
        write_predictions(path, predictions, origin=origin)
        finite = np.isfinite(predictions.energy)
        if not finite.all():
            wrong = predictions.ids[~finite]
            print(f"{path}: WARNING: {len(wrong):,} energies are NaN or infinity, first that of system {wrong[0]}")
        energy = predictions.energy[finite] if finite.any() else predictions.energy
        mean, spread = energy.mean(), energy.std()
        uncertainty = predictions.energy_std
        of_ensemble = "" if uncertainty is None else f"; energy_std {uncertainty.mean():.3f} {unit} on average"
        print(
            f"{path}: {len(predictions):,} systems, energy {mean:.3f} ± {spread:.3f} {unit} (mean ± standard deviation)"
            f"{of_ensemble}"
        )
    prefix = next((name for name, splits in SPLITS.items() if set(args.splits) == set(splits)), None)
    if prefix is not None:
        paths = {suffix: shlex.quote(str(args.out / f"{prefix}_{suffix}.npz")) for suffix in SUFFIXES}
        files = " ".join(f"--{suffix.replace('_', '-')} {path}" for suffix, path in paths.items())
        practice = "" if prefix == "test" else f" --prefix {prefix}"
        data = shlex.quote(str(args.data))
        print(f"Next: fairchem-hdgnn make-submission {files} --data {data}{practice} --out submission.npz")


def _check(args: argparse.Namespace) -> None:
    checkpoints: list[Path] = args.checkpoint
    num_draws, scale = frame_draws(args), args.std_scale
    if num_draws is None and len(checkpoints) > 1:
        raise ConfigError(f"{len(checkpoints)} checkpoints: add --ensemble for their mean, or give one")
    if scale is not None and num_draws is None:
        raise ConfigError("--std-scale needs --ensemble, because it scales the ensemble's standard deviations")
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise ConfigError(f"--std-scale {scale:g}: must be a number above 0, as evaluate --ensemble prints it")


def _predicted(args: argparse.Namespace, split: str, source: Path) -> Predictions:
    """Predictions of the checkpoint, or of the ensemble with its scaled standard deviations."""
    options, num_draws = inference_options(args), frame_draws(args)
    if num_draws is None:
        return predict_splits(args.checkpoint[0], {split: source}, options)[split]
    ensemble = combine(predict_members(args.checkpoint, {split: source}, options, num_draws))[split]
    factor = np.float32(1.0 if args.std_scale is None else args.std_scale)
    return replace(ensemble.mean, energy_std=factor * ensemble.energy_std.astype(np.float32))
