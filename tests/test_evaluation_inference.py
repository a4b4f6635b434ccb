"""Checkpoints of stock fairchem through evaluate, predict, make-submission and the calculator."""

from __future__ import annotations

import argparse
import csv
import json
import os
import pickle
import re
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.data import chemical_symbols
from evaluation_data import SIZES, fairchem, make_records, schnet_config, train, write_splits
from fairchem.core.datasets import LmdbDataset
from torch_geometric.data import Batch

from fairchem_hdgnn.cli import main
from fairchem_hdgnn.cli import predict as predict_command
from fairchem_hdgnn.cli._inference import add_inference_arguments, inference_options
from fairchem_hdgnn.data.lmdb import write_lmdb
from fairchem_hdgnn.data.npz import read_npz
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.data.splits import split_source
from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.evaluation import inference
from fairchem_hdgnn.evaluation.evaluate import checkpoint_names, evaluate
from fairchem_hdgnn.evaluation.inference import InferenceOptions, predict_splits
from fairchem_hdgnn.evaluation.splits import SUFFIXES, VALIDATION_SPLITS
from fairchem_hdgnn.host.checkpoints import read_checkpoint
from fairchem_hdgnn.host.fairchem1.inference import calculator, inference_trainer

QUIET = InferenceOptions(cpu=True, progress=False)


@pytest.fixture(scope="module")
def labelled_root(tmp_path_factory) -> Path:
    return write_splits(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, labelled_root) -> Path:
    """A SchNet trained by stock fairchem for a few steps."""
    return train(tmp_path_factory.mktemp("run"), schnet_config(labelled_root), "schnet")


@pytest.fixture(scope="module")
def evaluation(run_folder, labelled_root):
    checkpoints = {"last": run_folder / "checkpoint.pt", "best": run_folder / "best_checkpoint.pt"}
    return evaluate(checkpoints, labelled_root, VALIDATION_SPLITS, QUIET, num_resamples=50)


def test_mae_is_the_one_that_fairchem_logged(evaluation, run_folder):
    best = torch.load(run_folder / "best_checkpoint.pt", weights_only=True)
    logged = best["val_metrics"]["energy_mae"]["metric"]
    assert evaluation.comparison.scores["mae"]["best"]["val_id"].value == pytest.approx(1000 * logged, rel=1e-5)


@pytest.mark.parametrize(("use_pbc", "periodic"), [(True, True), (False, True), (False, False)])
def test_models_that_know_no_cells_are_told_of_them(use_pbc, periodic):
    records = make_records(2, first_sid=0, seed=0)
    for record in records:
        record.pbc = torch.tensor([[periodic, False, False]])
    model = torch.nn.Sequential(torch.nn.Identity())
    model[0].use_pbc = use_pbc
    assert inference._ignores_cells(model, Batch.from_data_list(records)) == (periodic and not use_pbc)


def test_averaged_weights_are_used(evaluation, run_folder, labelled_root, tmp_path):
    raw = torch.load(run_folder / "checkpoint.pt", weights_only=True)
    raw["ema"] = None
    torch.save(raw, tmp_path / "raw.pt")
    sources = {"val_id": split_source(labelled_root, "val_id")}
    without = predict_splits(tmp_path / "raw.pt", sources, QUIET)["val_id"]
    assert np.abs(without.energy - evaluation.predictions["last"]["val_id"].energy).max() > 1e-3


def test_two_processes_count_every_system_once(evaluation, run_folder, labelled_root, tmp_path):
    sources = {split: split_source(labelled_root, split) for split in ("val_id", "val_ood_both")}
    write_lmdb(tmp_path, make_records(1, 7, 0))
    options = InferenceOptions(cpu=True, progress=False, num_ranks=2)
    shared = predict_splits(run_folder / "best_checkpoint.pt", {**sources, "one": tmp_path / "data.lmdb"}, options)
    assert shared["one"].ids.tolist() == ["7"]
    for split in sources:
        alone = evaluation.predictions["best"][split]
        assert len(shared[split]) == SIZES[split[4:]]
        np.testing.assert_array_equal(shared[split].ids, alone.ids)
        np.testing.assert_allclose(shared[split].energy, alone.energy, atol=1e-5)


def test_facts_of_the_systems(evaluation, labelled_root):
    of_split = evaluation.predictions["best"]["val_id"]
    for record in LmdbDataset({"src": str(labelled_root / "val_id/data.lmdb")}):
        row = of_split.ids.tolist().index(str(record.sid))
        assert of_split.natoms[row] == record.natoms
        assert of_split.target[row] == pytest.approx(record.y_relaxed)
        assert sorted(of_split.adsorbate[row]) == sorted(chemical_symbols[int(z)] for z in record.atomic_numbers[8:])
        assert of_split.elements[row] == chemical_symbols[int(record.atomic_numbers[0])]


def test_median_baseline_is_that_of_the_training_set(evaluation, labelled_root):
    labels = [record.y_relaxed for record in LmdbDataset({"src": str(labelled_root / "train/data.lmdb")})]
    median = np.median(labels)
    target = evaluation.predictions["best"]["val_ood_cat"].target
    expected = 1000 * np.abs(target - median).mean()
    assert evaluation.comparison.scores["mae"]["median baseline"]["val_ood_cat"].value == pytest.approx(
        expected, rel=1e-4
    )
    assert f"always {median:.3f} eV" in evaluation.notes[1] and f"({SIZES['train']} systems)" in evaluation.notes[1]


def test_evaluate_command_prints_and_writes(run_folder, labelled_root, tmp_path, capsys):
    arguments = ["--data", str(labelled_root), "--cpu", "--bootstrap", "20", "--paper", "--out", str(tmp_path / "out")]
    assert main(["evaluate", "--checkpoint", str(run_folder / "best_checkpoint.pt"), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "Energy MAE, meV" in printed and "median" in printed and "GemNet-OC" in printed and "n=9" in printed
    report = json.loads((tmp_path / "out/table.json").read_text())
    assert report["systems"] == {f"val_{suffix}": SIZES[suffix] for suffix in SUFFIXES}
    with (tmp_path / "out/systems.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == sum(SIZES[suffix] for suffix in SUFFIXES)
    mean = np.mean([abs(float(row["error_eV"])) for row in rows if row["split"] == "val_id"])
    model = f"schnet ({run_folder.name})"
    assert report["scores"]["mae"][model]["val_id"]["value"] == pytest.approx(1000 * mean, rel=1e-4)
    stored = list((tmp_path / "out/predictions").rglob("*.npz"))
    assert len(stored) == 4
    arguments[arguments.index("--paper")] = "--splits=val_ood_both"
    assert main(["evaluate", "--checkpoint", str(run_folder / "best_checkpoint.pt"), *arguments]) == 0
    left = capsys.readouterr().out.partition("Not of this evaluation:")[2]
    assert {str(path) for path in stored if path.stem != "val_ood_both"} <= set(left.split())


def test_test_splits_go_to_a_checked_submission(run_folder, labelled_root, tmp_path, capsys):
    data = write_splits(tmp_path / "data", prefix="test", labels=False)
    checkpoint = str(run_folder / "best_checkpoint.pt")
    predict = ["predict", "--checkpoint", checkpoint, "--data", str(data), "--out", str(tmp_path / "p"), "--cpu"]
    assert main(predict) == 0
    advice = re.search(r"Next: fairchem-hdgnn (.*)", capsys.readouterr().out).group(1)
    out = tmp_path / "submission.npz"
    command = advice.replace("submission.npz", str(out)).split()
    assert main(command) == 2
    assert "OC20's IS2RE test set has 24,948" in capsys.readouterr().err and not out.exists()
    assert main([*command, "--counts", "any"]) == 0
    assert "huggingface.co/spaces/facebook/fairchem_leaderboard" in capsys.readouterr().out
    assert main(["check-submission", str(out), "--data", str(data), "--counts", "any"]) == 0

    written = read_npz(out)
    assert {key: values.dtype.kind for key, values in written.items()} == {
        f"{suffix}_{key}": kind for suffix in SUFFIXES for key, kind in (("ids", "U"), ("energy", "f"))
    }
    assert written["ood_ads_energy"].dtype == np.float32
    with pytest.raises(DataError, match="not all records have labels to score against"):
        evaluate({"schnet": Path(checkpoint)}, data, ["test_id"], QUIET)


def test_predictions_are_those_of_fairchems_predict_mode(run_folder, evaluation, labelled_root, tmp_path):
    config = schnet_config(labelled_root)
    shutil.copytree(labelled_root / "val_ood_ads", tmp_path / "test")
    config["dataset"]["test"] = {"src": str(tmp_path / "test/data.lmdb")}
    (tmp_path / "predict.yml").write_text(yaml.safe_dump(config))
    arguments = ["--mode", "predict", "--config-yml", str(tmp_path / "predict.yml"), "--timestamp-id", "p"]
    fairchem(*arguments, "--checkpoint", str(run_folder / "best_checkpoint.pt"), folder=tmp_path)
    theirs = read_npz(tmp_path / "results/p/ocp_predictions.npz")
    ours = evaluation.predictions["best"]["val_ood_ads"]
    np.testing.assert_array_equal(theirs["ids"], ours.ids)
    np.testing.assert_allclose(theirs["energy"][:, 0], ours.energy, atol=1e-5)


def test_calculator_agrees_with_evaluation(evaluation, run_folder, labelled_root):
    calc = calculator(run_folder / "checkpoint.pt", cpu=True)
    of_split = evaluation.predictions["last"]["val_ood_both"]
    for record in LmdbDataset({"src": str(labelled_root / "val_ood_both/data.lmdb")}):
        atoms = Atoms(
            record.atomic_numbers.int().numpy(),
            positions=record.pos.numpy(),
            cell=record.cell[0].numpy(),
            pbc=True,
            tags=record.tags.numpy(),
        )
        atoms.calc = calc
        expected = of_split.energy[of_split.ids.tolist().index(str(record.sid))]
        assert atoms.get_potential_energy() == pytest.approx(expected, abs=1e-4)


# === faults ======================================================================================


class Exploit:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran code of the checkpoint')",))


def test_checkpoint_with_code_is_refused_by_name(run_folder, tmp_path):
    evil = torch.load(run_folder / "best_checkpoint.pt", weights_only=True)
    evil["val_metrics"] = Exploit()
    torch.save(evil, tmp_path / "evil.pt")
    with pytest.raises(DataError, match=r"contains a pickled .*exec, .*--trust-checkpoint"):
        read_checkpoint(tmp_path / "evil.pt")


def test_harmless_object_needs_trust(run_folder, tmp_path):
    checkpoint = torch.load(run_folder / "best_checkpoint.pt", weights_only=True)
    checkpoint["config"]["slurm"] = {"folder": Path("jobs")}
    torch.save(checkpoint, tmp_path / "path.pt")
    with pytest.raises(DataError, match=r"pathlib.*Path"):
        inference_trainer(tmp_path / "path.pt", cpu=True)
    inference_trainer(tmp_path / "path.pt", cpu=True, trusted=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a PyTorch checkpoint, or truncated"),
        (b"PK\x03\x04 half a file", "not a PyTorch checkpoint"),
        (pickle.dumps({"a": 1}), "not a PyTorch checkpoint"),
    ],
)
def test_damaged_checkpoint(content, message, tmp_path):
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(DataError, match=rf"bad\.pt: {message}"):
        read_checkpoint(tmp_path / "bad.pt")


def test_file_that_is_no_fairchem_checkpoint(tmp_path):
    torch.save({"model": torch.zeros(2)}, tmp_path / "weights.pt")
    with pytest.raises(DataError, match=r"not a fairchem checkpoint: no 'config' in it"):
        read_checkpoint(tmp_path / "weights.pt")
    with pytest.raises(DataError, match=r"no such checkpoint; .*/ has: weights.pt"):
        read_checkpoint(tmp_path / "checkpoint.pt")
    with pytest.raises(DataError, match=r"is a folder; give a checkpoint in it; .*/ has: weights.pt"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["nobody.knows.Model", None])
def test_unknown_model_is_named(name, run_folder, tmp_path):
    checkpoint = torch.load(run_folder / "best_checkpoint.pt", weights_only=True)
    checkpoint["config"]["model"]["name"] = name
    torch.save(checkpoint, tmp_path / "unknown.pt")
    with pytest.raises(ConfigError, match=f"its model '{name}' is not registered"):
        inference_trainer(tmp_path / "unknown.pt", cpu=True)


def test_weights_that_do_not_fit(run_folder, tmp_path):
    checkpoint = torch.load(run_folder / "best_checkpoint.pt", weights_only=True)
    checkpoint["config"]["model"]["hidden_channels"] = 8
    torch.save(checkpoint, tmp_path / "other.pt")
    with pytest.raises(DataError, match=r"its weights do not match its model: .*size mismatch"):
        inference_trainer(tmp_path / "other.pt", cpu=True)


def test_splits_may_be_files_of_one_folder(evaluation, run_folder, labelled_root, tmp_path):
    for split in ("train", "val_id"):
        shutil.copy(labelled_root / split / "data.lmdb", tmp_path / f"{split}.lmdb")
    again = evaluate({"last": run_folder / "checkpoint.pt"}, tmp_path, ["val_id"], QUIET, num_resamples=2)
    expected, found = evaluation.predictions["last"]["val_id"], again.predictions["last"]["val_id"]
    np.testing.assert_allclose(found.energy, expected.energy, rtol=1e-5)
    assert str(tmp_path / "train.lmdb") in " ".join(again.notes)


def test_splits_before_one_that_fails_are_written(run_folder, labelled_root, tmp_path, capsys):
    shutil.copytree(labelled_root / "val_id", tmp_path / "data/good")
    shutil.copytree(labelled_root / "val_id", tmp_path / "data/bad")
    with (tmp_path / "data/bad/data.lmdb").open("r+b") as file:
        file.truncate(4096)
    flags = ["predict", "--checkpoint", str(run_folder / "best_checkpoint.pt"), "--cpu", "--splits", "good", "bad"]
    assert main([*flags, "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]) == 2
    assert "data/bad/data.lmdb" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.npz"]


def test_a_killed_process_is_named(run_folder, labelled_root, tmp_path, capsys, monkeypatch):
    class Killed(ProcessPoolExecutor):
        def map(self, *args, **kwargs):
            return super().map(os._exit, [1])

    monkeypatch.setattr(inference, "ProcessPoolExecutor", Killed)
    flags = ["predict", "--checkpoint", str(run_folder / "best_checkpoint.pt"), "--cpu", "--num-gpus", "2"]
    flags += ["--data", str(labelled_root), "--splits", "val_id", "--out", str(tmp_path / "out")]
    assert main(flags) == 2
    assert "a predicting process was killed, perhaps out of memory; lower --batch-size" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_folder_that_cannot_be_written_is_refused_first(run_folder, labelled_root, tmp_path, capsys, command):
    (tmp_path / "file").touch()
    flags = ["--checkpoint", str(run_folder / "best_checkpoint.pt"), "--cpu", "--splits", "val_id"]
    assert main([command, *flags, "--data", str(labelled_root), "--out", str(tmp_path / "file/out")]) == 2
    captured = capsys.readouterr().err
    assert f"{tmp_path / 'file/out'}: cannot be written ({tmp_path / 'file'} is not a folder)" in captured
    assert "system" not in captured, "no bar of predictions"


def test_missing_split_lists_those_that_exist(labelled_root, tmp_path):
    with pytest.raises(DataError, match=r"no LMDB for split 'val_odd' \(it has train, val_id.*, or choose train or"):
        split_source(labelled_root, "val_odd")
    with pytest.raises(DataError, match="no such folder"):
        split_source(tmp_path / "nowhere", "val_id")


def test_names_must_be_distinct(run_folder):
    path = run_folder / "checkpoint.pt"
    assert list(checkpoint_names([path, run_folder / "best_checkpoint.pt"], None)) == [
        f"schnet ({run_folder.name}/checkpoint)",
        f"schnet ({run_folder.name}/best_checkpoint)",
    ]
    with pytest.raises(ConfigError, match="is given twice"):
        checkpoint_names([path, path, path], None)
    with pytest.raises(ConfigError, match="is given twice"):
        checkpoint_names([path, path.parent / "../" / path.parent.name / path.name], None)
    with pytest.raises(ConfigError, match="--names takes 1 different names"):
        checkpoint_names([path], ["a", "b"])
    with pytest.raises(ConfigError, match="'median baseline' is reserved"):
        checkpoint_names([path], ["median baseline"])
    for names in (["a b", "a_b"], ["?", "a"]):
        with pytest.raises(ConfigError, match="must differ in letters and digits"):
            checkpoint_names([path, path], names)


def test_seeds_in_folders_of_their_own_get_names_and_folders_of_their_own(run_folder, tmp_path):
    runs = ["s0/checkpoints/own", "s1/checkpoints/own", "s2/checkpoints/own", "another"]
    paths = [tmp_path / run / "best_checkpoint.pt" for run in runs]
    for path in paths:
        path.parent.mkdir(parents=True)
        shutil.copy(run_folder / "best_checkpoint.pt", path)
    assert list(checkpoint_names(paths, None)) == [
        *(f"schnet (s{seed}/checkpoints/own/best_checkpoint)" for seed in range(3)),
        "schnet (another)",
    ]
    alike = [tmp_path / "x/a b/checkpoint.pt", tmp_path / "x/a_b/checkpoint.pt"]
    for path in alike:
        path.parent.mkdir(parents=True)
        shutil.copy(paths[0], path)
    with pytest.raises(ConfigError, match=r"a_b/checkpoint\): too much alike for names of folders"):
        checkpoint_names(alike, None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--plot-format", "svg"], "--plot-format has no effect without --plots"),
        (["--logs", "logs", "--html"], "--logs has no effect without --plots"),
        (["--worst", "3", "--plots"], "--worst has no effect without --html"),
        (["--logs", "nowhere", "--plots"], "nowhere: no event files"),
    ],
)
def test_flags_without_effect_are_refused_before_predictions(
    run_folder, labelled_root, tmp_path, capsys, flags, message
):
    command = ["evaluate", "--checkpoint", str(run_folder / "best_checkpoint.pt"), "--data", str(labelled_root)]
    assert main([*command, "--out", str(tmp_path / "out"), *flags]) == 2
    captured = capsys.readouterr().err
    assert message in captured and "system" not in captured, "no bar of predictions"


def test_a_record_with_other_attributes_is_named(run_folder, labelled_root, tmp_path, capsys):
    records = list(Records(labelled_root / "val_id"))
    del records[3].y_relaxed
    (tmp_path / "data/val_id").mkdir(parents=True)
    write_lmdb(tmp_path / "data/val_id", records)
    flags = ["--checkpoint", str(run_folder / "best_checkpoint.pt"), "--cpu", "--splits", "val_id"]
    assert main(["evaluate", *flags, "--data", str(tmp_path / "data")]) == 2
    assert f"sid {records[3].sid}: has other attributes than sid " in capsys.readouterr().err


def test_predictions_that_are_not_finite_are_counted(run_folder, labelled_root, tmp_path, capsys, monkeypatch):
    real = predict_command.predict_splits

    def broken(*args, **keys):
        (split, found), *_ = real(*args, **keys).items()
        found.energy[[2, 4]] = np.nan
        return {split: found}

    monkeypatch.setattr(predict_command, "predict_splits", broken)
    flags = ["--checkpoint", str(run_folder / "best_checkpoint.pt"), "--cpu", "--splits", "val_id"]
    assert main(["predict", *flags, "--data", str(labelled_root), "--out", str(tmp_path)]) == 0
    with np.load(tmp_path / "val_id.npz") as written:
        third, finite = written["ids"][2], written["energy"][np.isfinite(written["energy"])]
        assert len(finite) == len(written["ids"]) - 2
    printed = capsys.readouterr().out
    assert f"WARNING: 2 energies are NaN or infinity, first that of system {third}" in printed
    assert f"energy {finite.mean():.3f} ± {finite.std():.3f} eV" in printed


def test_overrides_are_read_as_in_yaml():
    parser = argparse.ArgumentParser()
    add_inference_arguments(parser)
    pairs = ["a=false", "b=true", "c=null", "d=1e-3", "e=fixed", "f=[1, 2]", "g=True"]
    given = inference_options(parser.parse_args([item for pair in pairs for item in ("--set", pair)])).model_overrides
    assert given == {"a": False, "b": True, "c": None, "d": 1e-3, "e": "fixed", "f": [1, 2], "g": True}


@pytest.mark.parametrize(
    ("flag", "least"), [("--bootstrap", 1), ("--batch-size", 1), ("--num-workers", 0), ("--seed", 0)]
)
def test_numbers_below_the_least_are_refused(run_folder, labelled_root, capsys, flag, least):
    command = ["evaluate", "--checkpoint", str(run_folder / "checkpoint.pt"), "--data", str(labelled_root)]
    assert main([*command, flag, str(least - 1)]) == 2
    assert f"{flag} {least - 1}: must be at least {least}" in capsys.readouterr().err


# === forces ======================================================================================


@pytest.fixture(scope="module")
def forces_run(tmp_path_factory) -> tuple[Path, Path]:
    root = write_splits(tmp_path_factory.mktemp("frames"), frames=True)
    return root, train(tmp_path_factory.mktemp("forces_run"), schnet_config(root, forces=True), "forces")


def test_s2ef_goes_to_a_checked_submission(forces_run, tmp_path):
    root, run = forces_run
    checkpoint = str(run / "best_checkpoint.pt")
    splits = list(VALIDATION_SPLITS)
    out = tmp_path / "p"
    assert (
        main(
            [
                "predict",
                "--checkpoint",
                checkpoint,
                "--data",
                str(root),
                "--out",
                str(out),
                "--cpu",
                "--splits",
                *splits,
            ]
        )
        == 0
    )
    files = [item for suffix in SUFFIXES for item in (f"--{suffix.replace('_', '-')}", str(out / f"val_{suffix}.npz"))]
    submission = tmp_path / "s2ef.npz"
    common = ["--data", str(root), "--prefix", "val"]
    assert main(["make-submission", *files, "--out", str(submission), "--task", "s2ef", *common]) == 0
    assert main(["check-submission", str(submission), "--task", "s2ef", *common]) == 0
    assert main(["check-submission", str(submission), "--task", "is2re", *common]) == 2
    written = read_npz(submission)
    records = {f"{r.sid}_{r.fid}": r for r in LmdbDataset({"src": str(root / "val_ood_cat/data.lmdb")})}
    blocks = np.split(written["ood_cat_forces"], written["ood_cat_chunk_idx"])
    assert len(blocks) == len(records) == SIZES["ood_cat"]
    for name, block in zip(written["ood_cat_ids"], blocks):
        assert len(block) == int((records[name].fixed == 0).sum())


def test_forces_are_those_of_fairchems_predict_mode(forces_run, tmp_path):
    root, run = forces_run
    config = schnet_config(root, forces=True)
    config["outputs"]["forces"]["prediction_dtype"] = "float32"
    shutil.copytree(root / "val_ood_ads", tmp_path / "test")
    config["dataset"]["test"] = {"src": str(tmp_path / "test/data.lmdb")}
    (tmp_path / "predict.yml").write_text(yaml.safe_dump(config))
    arguments = ["--mode", "predict", "--config-yml", str(tmp_path / "predict.yml"), "--timestamp-id", "p"]
    fairchem(*arguments, "--checkpoint", str(run / "best_checkpoint.pt"), folder=tmp_path)
    theirs = read_npz(tmp_path / "results/p/ocp_predictions.npz")
    ours = predict_splits(run / "best_checkpoint.pt", {"val_ood_ads": root / "val_ood_ads/data.lmdb"}, QUIET)[
        "val_ood_ads"
    ]
    np.testing.assert_array_equal(theirs["ids"], ours.ids)
    np.testing.assert_allclose(theirs["forces"], ours.forces, atol=1e-5)
    np.testing.assert_array_equal(theirs["chunk_idx"], np.cumsum(ours.free_atoms)[:-1])


def test_calculator_gives_forces(forces_run):
    _, run = forces_run
    record = make_records(1, 0, 0, frames=True)[0]
    atoms = Atoms(
        record.atomic_numbers.int().numpy(), positions=record.pos.numpy(), cell=record.cell[0].numpy(), pbc=True
    )
    atoms.calc = calculator(run / "best_checkpoint.pt", cpu=True)
    assert atoms.get_forces().shape == (len(atoms), 3)
    assert np.isfinite(atoms.get_forces()).all()
