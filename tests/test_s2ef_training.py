"""Training on energies and forces of genuine OC20 relaxations, and predictions in the leaderboard's form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small_runs import TINY_HDGNN, losses, train
from torch_geometric.data import Data

from fairchem_hdgnn.cli import main
from fairchem_hdgnn.data.lmdb import write_lmdb
from fairchem_hdgnn.data.npz import read_npz

ROOT = Path(__file__).parents[1]
FRAMES = ROOT.parent / "shared/data/oc20_s2ef.npz"
MODELS = {
    "escn": {
        "name": "fairchem_hdgnn.ESCN",
        "lmax": 2,
        "mmax": 1,
        "num_layers": 2,
        "sphere_channels": 8,
        "hidden_channels": 8,
        "edge_channels": 8,
        "num_sphere_samples": 24,
        "distance_resolution": 0.5,
        "cutoff": 4.0,
        "max_neighbors": 8,
        "regress_forces": True,
        "readout_init": "random",
    },
    "hdgnn": {**TINY_HDGNN, "regress_forces": True},
}

pytestmark = pytest.mark.skipif(not FRAMES.exists(), reason="needs ../shared/data/oc20_s2ef.npz, frames of OC20")


def _records(wanted: slice) -> list[Data]:
    """Frames with fewer than 50 atoms; energies relative to the first frame of each relaxation."""
    with np.load(FRAMES, allow_pickle=False) as arrays:
        frames = {key: arrays[key] for key in arrays.files if key != "meta"}
    # Names such as random1000100_7: relaxation and frame.
    starts = frames["ptr"]
    relaxation, number = np.array([name.removeprefix("random").split("_") for name in frames["sid"]], dtype=int).T
    small = np.flatnonzero(np.diff(starts) < 50)[wanted]
    records = []
    for frame in small:
        atoms = slice(starts[frame], starts[frame + 1])
        first = int(np.flatnonzero(relaxation == relaxation[frame])[0])
        records.append(
            Data(
                atomic_numbers=torch.tensor(frames["numbers"][atoms], dtype=torch.float32),
                pos=torch.tensor(frames["pos"][atoms], dtype=torch.float32),
                force=torch.tensor(frames["forces"][atoms], dtype=torch.float32),
                tags=torch.tensor(frames["tags"][atoms], dtype=torch.long),
                fixed=torch.tensor(frames["fixed"][atoms], dtype=torch.float32),
                cell=torch.tensor(frames["cell"][frame][None], dtype=torch.float32),
                natoms=int(starts[frame + 1] - starts[frame]),
                y=float(frames["y"][frame] - frames["y"][first]),
                sid=int(relaxation[frame]),
                fid=int(number[frame]),
            )
        )
    return records


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("oc20")
    for name, wanted in {"train": slice(0, 400, 25), "val": slice(5, 100, 25), "test_id": slice(10, 150, 25)}.items():
        (folder / name).mkdir()
        write_lmdb(folder / name, _records(wanted))
    return folder


@pytest.fixture(scope="module", params=list(MODELS))
def run(request, data, tmp_path_factory) -> Path:
    """A folder in which the shipped configuration, made small, was trained on the frames."""
    folder = tmp_path_factory.mktemp(request.param)
    config = yaml.safe_load((ROOT / "configs/oc20/s2ef/2M/escn_so2.yml").read_text())
    config["includes"] = [str(ROOT / "configs/oc20/_base/oc20_s2ef_trainer.yml")]
    config["model"] = {**MODELS[request.param], "use_pbc": True, "otf_graph": True}
    for split, name in (("train", "train"), ("val", "val"), ("test", "test_id")):
        config["dataset"][split]["src"] = str(data / name / "data.lmdb")
    config["optim"].update(batch_size=4, eval_batch_size=4, max_epochs=6, num_workers=0, ema_decay=0.9, warmup_steps=1)
    config["optim"].update(lr_initial=0.01, eval_every=12)
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    train(folder / "config.yml", "run")
    return folder


def test_losses_fall_and_forces_are_scored(run):
    by_step = losses(run, "run")
    values = [by_step[step] for step in sorted(by_step)]
    assert np.isfinite(values).all() and np.mean(values[-4:]) < 0.9 * np.mean(values[:4])
    for metric in ("forces_mae", "forces_cosine_similarity", "energy_mae", "energy_forces_within_threshold"):
        assert losses(run, "run", f"val/{metric}"), metric


def test_predictions_are_in_the_form_of_the_leaderboard(run, data):
    """fairchem's predict mode and ours: ``sid_fid`` ids, forces of free atoms, ``chunk_idx`` between systems."""
    checkpoint = run / "checkpoints/run/best_checkpoint.pt"
    train(run / "config.yml", "predict", "--mode=predict", f"--checkpoint={checkpoint}")
    theirs = read_npz(run / "results/predict/ocp_predictions.npz")
    arguments = ["--checkpoint", str(checkpoint), "--data", str(data), "--splits", "test_id", "--cpu"]
    assert main(["predict", *arguments, "--out", str(run / "ours")]) == 0
    ours = read_npz(run / "ours/test_id.npz")

    records = {f"{record.sid}_{record.fid}": record for record in _records(slice(10, 150, 25))}
    for written in (theirs, ours):
        assert sorted(written["ids"]) == sorted(records)
        free = [int((records[name].fixed == 0).sum()) for name in written["ids"]]
        assert written["forces"].shape == (sum(free), 3) and written["forces"].dtype == np.float32
        np.testing.assert_array_equal(written["chunk_idx"], np.cumsum(free)[:-1])
    np.testing.assert_array_equal(theirs["ids"], ours["ids"])
    np.testing.assert_allclose(theirs["energy"].ravel(), ours["energy"].ravel(), atol=1e-4)
    np.testing.assert_allclose(theirs["forces"], ours["forces"], atol=1e-4)
