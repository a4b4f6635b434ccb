"""Time limits that strike where it hurts, on a real Slurm: in an evaluation, in a checkpoint, before the first step.

Slurm itself sends the signal; ``hold/sitecustomize.py`` has the training wait for it at the moment in question.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_cluster import SUBMITTED, Cluster
from small_runs import PLUGIN, TINY_HDGNN, launch, load, losses, write_config

ROOT = Path(__file__).parents[2]
fault = pytest.mark.fault
Outcome = Callable[[object], None]


@pytest.fixture
def held(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for requests to hold a training."""
    folder = tmp_path / "hold"
    folder.mkdir()
    path = f"{Path(__file__).parent / 'hold'}:{cluster.environment.get('PYTHONPATH', '')}"
    for name, value in {"PYTHONPATH": path, "HOLD": str(folder)}.items():
        monkeypatch.setitem(cluster.environment, name, value)
    return folder


def limit(cluster: Cluster, job: str, minutes: int) -> None:
    """Give a job another time limit; of the recipes' signal 5 minutes ahead Slurm thinks twice a minute."""
    cluster.call("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")


@pytest.mark.heavy
@fault("cluster", "a time limit in the middle of an evaluation, then of a checkpoint being written")
def test_limit_in_an_evaluation_then_in_a_checkpoint(
    cluster: Cluster, held: Path, tmp_path: Path, outcome: Outcome
) -> None:
    """The recipe for several nodes, with one task on each, requeued twice: the losses go on to the last bit."""
    config = write_config(
        tmp_path, {**TINY_HDGNN, "lmax": 1}, max_epochs=4, eval_every=6, checkpoint_every=4, eval_batch_size=1
    )
    launch(PLUGIN, config, "whole", "--num-gpus=2")
    script = (ROOT / "slurm" / "several_nodes.sbatch").read_text()
    training = f"--cpu --seed=3 --print-every=1 --config-yml {config}"
    for old, new in {"--config-yml hdgnn:oc20/is2re/all/hdgnn.yml": training, "per-node=4": "per-node=1"}.items():
        assert old in script
        script = script.replace(old, new)
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])

    (held / "evaluation").write_text("6")
    job = cluster.call("sbatch", "--parsable", input=script, cwd=tmp_path).stdout.strip()
    run_id, log = f"job{job}", tmp_path / f"hdgnn-{job}.out"
    cluster.wait(job, (held / "evaluation.reached").exists, log)
    limit(cluster, job, 5)
    cluster.wait(job, lambda: cluster.was_requeued(job), log)
    checkpoint = load(tmp_path, run_id)
    assert checkpoint["step"] == 6 and checkpoint["evaluated_step"] < 6

    (held / "checkpoint").write_text("8")
    limit(cluster, job, 60)
    cluster.wait(job, (held / "checkpoint.reached").exists, log)
    assert load(tmp_path, run_id)["step"] == 6
    limit(cluster, job, 5)
    cluster.wait(job, lambda: cluster.was_requeued(job, 2), log)
    assert load(tmp_path, run_id)["step"] == 8

    limit(cluster, job, 60)
    cluster.wait(job, lambda: cluster.has_ended(job), log)
    assert cluster.state(job) == "COMPLETED", log.read_text()[-3000:]
    assert log.read_text().count("Received SIGUSR1") == 4, "two ranks, twice"
    for tag in ("train/loss", "val/energy_mae"):
        assert losses(tmp_path, run_id, tag) == losses(tmp_path, "whole", tag)
    outcome("correct: requeued twice, and the losses go on to the last bit")


@pytest.mark.heavy
@fault("cluster", "a signal of Slurm's while Python starts")
def test_limit_shorter_than_the_lead(
    cluster: Cluster, held: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, outcome: Outcome
) -> None:
    """Slurm's signal comes while Python still imports: it is told of, and one step is made before the requeue."""
    config = write_config(tmp_path, {**TINY_HDGNN, "lmax": 1, "num_layers": 1}, max_epochs=1)
    launch(PLUGIN, config, "whole")
    (held / "start").write_text("0")
    with caplog.at_level(logging.WARNING):
        printed = cluster.submit(config, "short", "--sbatch=--time=5", "--sbatch=--signal=USR1@300").stdout
    assert "--time=5 with --signal=USR1@300: Slurm may signal the job as soon as it starts" in caplog.text
    job, log = SUBMITTED.search(printed)[1], Path(re.search(r"log: +(\S+)", printed)[1])
    cluster.wait(job, lambda: cluster.was_requeued(job), log)
    assert (held / "start.reached").exists()
    assert "SIGUSR1 arrived before the training started" in log.read_text()
    assert load(tmp_path, "short")["step"] == 1
    limit(cluster, job, 60)
    cluster.wait(job, lambda: cluster.has_ended(job), log)
    assert cluster.state(job) == "COMPLETED", log.read_text()[-3000:]
    assert losses(tmp_path, "short") == losses(tmp_path, "whole")
    outcome("correct: obeyed after one step, with a warning; the requeued job goes on to the last bit")
