"""``fairchem-hdgnn recipe``: write a config for your own structures."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from fairchem_hdgnn.checks.recipe import make_recipe
from fairchem_hdgnn.cli._flags import path, require_at_least
from fairchem_hdgnn.data.statistics import LABELS


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    labels = ", ".join(LABELS)
    parser.add_argument(
        "data",
        type=path,
        help="folder with train/ and val_id/ (or val/) from make-lmdb, or with train.lmdb and val_id.lmdb",
    )
    parser.add_argument("--model", choices=["hdgnn", "escn_so2"], default="hdgnn", help="default: %(default)s")
    parser.add_argument("--label", metavar="KEY", help=f"attribute to learn (default: the first of {labels})")
    parser.add_argument("--epochs", type=int, help="default: chosen from the number of structures")
    parser.add_argument(
        "--noisy-nodes", choices=["auto", "on", "off"], default="auto",
        help="also learn the displacement to the relaxed positions; auto: if records have them (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--out", type=path, default=Path("recipe.yml"), help="config to write (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Write the config and print the next commands."""
    require_at_least(1, {"--epochs": args.epochs})
    noisy_nodes = {"auto": None, "on": True, "off": False}[args.noisy_nodes]
    recipe = make_recipe(args.data, args.model, args.label, args.epochs, noisy_nodes)
    recipe.write(args.out)
    sizes = recipe.sizes
    print(f"{args.out}: {sizes.structures:,} structures of {sizes.atoms:.0f} atoms, {recipe.epochs} epochs")
    print(f"  {sizes.label}: mean {sizes.labels.mean:.4f}, standard deviation {sizes.labels.std:.4f}")
    print(f"  Noisy Nodes: {'yes' if 'displacement' in recipe.config['outputs'] else 'no'}")
    if sizes.has_forces:
        print("  Forces in the records are not learned; start from configs/oc20/s2ef for that")
    out = shlex.quote(str(args.out))
    print(f"check it:  fairchem-hdgnn check {out}")
    print(f"train:     fairchem-hdgnn train --mode train --config-yml {out}  (without a GPU: --cpu)")
