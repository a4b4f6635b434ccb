"""Records as other programs write them train like our own: float64 positions, labels as numpy arrays."""

from __future__ import annotations

import pickle
from pathlib import Path

import lmdb
import numpy as np
import pytest
import small_runs
import yaml


@pytest.mark.parametrize("shape", [(), (1,)], ids=["no dimension", "one dimension"])
def test_float64_positions_and_numpy_labels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Two trainings on the same systems, written in two ways."""
    results = []
    for name in ("usual", "others"):
        config = yaml.safe_load(small_runs.write_config(tmp_path / name).read_text())
        for split in ("train", "val"):
            config["dataset"][split]["format"] = "safe_lmdb"
            if name == "others":
                rewrite(tmp_path / name / split / "data.lmdb", shape)
        (tmp_path / name / "config.yml").write_text(yaml.safe_dump(config))
        small_runs.train(tmp_path / name / "config.yml", "run")
        results.append(small_runs.losses(tmp_path / name, "run"))
    usual, others = results
    assert usual.keys() == others.keys() and len(usual) > 5
    np.testing.assert_allclose(list(others.values()), list(usual.values()), rtol=1e-2)


def rewrite(path: Path, shape: tuple[int, ...]) -> None:
    environment = lmdb.open(str(path), map_size=1 << 26, subdir=False, meminit=False)
    with environment.begin(write=True) as transaction:
        for index in range(pickle.loads(transaction.get(b"length"))):
            record = pickle.loads(transaction.get(f"{index}".encode()))
            record.pos, record.cell = record.pos.double(), record.cell.double()
            record.y_relaxed = np.full(shape, record.y_relaxed)
            transaction.put(f"{index}".encode(), pickle.dumps(record))
    environment.close()
