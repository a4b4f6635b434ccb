"""Trainings on two nodes of a real Slurm: the weights of one rank, the recipe as it stands, a node that dies."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_data import SIZES, write_splits
from slurm_cluster import SUBMITTED, Cluster, has_step
from small_runs import PLUGIN, TINY_HDGNN, launch, load, losses, write_config

ROOT = Path(__file__).parents[2]
MODEL = {**TINY_HDGNN, "lmax": 1, "num_layers": 1, "frames": "fixed"}
STEPS_PER_EPOCH = 6
"""24 systems, 4 at a time."""

LONG = ["--optim.max_epochs=15", "--optim.checkpoint_every=5"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs, one system at a time."""
    folder = tmp_path_factory.mktemp("runs")
    return write_config(folder, MODEL, max_epochs=2, eval_every=1000, checkpoint_every=1000, batch_size=1)


@pytest.fixture(scope="module")
def alone(config: Path) -> dict[str, torch.Tensor]:
    """Weights of the same training on one rank, which takes the whole batch."""
    launch(PLUGIN, config, "alone", "--optim.batch_size=4")
    return weights(config.parent, "alone")


@pytest.fixture(scope="module")
def uninterrupted(config: Path) -> dict[int, float]:
    """Losses of a longer training on four ranks outside of Slurm."""
    launch(PLUGIN, config, "whole", "--num-gpus=4", *LONG)
    return losses(config.parent, "whole")


def weights(folder: Path, run_id: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix("module."): value for name, value in load(folder, run_id)["state_dict"].items()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def submitted(cluster: Cluster, config: Path, run_id: str, *extra: str) -> tuple[str, Path]:
    """Job and log of a training on two nodes with two ranks each."""
    printed = cluster.submit(config, run_id, "--num-nodes=2", "--num-gpus=2", *extra).stdout
    return SUBMITTED.search(printed)[1], Path(re.search(r"log: +(\S+)", printed)[1])


@pytest.mark.heavy
def test_four_ranks_on_two_nodes_train_as_one(cluster: Cluster, config: Path, alone: dict[str, torch.Tensor]) -> None:
    job, log = submitted(cluster, config, "nodes")
    cluster.wait(job, lambda: cluster.has_ended(job), log)
    assert cluster.state(job) == "COMPLETED", log.read_text()[-3000:]
    assert load(config.parent, "nodes")["step"] == 2 * STEPS_PER_EPOCH
    assert_same(weights(config.parent, "nodes"), alone)


@pytest.mark.heavy
def test_recipe_for_several_nodes(cluster: Cluster, config: Path, alone: dict[str, torch.Tensor]) -> None:
    """As it stands, with four tasks on each node, but for what it trains, and on a CPU."""
    folder = config.parent
    recipe = (ROOT / "slurm" / "several_nodes.sbatch").read_text()
    training = f"--cpu --seed=3 --config-yml {config} --optim.batch_size=1"
    script = recipe.replace("--config-yml hdgnn:oc20/is2re/all/hdgnn.yml", training).replace(
        "--time=24:00:00", "--time=10"
    )
    assert script.count(str(config)) == 1 and script.count("--time=10") == 1
    (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    job = cluster.call("sbatch", "--parsable", input=script, cwd=folder).stdout.strip()
    log = folder / f"hdgnn-{job}.out"
    cluster.wait(job, lambda: cluster.has_ended(job), log)
    assert cluster.state(job) == "COMPLETED", log.read_text()[-3000:]
    checkpoint = load(folder, f"job{job}")
    assert checkpoint["step"] == 6 and checkpoint["conditions"]["world size"] == 8


@pytest.mark.heavy
@pytest.mark.parametrize("victim", ["node2", "node1"])
def test_node_that_dies(cluster: Cluster, config: Path, uninterrupted: dict[int, float], victim: str) -> None:
    """The job is requeued and its losses go on to the last bit; the log names node and ranks within a minute.

    With its first node, where srun is, a job's log ends; then Slurm alone requeues it.
    """
    run_id = f"without-{victim}"
    job, log = submitted(cluster, config, run_id, *LONG)
    cluster.wait(job, lambda: has_step(config.parent, run_id, 5), log)
    cluster.node("kill", victim)
    killed = time.monotonic()
    cluster.wait(job, lambda: cluster.was_requeued(job), log)
    if victim == "node2":
        assert time.monotonic() - killed < 60
        message = "node2 (rank 2, 3) does not answer: it or its network has failed."
        assert message in log.read_text() and message in cluster.call("scontrol", "show", "job", job).stdout
    cluster.node("node", victim)
    cluster.wait(job, lambda: cluster.has_ended(job), log)
    assert cluster.state(job) == "COMPLETED", log.read_text()[-3000:]
    assert losses(config.parent, run_id) == uninterrupted


@pytest.mark.heavy
def test_sweep_runs_on_both_nodes(cluster: Cluster, config: Path) -> None:
    sweep = config.with_name("sweep.yml")
    sweep.write_text("optim:\n  lr_initial: [0.001, 0.003]\n")
    printed = cluster.submit(config, "", "--via=submitit", f"--sweep-yml={sweep}", "--num-gpus=1", "--identifier=sweep")
    runs = re.findall(r"Submitted job (\S+), run id (\S+)\n +log: (\S+)", printed.stdout)
    assert len(runs) == 2
    for job, run_id, log in runs:
        cluster.wait(job, lambda job=job: cluster.has_ended(job), Path(log))
        assert cluster.state(job) == "COMPLETED", Path(log).read_text()[-3000:]
        assert load(config.parent, run_id)["epoch"] == 2
    rates = [load(config.parent, run_id)["config"]["optim"]["lr_initial"] for _, run_id, _ in runs]
    assert rates == [0.001, 0.003]


@pytest.mark.heavy
@pytest.mark.parametrize("damaged", [False, True])
def test_leaderboard_chain(cluster: Cluster, tmp_path: Path, damaged: bool) -> None:
    """The recipe as it stands, but for OC20's counts of systems; if a split cannot be read, no file is made."""
    data, out = write_splits(tmp_path / "data", prefix="test", labels=False), tmp_path / "out"
    if damaged:
        (data / "test_ood_cat" / "data.lmdb").write_bytes(b"not an LMDB")
    recipe = (ROOT / "slurm" / "leaderboard.sh").read_text()
    script = tmp_path / "leaderboard.sh"
    script.write_text(recipe.replace("make-submission --data", "make-submission --counts any --data"))
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    checkpoint = ROOT / "tests" / "data" / "hdgnn_paper.pt"
    printed = cluster.call("bash", str(script), str(checkpoint), str(data), str(out), cwd=tmp_path).stdout
    job, log = re.search(r"then (\d+)", printed)[1], out / "submission.out"
    cluster.wait(job, lambda: cluster.has_ended(job), log)
    if damaged:
        assert cluster.state(job) == "CANCELLED" and not (out / "submission.npz").exists()
        assert "test_ood_cat/data.lmdb is empty, damaged or not an LMDB" in (out / "predict-2.out").read_text()
        return
    assert cluster.state(job) == "COMPLETED", log.read_text()[-3000:]
    with np.load(out / "submission.npz") as submission:
        for split in ("id", "ood_ads", "ood_cat", "ood_both"):
            assert len(submission[f"{split}_ids"]) == SIZES[split]
            with np.load(out / f"test_{split}.npz") as predicted:
                np.testing.assert_array_equal(submission[f"{split}_energy"], predicted["energy"])
