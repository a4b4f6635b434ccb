"""``fairchem_hdgnn.OC20Dataset`` gives what the records hold, and one line where they cannot be used."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairchem.core.common.registry import registry
from fairchem.core.datasets.collaters.mt_collater import MTCollater
from fairchem.core.units.mlip_unit.mlip_unit import DEFAULT_EXCLUDE_KEYS
from fc2_data import is2re, molecule, system
from torch.utils.data import DataLoader
from torch_geometric.data import Data

import fairchem_hdgnn
from fairchem_hdgnn.data.lmdb import write_lmdb
from fairchem_hdgnn.errors import ConfigError, DataError, UserError

LABEL = {"key_mapping": {"y_relaxed": "relaxed_energy"}}


def dataset(src: Any, **keys: Any) -> Any:
    """As fairchem makes it from a configuration."""
    made = registry.get_dataset_class("fairchem_hdgnn.OC20Dataset")
    return made({"src": src, "dataset_name": "oc20", "format": "fairchem_hdgnn.OC20Dataset", **keys})


def collater(*names: str, level: str = "system", dim: int = 1) -> MTCollater:
    spec = {"dim": [dim], "dtype": "float32"}
    tasks = {name: {"level": level, "out_spec": spec, "datasets": ["oc20"]} for name in names}
    return MTCollater(tasks, DEFAULT_EXCLUDE_KEYS)


def write(folder: Path, *records: Data) -> str:
    folder.mkdir(parents=True)
    write_lmdb(folder, records)
    return str(folder / "data.lmdb")


def test_records_as_they_are(tmp_path: Path) -> None:
    found = dataset(str(is2re(tmp_path / "set", 6)), **LABEL)
    assert len(found) == 6
    for index in range(6):
        record, data = system(100 + index), found[index]
        for key in ("pos", "cell", "tags"):
            assert torch.equal(data[key], record[key]), key
        assert torch.equal(data.fixed, record.fixed.long())
        assert torch.equal(data.atomic_numbers, record.atomic_numbers.long())
        assert data.sid == [str(100 + index)]
        assert data.relaxed_energy.tolist() == [pytest.approx(record.y_relaxed, abs=1e-6)]
        assert data.pbc.tolist() == [[True] * 3], "OC20's records hold no pbc and repeat everywhere"
        assert "y_init" not in data


def test_frames(tmp_path: Path) -> None:
    """S2EF: each frame has its own name, energy and forces."""
    src = write(tmp_path / "set", *(system(7, frame) for frame in (0, 35)))
    found = dataset(src, key_mapping={"y": "energy", "force": "forces"})
    assert [found[index].sid for index in range(2)] == [["7_0"], ["7_35"]]
    for index, frame in enumerate((0, 35)):
        assert torch.equal(found[index].forces, system(7, frame).force)
        assert found[index].energy.tolist() == [pytest.approx(system(7, frame).y, abs=1e-6)]


def test_a_label_that_is_named_has_to_be_there(tmp_path: Path) -> None:
    record = system(1)
    del record.y_relaxed
    path = write(tmp_path / "test", record)
    with pytest.raises(
        DataError, match=r"test.*, record 0: no 'y_relaxed', which key_mapping names; .*omit key_mapping"
    ):
        dataset(path, **LABEL)[0]
    with pytest.raises(DataError, match=r"no 'y_relaxd', .* did you mean 'y_relaxed'"):
        dataset(write(tmp_path / "train", system(1)), key_mapping={"y_relaxd": "relaxed_energy"})[0]
    assert "relaxed_energy" not in dataset(path)[0]


def test_batch_keeps_a_molecule_alone(tmp_path: Path) -> None:
    """fairchem's list of attributes to leave out names ``pbc``, and a molecule must not meet its images."""
    found = dataset(write(tmp_path / "set", molecule(1), system(2)), **LABEL)
    batch = collater("relaxed_energy")([found[0], found[1]])
    assert batch.pbc.tolist() == [[False] * 3, [True] * 3]
    assert batch.cell[0].abs().sum() == 0
    keys = {"lmax": 1, "num_layers": 1, "sphere_channels": 4, "hidden_channels": 4, "cutoff": 5.0, "max_neighbors": 40}
    backbone = fairchem_hdgnn.ESCNBackbone(**keys, edge_channels=4, use_pbc=True, otf_graph=True, mmax=1)
    _, edge_index, _, system_of, _ = backbone.plain_graph(batch)
    assert (system_of[edge_index[1]] == 0).sum() == 6, "each of three atoms sees the two others, once"
    assert (system_of[edge_index[1]] == 1).sum() > found[1].natoms.item() * (found[1].natoms.item() - 1)


def test_parts_of_one_set(tmp_path: Path) -> None:
    """A folder of files, as S2EF's are, and a list of places."""
    for part in range(2):
        is2re(tmp_path / f"{part}", 3, first=10 * part).rename(tmp_path / f"data.000{part}.lmdb")
    expected = ["0", "1", "2", "10", "11", "12"]
    for src in (str(tmp_path), [str(tmp_path / f"data.000{part}.lmdb") for part in range(2)]):
        found = dataset(src, **LABEL)
        assert [found[index].sid[0] for index in range(len(found))] == expected
        assert [found.get_metadata("natoms", index) for index in range(6)] == [len(data.pos) for data in found]


@pytest.mark.parametrize("state", ["present", "absent", "of another set"])
def test_numbers_of_atoms(tmp_path: Path, state: str) -> None:
    """The load balancer gets them whatever lies beside the file."""
    path = is2re(tmp_path / "set", 5)
    beside = path.with_name("metadata.npz")
    if state == "absent":
        beside.unlink()
    elif state == "of another set":
        np.savez(beside, natoms=np.array([3, 3]))
    found = dataset(str(path), **LABEL)
    assert found.metadata_hasattr("natoms")
    natoms = found.get_metadata("natoms", np.arange(5))
    assert natoms.tolist() == [len(system(100 + index).pos) for index in range(5)]
    assert np.issubdtype(natoms.dtype, np.integer)


def test_worker_processes(tmp_path: Path) -> None:
    """The open files stay behind, and each process opens its own."""
    found = dataset(str(is2re(tmp_path / "set", 8)), **LABEL)
    again = pickle.loads(pickle.dumps(found))
    assert torch.equal(again[3].pos, found[3].pos)
    loader = DataLoader(
        found, batch_size=2, num_workers=1, collate_fn=collater("relaxed_energy"), multiprocessing_context="spawn"
    )
    assert [name for batch in loader for name in batch.sid] == [str(100 + index) for index in range(8)]


def _no_sid(folder: Path) -> dict[str, Any]:
    record = system(1)
    del record.sid
    return {"src": write(folder, record)}


def _label_of_text(folder: Path) -> dict[str, Any]:
    record = system(1)
    record.y_relaxed = "much"
    return {"src": write(folder, record)}


def _too_many_numbers(folder: Path) -> dict[str, Any]:
    record = system(1)
    record.y_relaxed = torch.zeros(2)
    return {"src": write(folder, record)}


def _no_relaxed_positions(folder: Path) -> dict[str, Any]:
    record = system(1)
    del record.pos_relaxed
    return {"src": write(folder, record), "noisy_nodes": {"probability": 0.5}}


def _damaged_metadata(folder: Path) -> dict[str, Any]:
    path = is2re(folder, 2)
    path.with_name("metadata.npz").write_bytes(b"PK no archive")
    return {"src": str(path)}


def _truncated(folder: Path) -> dict[str, Any]:
    path = is2re(folder, 2)
    path.write_bytes(path.read_bytes()[:8192])
    return {"src": str(path)}


MISTAKES = {
    "missing file": (lambda folder: {"src": str(folder / "data.lmdb")}, DataError, "does not exist"),
    "truncated file": (_truncated, DataError, "truncated"),
    "unknown key": (
        lambda folder: {"src": "x", "key_maping": {}},
        ConfigError,
        "unknown key 'key_maping'.*key_mapping",
    ),
    "no src": (lambda folder: {"src": None}, ConfigError, "needs 'src'"),
    "no name": (lambda folder: {"src": "x", "dataset_name": ""}, ConfigError, "needs 'dataset_name'"),
    "no sid": (_no_sid, DataError, "record 0: .*no 'sid'"),
    "text for a number": (_label_of_text, DataError, "record 0: .*'y_relaxed' is not a number"),
    "two numbers for one": (_too_many_numbers, DataError, r"record 0: .*'y_relaxed' has shape \[2\]"),
    "no relaxed positions": (_no_relaxed_positions, DataError, "record 0: no 'pos_relaxed'"),
    "damaged metadata": (_damaged_metadata, DataError, "metadata.npz: .*remove it or re-create it"),
    "probability": (lambda folder: {"src": str(is2re(folder, 1)), "noisy_nodes": {"probability": 2}}, ConfigError, "1"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(tmp_path: Path, name: str) -> None:
    keys, kind, text = MISTAKES[name]
    with pytest.raises(kind, match=text) as raised:
        found = dataset(**{**LABEL, **keys(tmp_path / "set")})
        found.get_metadata("natoms", 0)
        found[0]
    assert isinstance(raised.value, UserError)
    assert len(str(raised.value).splitlines()) == 1


def test_beyond_the_end(tmp_path: Path) -> None:
    found = dataset(str(is2re(tmp_path / "set", 2)), **LABEL)
    with pytest.raises(IndexError):
        found[2]
