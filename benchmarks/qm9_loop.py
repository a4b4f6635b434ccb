"""QM9 for :mod:`plain_loop`: molecules on one device, and the network of a shipped configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from plain_loop import Task
from torch import Tensor, nn

from fairchem_hdgnn.data.qm9_targets import PUBLISHED_MAE, TARGETS
from fairchem_hdgnn.models.escn.network import ESCNNetwork
from fairchem_hdgnn.models.hdgnn.network import HDGNNNetwork

GRAPH_KEYS = {"name", "use_pbc", "use_pbc_single", "otf_graph", "max_neighbors", "output_name"}
NETWORKS = {"fairchem_hdgnn.HDGNN": HDGNNNetwork, "fairchem_hdgnn.ESCN": ESCNNetwork}


def read_config(path: Path) -> dict[str, Any]:
    """A YAML with its includes, merged as fairchem does."""
    config = yaml.safe_load(path.read_text())
    merged: dict[str, Any] = {}
    for include in config.pop("includes", []):
        merged = _merge(merged, read_config(path.parent / include))
    return _merge(merged, config)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merge(result[key], value) if both else value
    return result


class Molecules:
    """All molecules on one device, padded to the largest: a batch and its edges are a few indexing operations."""

    def __init__(self, path: Path, target: str, device: torch.device) -> None:
        arrays = np.load(path)
        sizes = np.diff(arrays["offsets"])
        member = np.arange(sizes.max()) < sizes[:, None]
        numbers = np.zeros(member.shape, dtype=np.int64)
        positions = np.zeros((*member.shape, 3), dtype=np.float32)
        numbers[member], positions[member] = arrays["numbers"], arrays["positions"]
        self.numbers = torch.from_numpy(numbers).to(device)
        self.positions = torch.from_numpy(positions).to(device)
        column = list(arrays["target_names"]).index(target)
        self.targets = torch.from_numpy(arrays["targets"][:, column]).to(device)
        self.rows = {name: torch.from_numpy(arrays[name]).long().to(device) for name in ("train", "val", "test")}

    def batch(self, rows: Tensor, cutoff: float) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """Arguments of ``network(...)`` for these molecules."""
        numbers, positions = self.numbers[rows], self.positions[rows]
        member = numbers > 0
        # Distances by products of matrices would lose digits, and edges near the cutoff, where TF32 is allowed.
        distances = torch.cdist(positions, positions, compute_mode="donot_use_mm_for_euclid_dist")
        near = (distances <= cutoff) & member[:, :, None] & member[:, None, :]
        near.diagonal(dim1=1, dim2=2).fill_(False)
        atom = (member.flatten().cumsum(0) - 1).view(member.shape)
        system, target, source = near.nonzero(as_tuple=True)
        edge_index = torch.stack([atom[system, source], atom[system, target]])
        edge_vec = positions[system, source] - positions[system, target]
        return numbers[member], edge_index, edge_vec, member.nonzero()[:, 0], len(rows)


def qm9_task(config: Path, molecules: Path, device: torch.device) -> Task:
    """The target and data of a configuration.

    Args:
        config: YAML of the run; its ``model`` section is used.
        molecules: ``molecules.npz`` that ``prepare-qm9`` wrote, or a part of it with that target.
        device: for the data.
    """
    model = read_config(config)["model"]
    target = TARGETS[model["output_name"]]
    published = {name: row[target.name] for name, row in PUBLISHED_MAE.items()}
    structures = Molecules(molecules, target.name, device)
    unit, factor, cutoff = target.published_unit, target.published_factor, float(model["cutoff"])
    return Task(target.name, unit, factor, structures, cutoff, "val", ("test",), published)


def qm9_network(config: Path, **keys: Any) -> nn.Module:
    """The network of a configuration, with some keys of its ``model`` section changed."""
    model = {**read_config(config)["model"], **keys}
    return NETWORKS[model["name"]]({key: value for key, value in model.items() if key not in GRAPH_KEYS})
