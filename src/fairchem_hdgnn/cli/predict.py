"""``fairchem-hdgnn predict``: predictions for splits with or without labels."""

from __future__ import annotations

import argparse

from fairchem_hdgnn.cli._flags import path
from fairchem_hdgnn.cli._inference import add_inference_arguments, inference_options
from fairchem_hdgnn.data.splits import split_source
from fairchem_hdgnn.evaluation.inference import predict_splits
from fairchem_hdgnn.evaluation.predictions import write_predictions
from fairchem_hdgnn.evaluation.splits import SUFFIXES, TEST_SPLITS, VALIDATION_SPLITS

SPLITS = {"test": TEST_SPLITS, "val": VALIDATION_SPLITS}
"""By make-submission's ``--prefix``."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--checkpoint", type=path, required=True, metavar="C")
    parser.add_argument(
        "--data", type=path, required=True, metavar="ROOT", help="folder with SPLIT/data.lmdb or SPLIT.lmdb"
    )
    parser.add_argument("--splits", nargs="+", default=list(TEST_SPLITS), metavar="SPLIT")
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="gets SPLIT.npz for every split")
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
    prefix = next((name for name, splits in SPLITS.items() if set(args.splits) == set(splits)), None)
    if prefix is not None:
        files = " ".join(f"--{suffix.replace('_', '-')} {args.out / f'{prefix}_{suffix}.npz'}" for suffix in SUFFIXES)
        practice = "" if prefix == "test" else f" --prefix {prefix}"
        print(f"Next: fairchem-hdgnn make-submission {files} --data {args.data}{practice} --out submission.npz")
