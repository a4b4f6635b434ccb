"""``train.lmdb`` beside ``val.lmdb``: several splits, each of which can be named, and not one set."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from fairchem.core.common import distutils
from small_runs import arguments, write_config, write_lmdb

from fairchem_hdgnn import SafeLmdbDataset
from fairchem_hdgnn.checks.recipe import make_recipe
from fairchem_hdgnn.cli import main
from fairchem_hdgnn.data.lmdb import lmdb_files
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.data.splits import has_split, split_source
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.evaluation.expected import expected_systems
from fairchem_hdgnn.evaluation.splits import VALIDATION_SPLITS

SIZES = {"train": 8, "val_id": 3, "val_ood_ads": 2, "val_ood_cat": 4, "val_ood_both": 5}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """All splits as files of one folder."""
    for seed, (name, size) in enumerate(SIZES.items()):
        write_lmdb(tmp_path / "flat" / f"{name}.lmdb", size, seed)
    (tmp_path / "flat/metadata.npz").unlink()
    return tmp_path / "flat"


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val"),
        ("Train", "VALID", "test"),
        ("training", "validation"),
        ("val_id", "val_ood_ads"),
        ("val_ood_cat", "val_ood_both"),
        ("is2re_train", "is2re_test"),
        ("train-10k", "val-10k"),
        ("test_run.train", "test_run.val"),
        ("train.0000", "train.0001", "val.0000"),
        ("data.0000", "train", "test_id"),
    ],
)
def test_files_of_several_splits_are_not_one_set(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / f"{name}.lmdb").touch()
    listed = ", ".join(sorted(f"{name}.lmdb" for name in names if name not in ("data.0000", "train.0001")))
    with pytest.raises(DataError) as error:
        lmdb_files(tmp_path)
    assert f"{tmp_path} contains several splits, not one data set ({listed}): give one of these files" in str(
        error.value
    )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "names",
    [
        ("data",),
        ("train",),
        tuple(f"data.{index:04}" for index in range(12)),
        ("train.0000", "train.0001"),
        ("val_id_0", "val_id_1"),
        ("test_1", "test_2"),
        ("cat", "both"),
        ("trainable", "latest"),
        ("data", "train"),
    ],
)
def test_shards_stay_one_set(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / f"{name}.lmdb").touch()
    assert [file.stem for file in lmdb_files(tmp_path)] == sorted(names)


def test_where_a_split_lies(tmp_path: Path, root: Path) -> None:
    assert split_source(root, "val_id") == root / "val_id.lmdb" and has_split(root, "val_id")
    (root / "val_id").mkdir()
    assert split_source(root, "val_id") == root / "val_id.lmdb", "an empty folder is no split"
    shutil.copy(root / "val_id.lmdb", root / "val_id/data.0000.lmdb")
    assert split_source(root, "val_id") == root / "val_id"
    shutil.copy(root / "val_id.lmdb", root / "val_id/data.lmdb")
    assert split_source(root, "val_id") == root / "val_id/data.lmdb"
    assert not has_split(root, "test_id")
    with pytest.raises(DataError, match=r"no LMDB for split 'val' \(it has train, val_id, val_ood_ads, val_ood_both"):
        split_source(root, "val")
    with pytest.raises(DataError, match=r"it has no splits\); create it with make-lmdb"):
        split_source(tmp_path / "flat/val_id", "train")
    with pytest.raises(DataError, match=r"no such folder; give the one with val/data.lmdb or val.lmdb"):
        split_source(root / "train.lmdb", "val")
    (root / "test").mkdir()
    (root / "test/a.db").touch()
    with pytest.raises(DataError, match=r"contains no .lmdb file but a.db, an ASE database"):
        split_source(root, "test")


def test_readers_refuse_the_folder_and_take_the_file(root: Path, capsys: pytest.CaptureFixture) -> None:
    for command in ("inspect", "target-stats"):
        assert main([command, str(root)]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "contains several splits, not one data set (train.lmdb, val_id.lmdb, " in line
        assert main([command, str(root / "train.lmdb")]) == 0
        assert "8 records" in capsys.readouterr().out
    with pytest.raises(DataError, match="contains several splits"):
        SafeLmdbDataset({"src": str(root)})
    with pytest.raises(DataError, match="contains several splits"):
        Records(root)


def test_a_recipe_from_files(root: Path) -> None:
    dataset = make_recipe(root).config["dataset"]
    assert (dataset["train"]["src"], dataset["val"]["src"]) == (
        str((root / "train.lmdb").resolve()),
        str((root / "val_id.lmdb").resolve()),
    )
    with pytest.raises(DataError, match=r"split 'val_id' \(it has train, val_ood"):
        (root / "val_id.lmdb").unlink()
        make_recipe(root)


def test_a_submission_from_files(root: Path) -> None:
    systems = expected_systems(root, "val", progress=False)
    assert [len(each.ids) for each in systems.values()] == [SIZES[split] for split in VALIDATION_SPLITS]
    with pytest.raises(DataError, match="has validation splits only; use --prefix val"):
        expected_systems(root, progress=False)


@pytest.mark.parametrize("form", ["lmdb", "safe_lmdb"])
def test_a_config_that_names_such_a_folder(root: Path, tmp_path: Path, capfd: pytest.CaptureFixture, form: str) -> None:
    """fairchem's own data set would train on the validation systems too."""
    path = write_config(tmp_path / "run")
    config = yaml.safe_load(path.read_text())
    config["dataset"]["train"].update(src=str(root), format=form)
    path.write_text(yaml.safe_dump(config))
    message = f"dataset.train: {root} contains several splits, not one data set (train.lmdb, val_id.lmdb, "
    assert main(["check", str(path)]) == 1
    found = capfd.readouterr()
    assert message in found.out + found.err
    try:
        assert main(["train", *arguments(path, "run")]) == 2
    finally:
        distutils.cleanup()
    found = capfd.readouterr()
    assert message.removeprefix("dataset.train: ") in found.err
