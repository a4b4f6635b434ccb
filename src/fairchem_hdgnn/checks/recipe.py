"""A config for one's own structures, sized from their number and their atoms (docs/training.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch_geometric.data import Batch

from fairchem_hdgnn.checks.records import sample
from fairchem_hdgnn.checks.targets import target_spread
from fairchem_hdgnn.data.lmdb import METADATA_FILE
from fairchem_hdgnn.data.neighbor_lists import Search, periodic_edges
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.data.statistics import LABELS, Spread
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.files import complete_or_absent
from fairchem_hdgnn.host.config_files import read_config

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
        root: folder with ``train/`` and ``val_id/`` or ``val/``, LMDBs such as ``make-lmdb`` writes.
        model: ``hdgnn`` or ``escn_so2``.
        label: attribute of the records to learn; without it the first of ``LABELS`` that they have.
        epochs: instead of the number that follows from the number of structures.
        noisy_nodes: whether to learn the way to the relaxed positions too; ``None``: where the records have them.

    Raises:
        DataError: a split is missing, or records have no such label, or all have the same.
    """
    train = root / "train"
    validation = next((root / name for name in VALIDATION_SPLITS if (root / name).is_dir()), None)
    if not train.is_dir() or validation is None:
        missing = train if not train.is_dir() else root / VALIDATION_SPLITS[0]
        raise DataError(f"{missing}: no such folder; a training needs ROOT/train and ROOT/val_id, one make-lmdb each")
    if noisy_nodes is None:
        noisy_nodes = all(has_ways(folder) for folder in (train, validation))
    config = read_config(f"hdgnn:oc20/is2re/small/{model}{'_noisy_nodes' if noisy_nodes else ''}.yml")
    sizes = measure(train, label, Search(config["model"]["cutoff"], config["model"]["max_neighbors"]))
    optim = config["optim"]
    steps_per_epoch = math.ceil(sizes.structures / optim["batch_size"])
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
    if not (train / METADATA_FILE).is_file():
        del optim["load_balancing"], optim["load_balancing_on_error"]
    return Recipe(sizes, config)


def has_ways(folder: Path) -> bool:
    """Whether a sample of records have relaxed positions, and not only those that they start from."""
    records = Records(folder)
    chosen = [records[index] for index in sample(len(records), SAMPLE, seed=0)]
    if not all("pos_relaxed" in record and "tags" in record and "fixed" in record for record in chosen):
        return False
    return any(float((record.pos_relaxed - record.pos).abs().max()) > SHORTEST_WAY for record in chosen)


def measure(train: Path, label: str | None, search: Search) -> Sizes:
    """Read all labels, and count atoms and neighbours of a sample.

    Raises:
        DataError: no label, or the same everywhere.
    """
    name, labels = target_spread(train, label)
    if labels.std < 1e-9:
        raise DataError(
            f"{train}: all {labels.count:,} structures have {name} = {labels.mean:g}; nothing can be learnt"
        )
    records = Records(train)
    chosen = [records[index] for index in sample(len(records), SAMPLE, seed=0)]
    atoms = sum(len(record.pos) for record in chosen)
    edges = sum(periodic_edges(Batch.from_data_list([record]), search).edge_index.shape[1] for record in chosen)
    return Sizes(len(records), atoms / len(chosen), edges / atoms, name, labels)
