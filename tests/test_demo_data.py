"""The relaxed structures that come with the demonstration: whole, and what relaxing again would give."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import session_members

from fairchem_hdgnn.data.lmdb import open_lmdb, read_length, read_record
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.host.fairchem1.config_files import read_config
from fairchem_hdgnn.host.shipped import shipped_configs
from make_data import PROGRAM, main
from running.training import CONFIG
from structures.adsorbates import place
from structures.archive import SUPPLIED, read_archive
from structures.build import build_data, unpack_data
from structures.slabs import build_slab
from structures.splits import candidates, split_sizes
from structures.system import Relaxed, System, relax_candidate

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def supplied() -> Relaxed:
    return read_archive()


def test_supplied_file_is_small_and_of_the_default_sizes(supplied: Relaxed) -> None:
    assert SUPPLIED.stat().st_size <= 1_500_000
    assert supplied.sizes == split_sizes(500, 100, 0)
    assert supplied.seed == 0


@pytest.mark.parametrize(("split", "index"), [("train", 0), ("train", 499), ("val_ood_ads", 50), ("val_ood_both", 99)])
def test_supplied_systems_are_what_relaxing_gives(supplied: Relaxed, split: str, index: int) -> None:
    stored = supplied.splits[split][index]
    candidate = next(
        candidate
        for candidate in candidates(split, supplied.sizes, supplied.seed)
        if (str(candidate.slab), candidate.adsorbate) == (stored.slab, stored.adsorbate)
    )
    again = relax_candidate(candidate)
    assert isinstance(again, System)
    np.testing.assert_array_equal(again.start.numbers, stored.start.numbers)
    np.testing.assert_array_equal(again.start.get_tags(), stored.start.get_tags())
    np.testing.assert_allclose(again.start.positions, stored.start.positions, atol=1e-5)
    np.testing.assert_allclose(again.start.cell.array, stored.start.cell.array, atol=1e-5)
    np.testing.assert_allclose(again.pos_relaxed, stored.pos_relaxed, atol=1e-3)
    assert again.y_init == pytest.approx(stored.y_init, abs=1e-4)
    assert again.y_relaxed == pytest.approx(stored.y_relaxed, abs=1e-4)


def test_the_last_bit_does_not_choose_the_site() -> None:
    """Processors round differently; the sites on a square lattice must not depend on it."""
    rng = np.random.default_rng(0)
    for candidate in islice(candidates("train", split_sizes(500, 100, 0), 0), 60):
        slab = build_slab(candidate.slab)
        shaken = slab.copy()
        shaken.positions += rng.normal(scale=1e-13, size=slab.positions.shape)
        placed, placed_on_shaken = (
            place(candidate.adsorbate, each, np.random.default_rng(candidate.seed)) for each in (slab, shaken)
        )
        np.testing.assert_allclose(placed.positions, placed_on_shaken.positions, atol=1e-6)


def test_config_normalizes_by_the_supplied_training_set(supplied: Relaxed) -> None:
    energies = [system.y_relaxed for system in supplied.splits["train"]]
    normalizer = read_config(str(shipped_configs() / CONFIG))["dataset"]["train"]["transforms"]["normalizer"]["energy"]
    assert normalizer == pytest.approx({"mean": np.mean(energies), "stdev": np.std(energies)}, abs=1e-4)


@pytest.mark.heavy
def test_data_from_a_file_are_those_that_were_relaxed(tmp_path: Path) -> None:
    built = build_data(tmp_path / "built", train=1, val=1, test=1, seed=3, workers=1, archive=tmp_path / "some.npz")
    assert unpack_data(tmp_path / "unpacked", tmp_path / "some.npz") == built
    for split in built["sizes"]:
        built_lmdb, unpacked = (open_lmdb(tmp_path / name / split / "data.lmdb") for name in ("built", "unpacked"))
        assert read_length(built_lmdb) == read_length(unpacked) == built["sizes"][split]
        for index in range(read_length(built_lmdb)):
            left, right = read_record(built_lmdb, index).to_dict(), read_record(unpacked, index).to_dict()
            assert left.keys() == right.keys()
            for key, value in left.items():
                same = torch.equal(value, right[key]) if torch.is_tensor(value) else value == right[key]
                assert same, (split, index, key)
                assert type(value) is type(right[key])


def damaged_files(folder: Path) -> list[Path]:
    content = SUPPLIED.read_bytes()
    middle = len(content) // 2
    damages = {
        "cut": content[:middle],
        "altered": content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :],
        "empty": b"",
        "other": b"no archive",
    }
    for name, damaged in damages.items():
        (folder / f"{name}.npz").write_bytes(damaged)
    np.savez(folder / "arrays.npz", natoms=np.ones(3))
    with np.load(SUPPLIED) as file:
        arrays = dict(file)
    np.savez(folder / "shorter.npz", **{**arrays, "pos": arrays["pos"][:-1]})
    np.savez(folder / "infinite.npz", **{**arrays, "y_relaxed": np.full(900, np.inf)})
    return sorted([*folder.glob("*.npz"), folder / "missing.npz"])


def test_damaged_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    files = damaged_files(tmp_path)
    assert len(files) == 8
    for file in files:
        with pytest.raises(DataError, match=rf"{file.name} is missing or damaged .*demo/make_data\.py") as error:
            unpack_data(tmp_path / "data", file)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "data").exists()


def test_archive_of_finished_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The relaxed systems are not kept, so they would have to be made again."""
    unpack_data(tmp_path / "data")
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "data"), "--archive", str(tmp_path / "file.npz")])
    assert stop.value.code == 2
    assert "exists already" in capsys.readouterr().err


def test_terminated_relaxations_leave_nothing_behind(tmp_path: Path) -> None:
    program = [sys.executable, str(ROOT / PROGRAM), str(tmp_path / "data"), "--workers", "2"]
    with (tmp_path / "errors").open("w") as errors:
        process = subprocess.Popen(program, stderr=errors, start_new_session=True)
    deadline = time.monotonic() + 120
    while "1/900" not in (tmp_path / "errors").read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(session_members(process.pid)) > 2
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    printed = (tmp_path / "errors").read_text()
    assert "ended by SIGTERM" in printed
    assert "Traceback" not in printed
    deadline = time.monotonic() + 10
    while session_members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert session_members(process.pid) == []
    assert [path.name for path in tmp_path.iterdir()] == ["errors"]
