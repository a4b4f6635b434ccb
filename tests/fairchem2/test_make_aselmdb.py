"""``fairchem-hdgnn make-aselmdb``: fairchem-core 2 reads from its files what our data set reads from the LMDB."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairchem.core.datasets.base_dataset import create_dataset
from fc2_data import is2re, molecule, system
from torch_geometric.data import Data

from fairchem_hdgnn import cli
from fairchem_hdgnn.data.lmdb import write_lmdb
from fairchem_hdgnn.host.fairchem2 import aselmdb


def write(folder: Path, *records: Data) -> Path:
    folder.mkdir(parents=True)
    write_lmdb(folder, records)
    return folder / "data.lmdb"


def stock(src: Path, **mapping: str) -> Any:
    """fairchem's own data set, as it makes it from a configuration."""
    config = {
        "format": "ase_db",
        "splits": {"train": {"src": str(src)}},
        "transforms": {"common_transform": {"dataset_name": "oc20"}},
        "no_shuffle": True,
        "a2g_args": {"r_energy": True, "r_forces": "forces" in mapping},
        "key_mapping": mapping,
    }
    return create_dataset(config, "train")


def ours(src: Path, **mapping: str) -> Any:
    config = {"format": "fairchem_hdgnn.OC20Dataset", "dataset_name": "oc20", "key_mapping": mapping}
    return create_dataset({**config, "splits": {"train": {"src": str(src)}}, "no_shuffle": True}, "train")


def assert_same_structures(one: Any, other: Any) -> None:
    assert len(one) == len(other)
    for left, right in ((one[index], other[index]) for index in range(len(other))):
        assert left.sid == right.sid
        for key in ("pos", "cell", "atomic_numbers", "tags", "fixed", "pbc"):
            assert torch.allclose(left[key], right[key], atol=1e-5), key


def test_is2re(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lmdb, out = is2re(tmp_path / "lmdb", 7), tmp_path / "ase"
    assert cli.main(["make-aselmdb", str(lmdb), str(out)]) == 0
    assert "7 systems, 7 energies, 0 with forces" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["data.0000.aselmdb", "metadata.npz"]
    theirs, own = stock(out, energy="relaxed_energy"), ours(lmdb, y_relaxed="relaxed_energy")
    assert_same_structures(theirs, own)
    for index in range(7):
        assert torch.equal(theirs[index].relaxed_energy, own[index].relaxed_energy)
        assert theirs.get_metadata("natoms", index) == own.get_metadata("natoms", index)


def test_oc20s_forces_of_unrelaxed_structures_are_no_label(tmp_path: Path) -> None:
    """OC20's IS2RE records hold ``force`` and ``y_init``, which do not go with the relaxed energy."""
    record = system(1)
    record.force = torch.ones_like(record.pos)
    atoms, data = aselmdb.atoms_of(record)
    assert atoms.calc is None
    assert data == {"sid": "1", "energy": record.y_relaxed}


@pytest.mark.parametrize("names", [("y", "force"), ("energy", "forces")])
def test_s2ef(tmp_path: Path, names: tuple[str, str]) -> None:
    frames = [system(3, frame) for frame in range(5)]
    for record in frames:
        y, force = record.y, record.force
        del record.y, record.force
        record[names[0]], record[names[1]] = y, force
    lmdb, out = write(tmp_path / "lmdb", *frames), tmp_path / "ase"
    assert cli.main(["make-aselmdb", str(lmdb), str(out)]) == 0
    theirs = stock(out, energy="oc20_energy", forces="oc20_forces")
    own = ours(lmdb, **{names[0]: "oc20_energy", names[1]: "oc20_forces"})
    assert_same_structures(theirs, own)
    for index in range(5):
        assert torch.equal(theirs[index].oc20_energy, own[index].oc20_energy)
        assert torch.equal(theirs[index].oc20_forces, own[index].oc20_forces)


def test_unlabelled(tmp_path: Path) -> None:
    record = system(4)
    del record.y_relaxed, record.y_init
    assert aselmdb.make_aselmdb(write(tmp_path / "lmdb", record), tmp_path / "ase") == {
        "systems": 1,
        "energy": 0,
        "forces": 0,
    }
    assert stock(tmp_path / "ase")[0].sid == ["4"]


def test_molecule_repeats_nowhere(tmp_path: Path) -> None:
    aselmdb.make_aselmdb(write(tmp_path / "lmdb", molecule(1)), tmp_path / "ase")
    (data,) = (stock(tmp_path / "ase")[index] for index in range(1))
    assert data.pbc.tolist() == [[False] * 3]
    assert torch.equal(data.pos, molecule(1).pos)


def test_several_files_keep_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aselmdb, "SYSTEMS_OF_A_FILE", 3)
    lmdb, out = is2re(tmp_path / "lmdb", 7), tmp_path / "ase"
    aselmdb.make_aselmdb(lmdb, out)
    assert len(list(out.glob("*.aselmdb"))) == 3
    assert_same_structures(stock(out), ours(lmdb))
    with np.load(out / "metadata.npz") as metadata:
        assert metadata["natoms"].tolist() == [len(system(100 + index).pos) for index in range(7)]


def test_interrupted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = aselmdb.atoms_of

    def interrupted(record: Data) -> Any:
        if int(record.sid) == 104:
            raise KeyboardInterrupt
        return made(record)

    monkeypatch.setattr(aselmdb, "atoms_of", interrupted)
    lmdb = is2re(tmp_path / "lmdb", 7)
    assert cli.main(["make-aselmdb", str(lmdb), str(tmp_path / "ase")]) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["lmdb"]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: Path) -> str:
    assert cli.main(["make-aselmdb", *map(str, arguments)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    return lines[0]


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lmdb, out = is2re(tmp_path / "lmdb", 2), tmp_path / "ase"
    assert "does not exist" in refusal(capsys, tmp_path / "none.lmdb", out)
    damaged = system(1)
    damaged.y_relaxed = "much"
    line = refusal(capsys, write(tmp_path / "text", system(0), damaged), out)
    assert "record 1" in line
    assert "'y_relaxed' is not a number" in line
    assert not out.exists()
    out.mkdir()
    (out / "mine").touch()
    assert f"{out} exists already: remove it or choose another path" in refusal(capsys, lmdb, out)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "ase_db_backends" else found(name, *rest)
    )
    assert "pip install ase-db-backends" in refusal(capsys, lmdb, tmp_path / "other")
