"""The whole way: structures, LMDBs, training, scores, predictions of unlabelled splits, a checked leaderboard file."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import small_runs
import yaml
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.io import write
from fairchem.core.scripts.make_submission_file import write_predictions

from fairchem_hdgnn.cli import main
from fairchem_hdgnn.data.npz import read_npz
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.evaluation.origin import origin_of
from fairchem_hdgnn.evaluation.splits import SUFFIXES, TEST_SPLITS, VALIDATION_SPLITS

SIZES = dict(zip(SUFFIXES, (7, 6, 5, 4)))


def structures(num: int, first_sid: int) -> list[Atoms]:
    """Slabs with H or O; the label is in ``info``, and follows from metal and adsorbate."""
    random = np.random.default_rng(first_sid)
    made = []
    for index in range(num):
        metal, adsorbate = random.choice(["Cu", "Pt"]), random.choice(["H", "O"])
        atoms = fcc111(metal, (2, 2, 2), vacuum=6.0)
        add_adsorbate(atoms, adsorbate, 1.2, "fcc")
        atoms.rattle(0.1, seed=first_sid + index)
        atoms.info = {
            "sid": first_sid + index,
            "y_relaxed": -1.0 + 0.8 * (metal == "Pt") + 0.4 * (adsorbate == "O") + 0.05 * random.normal(),
        }
        made.append(atoms)
    return made


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """LMDBs made by ``make-lmdb``: training, validation and unlabelled test splits."""
    root = tmp_path_factory.mktemp("leaderboard")
    (root / "source").mkdir()
    splits = {"train": 24, **dict(zip(VALIDATION_SPLITS, SIZES.values())), **dict(zip(TEST_SPLITS, SIZES.values()))}
    for position, (split, num) in enumerate(splits.items(), start=1):
        source = root / f"source/{split}.extxyz"
        write(source, structures(num, 1000 * position))
        unlabelled = ["--unlabelled"] if split.startswith("test") else []
        assert main(["make-lmdb", str(source), str(root / "data" / split), "--task", "is2re", *unlabelled]) == 0
    return root


@pytest.fixture(scope="module")
def checkpoint(root) -> Path:
    config = yaml.safe_load(small_runs.write_config(root / "template").read_text())
    for split, folder in (("train", "train"), ("val", "val_id")):
        config["dataset"][split].update(src=str(root / "data" / folder / "data.lmdb"), format="safe_lmdb")
    config["dataset"]["train"]["transforms"]["normalizer"]["energy"] = {"mean": -0.4, "stdev": 0.45}
    config["optim"].update(max_epochs=6, eval_every=18, checkpoint_every=18, lr_initial=0.01)
    (root / "config.yml").write_text(yaml.safe_dump(config))
    small_runs.train(root / "config.yml", "run")
    return root / "checkpoints/run/best_checkpoint.pt"


def test_test_splits_hold_no_labels(root):
    for split, size in zip(TEST_SPLITS, SIZES.values()):
        records = list(Records(root / "data" / split))
        assert len(records) == size and not any("y_relaxed" in record for record in records)


def test_from_checkpoint_to_a_checked_submission(root, checkpoint, tmp_path, capsys):
    data = ["--data", str(root / "data")]
    scores = tmp_path / "scores"
    evaluate = ["evaluate", "--checkpoint", str(checkpoint), *data, "--cpu", "--bootstrap", "50", "--plots"]
    assert main([*evaluate, "--out", str(scores)]) == 0
    report = json.loads((scores / "table.json").read_text())
    mae = next(row for name, row in report["scores"]["mae"].items() if "HDGNN" in name)
    assert mae["val_id"]["low"] <= mae["val_id"]["value"] <= mae["val_id"]["high"]
    for plot in ("parity", "errors_by_group", "ewt", "learning_curve"):
        assert (scores / f"{plot}.png").stat().st_size > 10_000

    assert main(["predict", "--checkpoint", str(checkpoint), *data, "--cpu", "--out", str(tmp_path / "p")]) == 0
    files = {suffix: tmp_path / "p" / f"test_{suffix}.npz" for suffix in SUFFIXES}
    assert {origin_of(file).name for file in files.values()} == {str(checkpoint)}
    given = [item for suffix in SUFFIXES for item in (f"--{suffix.replace('_', '-')}", str(files[suffix]))]
    submission = tmp_path / "submission.npz"
    make = ["make-submission", *given, *data, "--counts", "any", "--out", str(submission)]
    capsys.readouterr()
    assert main(make) == 0
    assert "Hugging Face" in capsys.readouterr().out
    assert main(["check-submission", str(submission), *data, "--counts", "any"]) == 0

    theirs = tmp_path / "theirs.npz"
    paths = {suffix: str(file) for suffix, file in files.items()}
    write_predictions(Namespace(dataset="OC20", out_path=str(theirs), is2re_relaxations=False, **paths))
    ours, expected = read_npz(submission), read_npz(theirs)
    assert set(ours) == set(expected) and len(ours) == 8
    for key, values in expected.items():
        np.testing.assert_array_equal(ours[key], values)
        assert ours[key].dtype == values.dtype
    for suffix in SUFFIXES:
        stored = sorted(str(record.sid) for record in Records(root / "data" / f"test_{suffix}"))
        assert ours[f"{suffix}_ids"].tolist() == stored and ours[f"{suffix}_energy"].dtype == np.float32


def swapped(files: dict[str, Path]) -> dict[str, Path]:
    return {**files, "id": files["ood_ads"], "ood_ads": files["id"]}


def edit(files: dict[str, Path], suffix: str, **changes) -> dict[str, Path]:
    arrays = read_npz(files[suffix])
    path = files[suffix].with_name(f"edited_{suffix}.npz")
    np.savez(path, **{**arrays, **{key: change(arrays[key]) for key, change in changes.items()}})
    return {**files, suffix: path}


def with_nan(energy: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(energy)) == 2, np.nan, energy).astype(np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swapped, "id: swapped splits: these ids are those of ood_ads"),
        (lambda f: edit(f, "id", ids=lambda i: i[:-1], energy=lambda e: e[:-1]), "id: 1 missing id of"),
        (lambda f: edit(f, "id", ids=lambda i: np.append(i[:-1], i[0])), "id: 1 duplicate id"),
        (lambda f: edit(f, "ood_cat", energy=with_nan), "ood_cat: energy: 1 value NaN or infinite (first: "),
        (lambda f: edit(f, "ood_both", energy=lambda e: e.astype(np.float16)), "ood_both: energy: float16"),
    ],
    ids=["swapped", "missing", "duplicate", "nan", "float16"],
)
def test_faulty_predictions_are_refused_by_name(root, checkpoint, tmp_path, capsys, change, message):
    data = ["--data", str(root / "data")]
    assert main(["predict", "--checkpoint", str(checkpoint), *data, "--cpu", "--out", str(tmp_path)]) == 0
    files = change({suffix: tmp_path / f"test_{suffix}.npz" for suffix in SUFFIXES})
    given = [item for suffix in SUFFIXES for item in (f"--{suffix.replace('_', '-')}", str(files[suffix]))]
    out = tmp_path / "submission.npz"
    assert main(["make-submission", *given, *data, "--counts", "any", "--out", str(out)]) == 2
    assert message in capsys.readouterr().err and not out.exists()
