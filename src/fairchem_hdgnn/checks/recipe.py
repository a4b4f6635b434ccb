"""A config for one's own structures, sized from their number and their atoms (docs/training.md)."""

from __future__ import annotations

import math
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
from fairchem_hdgnn.host.fairchem1.accumulation import num_steps
from fairchem_hdgnn.host.fairchem1.config_files import read_config
from fairchem_hdgnn.host.noisy_nodes import TARGET, add_displacement

VALIDATION_SPLITS = ("val_id", "val")

TRAINING_STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 15_000, 20, 100
"""So many steps, in no fewer and no more epochs."""

SAMPLE = 50
"""Structures whose atoms and neighbours are counted."""

SHORTEST_WAY = 0.01
"""Å that some atom has to move before there is a way to learn."""


@dataclass(frozen=True)
class Sizes:
    """What a recipe depends on.

    Attributes:
        structures: to train on.
        atoms: of a structure, on average.
        neighbors: edges of an atom, on average.
        label: attribute of the records.
        labels: its distribution.
    """

    structures: int
    atoms: float
    neighbors: float
    label: str
    labels: Spread


@dataclass(frozen=True)
class Recipe:
    """A config and what it was sized from."""

    sizes: Sizes
    config: dict[str, Any]

    @property
    def epochs(self) -> int:
        """Of the training."""
        return int(self.config["optim"]["max_epochs"])

    def write(self, path: Path) -> None:
        """As YAML with a header.

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
            f"Schedule       {self.epochs} epochs, {self.config['optim']['total_steps']:,} steps",
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
    """Size ``configs/oc20/is2re/small/MODEL.yml`` for the data in ``root``.

    Args:
        root: folder with ``train/`` and ``val_id/`` or ``val/`` such as ``make-lmdb`` writes, or ``train.lmdb`` and
            ``val_id.lmdb`` or ``val.lmdb``.
        model: ``hdgnn`` or ``escn_so2``.
        label: attribute of the records to learn; without it the first of ``LABELS`` that they have.
        epochs: instead of the number that follows from the number of structures.
        noisy_nodes: whether to learn the way to the relaxed positions too; ``None``: where the records have them.

    Raises:
        DataError: a split is missing, or records have no such label, or all have the same.
    """
    train = split_source(root, "train")
    present = (name for name in VALIDATION_SPLITS if has_split(root, name))
    validation = split_source(root, next(present, VALIDATION_SPLITS[0]))
    records = Records(train)
    chosen = sampled(records)
    if noisy_nodes is None:
        noisy_nodes = has_ways(chosen) and has_ways(sampled(Records(validation)))
    config = read_config(f"hdgnn:oc20/is2re/small/{model}{'_noisy_nodes' if noisy_nodes else ''}.yml")
    search = Search(config["model"]["cutoff"], config["model"]["max_neighbors"])
    sizes = measure(*target_spread(train, label), chosen, search)
    if sizes.labels.std < 1e-9:
        same = f"{sizes.label} = {sizes.labels.mean:g}"
        raise DataError(f"{train}: all {sizes.structures:,} structures have {same}; nothing can be learnt")
    optim = config["optim"]
    num_batches = math.ceil(sizes.structures / optim["batch_size"])
    steps_per_epoch = num_steps(num_batches, optim.get("accumulate", 1))
    if epochs is None:
        epochs = min(max(round(TRAINING_STEPS / steps_per_epoch), FEWEST_EPOCHS), MOST_EPOCHS)
    config["model"]["energy_scale"] = round(sizes.atoms**-0.5, 2)
    config["model"]["mean_neighbors"] = round(max(sizes.neighbors, 1.0), 1)
    optim["max_epochs"], optim["total_steps"] = epochs, epochs * steps_per_epoch
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
    """Some of them, the same in each call."""
    return [records[index] for index in sample(len(records), SAMPLE, seed=0)]


def has_ways(records: list[Data]) -> bool:
    """Whether records have relaxed positions, and not only those that they start from."""
    if not all("pos_relaxed" in record and "tags" in record and "fixed" in record for record in records):
        return False
    return any(float(add_displacement(record)[TARGET].abs().max()) > SHORTEST_WAY for record in records)


def measure(label: str, labels: Spread, records: list[Data], search: Search) -> Sizes:
    """Count atoms and neighbours of a sample."""
    atoms = sum(len(record.pos) for record in records)
    edges = sum(periodic_edges(Batch.from_data_list([record]), search).edge_index.shape[1] for record in records)
    return Sizes(labels.count, atoms / len(records), edges / atoms, label, labels)
