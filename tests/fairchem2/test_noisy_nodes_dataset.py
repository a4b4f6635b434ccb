"""Noisy Nodes under fairchem-core 2, where the data set moves the atoms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fairchem.core.common.registry import registry
from fc2_data import is2re, system

from fairchem_hdgnn.host.noisy_nodes import add_displacement


@pytest.fixture(scope="module")
def lmdb(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(is2re(tmp_path_factory.mktemp("noisy") / "set", 12))


def dataset(src: str, **noisy_nodes: float) -> Any:
    made = registry.get_dataset_class("fairchem_hdgnn.OC20Dataset")
    return made({"src": src, "dataset_name": "oc20", "noisy_nodes": noisy_nodes})


def test_probability_0_leaves_structures(lmdb: str) -> None:
    found = dataset(lmdb, probability=0.0)
    for index in range(len(found)):
        record, data = add_displacement(system(100 + index)), found[index]
        assert torch.equal(data.pos, record.pos)
        assert torch.equal(data.displacement_forces, record.displacement)
        assert "displacement" not in data


def test_label_is_what_is_left(lmdb: str) -> None:
    """From wherever an atom was put, it leads to the relaxed position, or to an image of it."""
    found = dataset(lmdb, probability=1.0, standard_deviation=0.3)
    for index in range(len(found)):
        record, data = system(100 + index), found[index]
        rest = (data.pos + data.displacement_forces - record.pos_relaxed) / 7.0
        assert torch.allclose(rest, rest.round(), atol=1e-5)


def test_only_free_atoms_of_adsorbate_and_surface_move(lmdb: str) -> None:
    found = dataset(lmdb, probability=1.0, standard_deviation=0.3)
    for index in range(len(found)):
        record, data = system(100 + index), found[index]
        moved = (data.pos != record.pos).any(dim=1)
        assert torch.equal(moved, (record.tags > 0) & (record.fixed == 0))


def test_probability_is_of_structures(lmdb: str) -> None:
    found = dataset(lmdb, probability=0.5, standard_deviation=0.3)
    moved = [not torch.equal(found[index].pos, system(100 + index).pos) for index in range(12) for _ in range(20)]
    assert 0.35 < sum(moved) / len(moved) < 0.65


def test_torchs_seed_decides(lmdb: str) -> None:
    found, positions = dataset(lmdb, probability=1.0, standard_deviation=0.3), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        positions.append(torch.cat([data.pos for data in found]))
    assert torch.equal(positions[0], positions[1])
    assert not torch.equal(positions[0], positions[2])
