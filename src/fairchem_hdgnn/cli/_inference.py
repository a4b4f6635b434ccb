"""Arguments shared by the commands that run a checkpoint."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Sequence
from typing import Any

from fairchem_hdgnn.cli._flags import require_at_least
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.evaluation.inference import InferenceOptions


def add_inference_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that ``inference_options`` reads."""
    group = parser.add_argument_group("how predictions are made")
    group.add_argument("--cpu", action="store_true", help="run on the CPU even if a GPU is available")
    group.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes, one per GPU (default: 1)")
    group.add_argument("--batch-size", type=int, metavar="B", help="default: the checkpoint's eval_batch_size")
    group.add_argument("--num-workers", type=int, default=0, metavar="W", help="data-loader processes per GPU")
    group.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of resampling, of rotations and frames in `equivariance`, and of other packages' models; edge frames of "
        "HDGNN and eSCN follow the key frame_seed (default: 0)",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the checkpoint's model, e.g. --set frames=fixed; may be repeated",
    )
    add_trust_argument(group)
    add_data_format_argument(group)


def add_ensemble_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that ``frame_draws`` reads."""
    group = parser.add_argument_group("standard deviations (docs/uncertainty.md)")
    group.add_argument("--ensemble", action="store_true", help="predict the checkpoints' mean and standard deviation")
    group.add_argument(
        "--frame-draws",
        type=int,
        default=1,
        metavar="N",
        help="with --ensemble: predictions per checkpoint, each with different random edge frames (default: 1)",
    )


def frame_draws(args: argparse.Namespace) -> int | None:
    """Number of predictions per ensemble member; ``None`` without ``--ensemble``.

    Raises:
        ConfigError: several draws without ``--ensemble``.
    """
    require_at_least(1, {"--frame-draws": args.frame_draws})
    if args.frame_draws > 1 and not args.ensemble:
        raise ConfigError(f"--frame-draws {args.frame_draws} needs --ensemble, which averages the draws")
    return args.frame_draws if args.ensemble else None


def add_trust_argument(parser: argparse._ActionsContainer) -> None:
    """Add ``--trust-checkpoint``."""
    parser.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="unpickle any object in the checkpoint, which can run code: only for files from a source you trust",
    )


def add_data_format_argument(parser: argparse._ActionsContainer) -> None:
    """Add ``--data-format``."""
    parser.add_argument(
        "--data-format",
        metavar="FORMAT",
        help="fairchem's name of the data format (default: safe_lmdb for LMDBs; lmdb unpickles any object)",
    )


def inference_options(args: argparse.Namespace) -> InferenceOptions:
    """The options in parsed arguments."""
    require_at_least(1, {"--num-gpus": args.num_gpus, "--batch-size": args.batch_size})
    require_at_least(0, {"--num-workers": args.num_workers, "--seed": args.seed})
    return InferenceOptions(
        cpu=args.cpu,
        num_ranks=args.num_gpus,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        seed=args.seed,
        model_overrides=_key_values(args.set),
        trusted=args.trust_checkpoint,
        data_format=args.data_format,
    )


def _key_values(pairs: Sequence[str]) -> dict[str, Any]:
    values = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair}: write it as KEY=VALUE")
        try:
            values[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            # As in YAML; the string "false" would be truthy in a model that does not check its keys.
            values[key] = {"true": True, "false": False, "null": None}.get(text, text)
    return values
