"""Write a config for the user's own structures, sized to their number and atom counts (docs/training.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch_geometric.data import Batch, Data

from fairchem_hdgnn.checks.records import sample
from fairchem_hdgnn.checks.targets import target_spread
from fairchem_hdgnn.data.neighbor_lists import Search, periodic_edges
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.data.splits import has_split, split_source
from fairchem_hdgnn.data.statistics import LABELS, Spread
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.files import complete_or_absent
from fairchem_hdgnn.host.fairchem1.accumulation import steps_of_epoch
from fairchem_hdgnn.host.fairchem1.config_files import read_config
from fairchem_hdgnn.host.noisy_nodes import TARGET, add_displacement

VALIDATION_SPLITS = ("val_id", "val")

TRAINING_STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 15_000, 20, 100
"""Target number of steps, and bounds on the number of epochs."""

SAMPLE = 50
"""Structures sampled to count atoms and neighbours."""

SMALLEST_DISPLACEMENT = 0.01
"""Å; if no atom moves further, there is no displacement to learn."""


@dataclass(frozen=True)
class Sizes:
    """The properties of the data that determine a recipe.

    Attributes:
        structures: number of training structures.
        atoms: mean atoms per structure.
        neighbors: mean edges per atom.
        label: attribute of the records to learn.
        labels: distribution of the label.
        has_forces: whether records have forces.
    """

    structures: int
    atoms: float
    neighbors: float
    label: str
    labels: Spread
    has_forces: bool


@dataclass(frozen=True)
class Recipe:
    """A config, and the sizes it was derived from."""

    sizes: Sizes
    config: dict[str, Any]

    @property
    def epochs(self) -> int:
        """Number of training epochs."""
        return int(self.config["optim"]["max_epochs"])

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return self.epochs * steps_of_epoch(self.config["optim"], self.sizes.structures)

    def write(self, path: Path) -> None:
        """Write the config as YAML with a header.

        Raises:
            DataError: ``path`` exists.
        """
        if path.exists():
            raise DataError(f"{path}: exists already; choose another name with --out")
        sizes, unit = self.sizes, " eV" if self.sizes.label in LABELS else ""
        labels = f"mean {sizes.labels.mean:.4f}{unit}, standard deviation {sizes.labels.std:.4f}{unit}"
        header = [
            f"{self.config['model']['name']}, written by fairchem-hdgnn recipe.",
            "",
            f"Structures     {sizes.structures:,} to train on, {sizes.atoms:.0f} atoms on average",
            f"Target         {sizes.label}; {labels}",
            f"Schedule       {self.epochs} epochs, {self.steps:,} steps",
        ]
        text = "".join(f"# {line}".rstrip() + "\n" for line in header)
        with complete_or_absent(path) as temporary:
            temporary.write_text(text + yaml.safe_dump(self.config, sort_keys=False), encoding="utf-8")


def make_recipe(
    root: Path,
    model: str = "hdgnn",
    label: str | None = None,
    epochs: int | None = None,
    noisy_nodes: bool | None = None,
) -> Recipe:
    """Adapt ``configs/oc20/is2re/small/MODEL.yml`` to the data in ``root``.

    Args:
        root: folder with ``train/`` and ``val_id/`` or ``val/`` such as ``make-lmdb`` writes, or ``train.lmdb`` and
            ``val_id.lmdb`` or ``val.lmdb``.
        model: ``hdgnn`` or ``escn_so2``.
        label: attribute of the records to learn; by default the first of ``LABELS`` that they have.
        epochs: number of epochs; by default derived from the number of structures.
        noisy_nodes: whether to also learn the displacement to the relaxed positions; ``None``: if the records have
            them.

    Raises:
        DataError: a split is missing, records lack the label, or all labels are equal.
    """
    train = split_source(root, "train")
    present = (name for name in VALIDATION_SPLITS if has_split(root, name))
    validation = split_source(root, next(present, VALIDATION_SPLITS[0]))
    records = Records(train)
    chosen = sampled(records)
    if noisy_nodes is None:
        noisy_nodes = has_displacements(chosen) and has_displacements(sampled(Records(validation)))
    config = read_config(f"hdgnn:oc20/is2re/small/{model}{'_noisy_nodes' if noisy_nodes else ''}.yml")
    search = Search(config["model"]["cutoff"], config["model"]["max_neighbors"])
    sizes = measure(*target_spread(train, label), chosen, search)
    if sizes.labels.std < 1e-9:
        same = f"{sizes.label} = {sizes.labels.mean:g}"
        raise DataError(f"{train}: all {sizes.structures:,} structures have {same}; there is nothing to learn")
    optim = config["optim"]
    steps_per_epoch = steps_of_epoch(optim, sizes.structures)
    if epochs is None:
        epochs = min(max(round(TRAINING_STEPS / steps_per_epoch), FEWEST_EPOCHS), MOST_EPOCHS)
    config["model"]["energy_scale"] = round(sizes.atoms**-0.5, 2)
    config["model"]["mean_neighbors"] = round(max(sizes.neighbors, 1.0), 1)
    optim["max_epochs"] = epochs
    optim["eval_every"] = optim["checkpoint_every"] = steps_per_epoch
    source = {"format": "safe_lmdb", "key_mapping": {sizes.label: "energy"}}
    transforms = config["dataset"]["train"]["transforms"]
    transforms["normalizer"]["energy"] = {"mean": round(sizes.labels.mean, 6), "stdev": round(sizes.labels.std, 6)}
    config["dataset"] = {
        "train": {**source, "src": str(train.resolve()), "transforms": transforms},
        "val": {**source, "src": str(validation.resolve())},
    }
    if not records.has_metadata:
        del optim["load_balancing"], optim["load_balancing_on_error"]
    return Recipe(sizes, config)


def sampled(records: Records) -> list[Data]:
    """A sample of the records, the same in each call."""
    return [records[index] for index in sample(len(records), SAMPLE, seed=0)]


def has_displacements(records: list[Data]) -> bool:
    """Whether records have relaxed positions that differ from the initial ones."""
    if not all("pos_relaxed" in record and "tags" in record and "fixed" in record for record in records):
        return False
    return any(float(add_displacement(record)[TARGET].abs().max()) > SMALLEST_DISPLACEMENT for record in records)


def measure(label: str, labels: Spread, records: list[Data], search: Search) -> Sizes:
    """Count the atoms and neighbours of a sample, and look for forces."""
    atoms = sum(len(record.pos) for record in records)
    edges = sum(periodic_edges(Batch.from_data_list([record]), search).edge_index.shape[1] for record in records)
    has_forces = any("forces" in record for record in records)
    return Sizes(labels.count, atoms / len(records), edges / atoms, label, labels, has_forces)
