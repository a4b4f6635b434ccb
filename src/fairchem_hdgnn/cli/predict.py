"""``fairchem-hdgnn predict``: predictions for splits with or without labels."""

from __future__ import annotations

import argparse
from pathlib import Path

from fairchem_hdgnn.cli._inference import add_inference_arguments, inference_options
from fairchem_hdgnn.evaluation.inference import predict_splits
from fairchem_hdgnn.evaluation.predictions import write_predictions
from fairchem_hdgnn.evaluation.splits import SUFFIXES, TEST_SPLITS, split_source, suffix_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="C")
    parser.add_argument("--data", type=Path, required=True, metavar="ROOT", help="folder with SPLIT/data.lmdb")
    parser.add_argument("--splits", nargs="+", default=list(TEST_SPLITS), metavar="SPLIT")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets SPLIT.npz for every split")
    add_inference_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Predict and write one ``.npz`` per split, as fairchem's ``--mode predict`` would, in float32."""
    sources = {split: split_source(args.data, split) for split in args.splits}
    options = inference_options(args)
    for split, predictions in predict_splits(args.checkpoint, sources, options).items():
        path = args.out / f"{split}.npz"
        write_predictions(path, predictions)
        mean, spread = predictions.energy.mean(), predictions.energy.std()
        print(f"{path}: {len(predictions):,} systems, energy {mean:.3f} ± {spread:.3f} eV (mean ± standard deviation)")
    by_suffix = {suffix_of(split): args.out / f"{split}.npz" for split in args.splits}
    if set(by_suffix) == set(SUFFIXES):
        files = " ".join(f"--{suffix.replace('_', '-')} {by_suffix[suffix]}" for suffix in SUFFIXES)
        print(f"Next: fairchem-hdgnn make-submission {files} --data {args.data} --out submission.npz")
