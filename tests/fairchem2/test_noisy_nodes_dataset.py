"""Noisy Nodes under fairchem-core 2, where the data set moves the atoms."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairchem.core.common.registry import registry
from fairchem.core.datasets.mt_concat_dataset import create_concat_dataset
from fc2_data import is2re, system
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from fairchem_hdgnn.host.fairchem2.callbacks import ResumeNotice
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


def positions_of_epoch(
    lmdb: str, epoch: int, seed: int = 0, num_workers: int = 0, resumed: bool = False
) -> torch.Tensor:
    """All positions that a training with the callback sees, in the order of the file."""
    split = {"src": lmdb, "noisy_nodes": {"probability": 1.0, "standard_deviation": 0.3}}
    config = {"format": "fairchem_hdgnn.OC20Dataset", "dataset_name": "oc20", "seed": seed, "splits": {"train": split}}
    mixed = create_concat_dataset(OmegaConf.create({"oc20": config}), {"sampling": {"type": "balanced"}})
    loader = DataLoader(mixed, batch_size=None, num_workers=num_workers)
    state = SimpleNamespace(train_state=SimpleNamespace(dataloader=loader))
    progress = SimpleNamespace(num_epochs_completed=epoch, num_steps_completed=1 if resumed else 0)
    unit = SimpleNamespace(train_progress=progress, model=torch.nn.Identity())
    (ResumeNotice().on_train_start if resumed else ResumeNotice().on_train_epoch_start)(state, unit)
    torch.rand(epoch + num_workers)
    return torch.cat([data.pos for data in sorted(loader, key=lambda data: data.sid[0])])


def test_seed_epoch_and_record_decide(lmdb: str) -> None:
    """And neither the process that reads nor what was drawn before, so that a resume changes nothing."""
    first = positions_of_epoch(lmdb, 3)
    assert torch.equal(first, positions_of_epoch(lmdb, 3, num_workers=2))
    assert torch.equal(first, positions_of_epoch(lmdb, 3, resumed=True))
    assert not torch.equal(first, positions_of_epoch(lmdb, 4))
    assert not torch.equal(first, positions_of_epoch(lmdb, 3, seed=1))


def test_torchs_seed_decides_where_nobody_tells_the_epoch(lmdb: str) -> None:
    found, positions = dataset(lmdb, probability=1.0, standard_deviation=0.3), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        positions.append(torch.cat([data.pos for data in found]))
    assert torch.equal(positions[0], positions[1])
    assert not torch.equal(positions[0], positions[2])
