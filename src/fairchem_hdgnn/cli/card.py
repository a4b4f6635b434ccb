"""``fairchem-hdgnn card``: write a model card for a checkpoint."""

from __future__ import annotations

import argparse
import sys

from fairchem_hdgnn.cli._flags import path, require_at_least
from fairchem_hdgnn.cli._inference import add_inference_arguments, inference_options
from fairchem_hdgnn.convert.converted import require_absent
from fairchem_hdgnn.data.splits import has_split
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.evaluation.card.card import model_card
from fairchem_hdgnn.evaluation.card.front_matter import require_dataset, require_licence
from fairchem_hdgnn.evaluation.card.scores import Scores, evaluated, of_table
from fairchem_hdgnn.evaluation.card.subject import Subject, read_subject
from fairchem_hdgnn.evaluation.card.training_data import read_training_data
from fairchem_hdgnn.evaluation.splits import VALIDATION_SPLITS
from fairchem_hdgnn.files import complete_or_absent


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("checkpoint", type=path, metavar="CHECKPOINT", help="checkpoint.pt or inference_ckpt.pt")
    parser.add_argument("--out", type=path, metavar="FILE", help="file to write; must not exist (default: print)")
    parser.add_argument("--licence", metavar="SPDX", help="licence of the weights, e.g. MIT or CC-BY-4.0")
    parser.add_argument("--title", help="title of the card (default: architecture and sizes)")
    parser.add_argument("--dataset", metavar="ID", help="id of the training data on the Hugging Face Hub")
    parser.add_argument("--table", type=path, metavar="JSON", help="table.json with its scores, from evaluate --out")
    parser.add_argument("--name", help="row of --table (default: the one with this file's SHA-256 or path)")
    parser.add_argument(
        "--data",
        type=path,
        metavar="ROOT",
        help="folder with SPLIT/data.lmdb or SPLIT.lmdb: count the systems and, without --table, score them",
    )
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="splits to score (default: OC20's that exist)")
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="bootstrap resamples (default: 1000)")
    add_inference_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Write the card."""
    _check(args)
    subject = read_subject(args.checkpoint, trusted=args.trust_checkpoint)
    scores = _scores(args, subject)
    data = read_training_data(subject, args.data)
    card = model_card(subject, data, scores, title=args.title, licence=args.licence, dataset=args.dataset)
    if args.out is None:
        print(card, end="")
    else:
        with complete_or_absent(args.out) as temporary:
            temporary.write_text(card, encoding="utf-8")
        print(f"Written: {args.out}")
    if args.licence is None:
        print("fairchem-hdgnn card: the card states no licence; --licence SPDX adds one", file=sys.stderr)


def _check(args: argparse.Namespace) -> None:
    require_licence(args.licence)
    require_dataset(args.dataset)
    require_at_least(1, {"--bootstrap": args.bootstrap})
    if args.name and args.table is None:
        raise ConfigError("--name selects a row of --table JSON; add --table")
    if args.splits and (args.data is None or args.table is not None):
        raise ConfigError("--splits needs --data ROOT and cannot be combined with --table")
    if args.out is not None:
        require_absent(args.out)


def _scores(args: argparse.Namespace, subject: Subject) -> Scores | None:
    if args.table is not None:
        return of_table(args.table, subject, args.name)
    if args.data is None:
        return None
    splits = args.splits or [split for split in VALIDATION_SPLITS if has_split(args.data, split)]
    return evaluated(subject, args.data, splits, inference_options(args), args.bootstrap) if splits else None
