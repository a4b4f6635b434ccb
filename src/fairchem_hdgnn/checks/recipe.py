"""Write a config for the user's own structures, sized to their number and atom counts (docs/training.md)."""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase.data import chemical_symbols
from torch_geometric.data import Data

from fairchem_hdgnn.checks.own_data import (
    OwnData,
    are_molecules,
    has_displacements,
    mean_neighbors,
    measure,
    repeated,
    sampled,
)
from fairchem_hdgnn.checks.records import require_structure
from fairchem_hdgnn.data.neighbor_lists import Search
from fairchem_hdgnn.data.npz import write_npz
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.data.splits import has_split, split_source
from fairchem_hdgnn.data.statistics import LABELS, Spread
from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.files import complete_or_absent
from fairchem_hdgnn.host.fairchem1.accumulation import steps_of_epoch
from fairchem_hdgnn.host.fairchem1.config_files import read_config
from fairchem_hdgnn.host.noisy_nodes import TARGET

VALIDATION_SPLITS = ("val_id", "val")

ENERGIES = set(LABELS) - {"y_relaxed"}
"""Labels that belong to the same structure as forces."""

TRAINING_STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 15_000, 20, 100
"""Target number of steps, and bounds on the number of epochs."""

FORGETTING = 10.0
"""The share of the initial weights in the final averages (EMA) is at most exp(-10), in trainings of 2,000 steps or more
less than that."""

TOTAL_ENERGY = 1.0
"""eV per atom; labels with a larger mean are total or formation energies rather than adsorption energies."""

REMAINING = 0.5
"""Energies per element are used if they leave less than this share of the standard deviation of such labels."""


@dataclass(frozen=True)
class Tasks:
    """What to learn besides the energy; ``None``: if the records have it.

    Attributes:
        forces: the forces on the atoms.
        noisy_nodes: the displacement to the relaxed positions.
        element_references: energies per atom of each element, which are subtracted from total energies.
    """

    forces: bool | None = None
    noisy_nodes: bool | None = None
    element_references: bool | None = None


@dataclass(frozen=True)
class Recipe:
    """A config, and the data that it was derived from.

    Attributes:
        data: the training structures.
        labels: distribution of the label, less the energies of the elements if these are used.
        config: of fairchem, without the file of the energies per element.
        element_references: whether energies per element are subtracted.
        repeated: how many validation structures of a sample have the elements and the label of a training structure,
            and the size of the sample.
    """

    data: OwnData
    labels: Spread
    config: dict[str, Any]
    element_references: bool
    repeated: tuple[int, int]

    @property
    def epochs(self) -> int:
        """Number of training epochs."""
        return int(self.config["optim"]["max_epochs"])

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return self.epochs * steps_of_epoch(self.config["optim"], self.labels.count)

    def description(self) -> dict[str, str]:
        """The properties of the data and of the training, for a header: name -> text."""
        data, labels, unit = self.data, self.data.labels, " eV" if self.data.label in LABELS else ""
        found = {
            "Structures": f"{self.labels.count:,} to train on, {data.atoms:.0f} atoms on average",
            "Target": f"{data.label}; mean {labels.mean:.4f}{unit}, standard deviation {labels.std:.4f}{unit}",
        }
        if self.element_references:
            found["Per element"] = (
                f"a constant per atom is subtracted; standard deviation of the rest {self.labels.std:.4f}{unit}"
            )
        if "forces" in self.config["outputs"]:
            found["Forces"] = f"root mean square of their components {data.force_scale:.4f} eV/Å"
        found["Periodic"] = "as the records say" if self.config["model"]["use_pbc"] else "no: the records have no cell"
        found["Noisy Nodes"] = "yes" if TARGET in self.config["outputs"] else "no"
        found["Schedule"] = f"{self.epochs} epochs, {self.steps:,} steps"
        return found

    def write(self, path: Path) -> list[Path]:
        """Write the config as YAML with a header, and a file with the energies per element if they are used.

        Returns:
            The files written.

        Raises:
            DataError: one of them exists.
        """
        table = path.with_name(f"{path.stem}_element_references.npz")
        written = [path, table] if self.element_references else [path]
        for each in written:
            if each.exists():
                raise DataError(f"{each}: exists already; choose another name with --out")
        config = deepcopy(self.config)
        if self.element_references:
            transforms = config["dataset"]["train"]["transforms"]
            transforms["element_references"] = {"energy": {"file": str(table.resolve())}}
            write_npz(table, {"element_references": self.data.element_energies.astype(np.float32)})
        header = [f"{config['model']['name']}, written by fairchem-hdgnn recipe.", ""]
        header += [f"{name:<14} {text}" for name, text in self.description().items()]
        text = "".join(f"# {line}".rstrip() + "\n" for line in header)
        with complete_or_absent(path) as temporary:
            temporary.write_text(text + yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        return written


def make_recipe(
    root: Path,
    model: str = "hdgnn",
    label: str | None = None,
    epochs: int | None = None,
    tasks: Tasks | None = None,
) -> Recipe:
    """Adapt a config of ``configs/oc20/is2re/small``, or ``s2ef/small`` for forces, to the data in ``root``.

    Args:
        root: folder with ``train/`` and ``val_id/`` or ``val/`` such as ``make-lmdb`` writes, or ``train.lmdb`` and
            ``val_id.lmdb`` or ``val.lmdb``.
        model: ``hdgnn`` or ``escn_so2``.
        label: attribute of the records to learn; by default the first of ``LABELS`` that they have.
        epochs: number of epochs; by default derived from the number of structures.
        tasks: what to learn besides the energy; by default what the records have.

    Raises:
        DataError: a split is missing, a record lacks what is to be learned or a part of its structure, or all labels
            are equal.
        ConfigError: forces and Noisy Nodes together.
    """
    train = split_source(root, "train")
    present = (name for name in VALIDATION_SPLITS if has_split(root, name))
    validation = split_source(root, next(present, VALIDATION_SPLITS[0]))
    tasks = tasks or Tasks()
    chosen, to_check = sampled(train).values(), sampled(validation)
    data = measure(train, label)
    use_pbc = data.has_cells or not are_molecules(to_check.values())
    for index, record in to_check.items():
        require_structure(f"{validation}, record {index}", record, use_pbc=use_pbc)
    forces, noisy_nodes = _chosen_tasks(data, chosen, to_check.values(), validation, tasks)
    task = "s2ef" if forces else "is2re"
    config = read_config(f"hdgnn:oc20/{task}/small/{model}{'_noisy_nodes' if noisy_nodes else ''}.yml")
    references, labels = _energies(data, tasks.element_references)
    if references:
        _require_known_elements(data, validation)
    config["model"]["use_pbc"] = use_pbc
    _set_sizes(config, data, chosen, labels, epochs)
    mapping = {data.label: "energy", **({data.forces_key: "forces"} if forces else {})}
    transforms = config["dataset"]["train"]["transforms"]
    transforms["normalizer"]["energy"] = {"mean": round(labels.mean, 6), "stdev": round(labels.std, 6)}
    if forces:
        transforms["normalizer"]["forces"] = {"mean": 0.0, "stdev": round(data.force_scale, 6)}
    config["dataset"] = {
        "train": {**_source(train, mapping), "transforms": transforms},
        "val": _source(validation, mapping),
    }
    if not Records(train).has_metadata:
        del config["optim"]["load_balancing"], config["optim"]["load_balancing_on_error"]
    labelled = [record for record in to_check.values() if data.label in record]
    return Recipe(data, labels, config, references, (repeated(data, labelled), len(labelled)))


def _chosen_tasks(
    data: OwnData, chosen: Collection[Data], to_check: Collection[Data], validation: Path, tasks: Tasks
) -> tuple[bool, bool]:
    """Whether to learn forces, and whether displacements (Noisy Nodes), if both samples have them."""
    if tasks.forces and tasks.noisy_nodes:
        raise ConfigError("--forces on and --noisy-nodes on: a model has one vector per atom; choose one of them")
    forces, noisy_nodes = tasks.forces, tasks.noisy_nodes
    has_forces = bool(data.forces_key) and data.force_scale > 0 and all(data.forces_key in each for each in to_check)
    if forces and not has_forces:
        raise DataError(
            f"{data.source}, {validation}: not every record has forces (or all are 0); write them with make-lmdb "
            "--task s2ef, or leave out --forces"
        )
    if forces is None:
        forces = has_forces and data.label in ENERGIES and not noisy_nodes
    displacements = has_displacements(chosen) and has_displacements(to_check)
    if noisy_nodes and not displacements:
        raise DataError(
            f"{data.source}, {validation}: the records have no relaxed positions that differ from the initial ones; "
            "give make-lmdb pairs of structures (--relaxations, --pairs), or leave out --noisy-nodes"
        )
    if noisy_nodes is None:
        noisy_nodes = not forces and displacements
    return forces, noisy_nodes


def _energies(data: OwnData, element_references: bool | None) -> tuple[bool, Spread]:
    """Whether to subtract energies per element, and the distribution of the label after that."""
    labels = data.labels
    if labels.std < 1e-9:
        same = f"{data.label} = {labels.mean:g}"
        raise DataError(f"{data.source}: all {labels.count:,} structures have {same}; there is nothing to learn")
    residuals = data.residuals
    if element_references is None:
        element_references = abs(labels.mean) > TOTAL_ENERGY * data.atoms and residuals.std < REMAINING * labels.std
    if element_references and residuals.std < 1e-6:
        raise DataError(
            f"{data.source}: {data.label} follows from the composition of the {labels.count:,} structures; there is "
            "nothing left to learn. Add structures, or use --element-references off"
        )
    return element_references, residuals if element_references else labels


def _require_known_elements(data: OwnData, validation: Path) -> None:
    known = np.unique(np.concatenate(data.numbers))
    for index, record in enumerate(Records(validation)):
        unknown = np.setdiff1d(record.atomic_numbers.numpy(), known)
        if len(unknown):
            symbol = chemical_symbols[int(unknown[0])]
            raise DataError(
                f"{validation}, record {index}: contains {symbol}, which no training structure has, so its energy per "
                "atom is not known; move such structures to train"
            )


def _source(path: Path, mapping: dict[str, str]) -> dict[str, Any]:
    return {"format": "safe_lmdb", "key_mapping": dict(mapping), "src": str(path.resolve())}


def _set_sizes(
    config: dict[str, Any], data: OwnData, chosen: Collection[Data], labels: Spread, epochs: int | None
) -> None:
    """Set what depends on the number of structures, atoms and neighbours."""
    model, optim = config["model"], config["optim"]
    search = Search(model["cutoff"], model["max_neighbors"])
    neighbors = mean_neighbors(chosen, search, use_pbc=model["use_pbc"])
    steps_per_epoch = steps_of_epoch(optim, labels.count)
    if epochs is None:
        epochs = min(max(round(TRAINING_STEPS / steps_per_epoch), FEWEST_EPOCHS), MOST_EPOCHS)
    model["energy_scale"] = round(data.atoms**-0.5, 2)
    model["mean_neighbors"] = round(max(neighbors, 1.0), 1)
    optim["max_epochs"] = epochs
    optim["eval_every"] = optim["checkpoint_every"] = steps_per_epoch
    # Averages (EMA) forget the initial weights as exp(-steps (1 - decay)).
    forgetting = FORGETTING / (epochs * steps_per_epoch)
    optim["ema_decay"] = round(max(0.0, min(optim["ema_decay"], 1 - forgetting)), 4)
