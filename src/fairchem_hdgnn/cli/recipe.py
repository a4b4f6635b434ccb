"""``fairchem-hdgnn recipe``: write a config for your own structures."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from fairchem_hdgnn.checks.recipe import Tasks, make_recipe
from fairchem_hdgnn.cli._flags import path, require_at_least
from fairchem_hdgnn.data.statistics import LABELS

CHOICES = {"auto": None, "on": True, "off": False}

LARGEST_ROUNDING = 1e-3
"""Of the standard deviation of what is learned; a note is printed if float32 rounds the labels by more."""

FEWEST, MOST = 500, 20_000
"""Structures to train on; outside of these bounds a note is printed."""


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
    for flag, text in (
        ("--forces", "also learn forces; auto: if records have them with an energy that is not a relaxed one"),
        ("--noisy-nodes", "also learn the displacement to the relaxed positions; auto: if records have them"),
        ("--element-references", "subtract an energy per atom of each element; auto: for total energies"),
    ):
        parser.add_argument(flag, choices=list(CHOICES), default="auto", help=f"{text} (default: auto)")
    parser.add_argument("--out", type=path, default=Path("recipe.yml"), help="config to write (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Write the config and print the next commands."""
    require_at_least(1, {"--epochs": args.epochs})
    tasks = Tasks(CHOICES[args.forces], CHOICES[args.noisy_nodes], CHOICES[args.element_references])
    recipe = make_recipe(args.data, args.model, args.label, args.epochs, tasks)
    print("Written:", *(f"  {file}" for file in recipe.write(args.out)), sep="\n")
    for name, text in recipe.description().items():
        print(f"{name + ':':<14} {text}")
    count = recipe.labels.count
    if not FEWEST <= count <= MOST:
        print(f"Note: the recipe was chosen for {FEWEST:,} to {MOST:,} structures, not for {count:,}.")
    repeated, checked = recipe.repeated
    if repeated:
        print(
            f"Note: {repeated} of {checked} validation structures have the elements and the {recipe.data.label} of a "
            "training structure. Validate on structures that are not trained on."
        )
    rounding = recipe.data.rounding / 2
    if rounding > LARGEST_ROUNDING * recipe.labels.std:
        print(
            f"Note: fairchem keeps labels as float32, which rounds these by up to {rounding:.1g}, but their standard "
            f"deviation is {recipe.labels.std:.2g}. Subtract the energies of the isolated atoms before make-lmdb."
        )
    out = shlex.quote(str(args.out))
    print(f"check it:  fairchem-hdgnn check {out}")
    print(f"train:     fairchem-hdgnn train --mode train --config-yml {out}  (without a GPU: --cpu)")
