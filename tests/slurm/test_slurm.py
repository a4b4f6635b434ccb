"""Jobs on a real Slurm: several ranks, a requeue that nobody notices in the losses, scancel, and errors in sight."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_cluster import NODES, SUBMITTED, Cluster, has_step
from small_runs import TINY_HDGNN, arguments, load, losses, write_config
from two_ranks import train_on_two_ranks

fault = pytest.mark.fault
Outcome = Callable[[object], None]
STEPS = 60
"""20 epochs of 3 steps: 24 systems, 4 at a time, on 2 ranks."""

SETTINGS = {"max_epochs": 20, "eval_every": 30, "checkpoint_every": 5}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("runs"), {**TINY_HDGNN, "lmax": 1, "num_layers": 1}, **SETTINGS)


@pytest.fixture(scope="module")
def uninterrupted(config: Path) -> dict[int, float]:
    """Losses of the same training on two ranks, outside of Slurm, without interruption."""
    train_on_two_ranks(arguments(config, "whole"))
    whole = losses(config.parent, "whole")
    assert sorted(whole) == list(range(1, STEPS + 1))
    return whole


@pytest.mark.parametrize(
    "via, signal",
    [
        ("srun", "USR1"),
        pytest.param("one-node", "USR1", marks=pytest.mark.heavy),
        pytest.param("submitit", "USR2", marks=pytest.mark.heavy),
    ],
)
def test_requeued_job_goes_on_exactly(
    cluster: Cluster, config: Path, uninterrupted: dict[int, float], via: str, signal: str
) -> None:
    """Two ranks, stopped in the middle by the signal that Slurm sends before a time limit."""
    folder = config.parent
    printed = cluster.submit(config, via, f"--via={via}", "--num-gpus=2").stdout
    job = SUBMITTED.search(printed)[1]
    log = folder / "logs" / (f"{job}/{job}_0_log.err" if via == "submitit" else f"slurm/{job}.out")
    assert str(log) in printed
    cluster.wait(job, lambda: has_step(folder, via, 5), log)
    cluster.call("scancel", f"--signal={signal}", job)
    cluster.wait(job, lambda: cluster.was_requeued(job), log)
    cluster.wait(job, lambda: cluster.has_ended(job), log)

    assert cluster.state(job) == "COMPLETED", log.read_text()[-3000:]
    assert "Requeued" in log.read_text()
    assert losses(folder, via) == uninterrupted


def test_cancelled_job_leaves_a_checkpoint_and_is_not_requeued(cluster: Cluster, config: Path) -> None:
    folder = config.parent
    job = SUBMITTED.search(cluster.submit(config, "cancelled", "--optim.max_epochs=10000").stdout)[1]
    log = folder / "logs" / "slurm" / f"{job}.out"
    cluster.wait(job, lambda: has_step(folder, "cancelled", 5), log)
    cluster.call("scancel", job)
    cluster.wait(job, lambda: cluster.has_ended(job), log)
    assert cluster.state(job) == "CANCELLED"
    assert "Slurm is already ending this job" in log.read_text()
    logged = max(losses(folder, "cancelled"))
    assert load(folder, "cancelled")["step"] == logged


@pytest.mark.parametrize("via, num_ranks", [("srun", 2), ("submitit", 1)])
def test_error_of_a_job_reaches_the_user(cluster: Cluster, config: Path, via: str, num_ranks: int) -> None:
    ranks = f"--num-gpus={num_ranks}"
    printed = cluster.submit(config, f"bad-{via}", f"--via={via}", ranks, "--model.max_num_elements=2").stdout
    job = SUBMITTED.search(printed)[1]
    log = Path(re.search(r"log: +(\S+)", printed)[1])
    cluster.wait(job, lambda: cluster.has_ended(job), log)
    assert cluster.state(job) == "FAILED"
    assert "raise model.max_num_elements, now 2" in log.read_text()


@fault("cluster", "a partition that does not exist")
@pytest.mark.parametrize("via", ["srun", "submitit"])
def test_words_of_sbatch_reach_the_user(cluster: Cluster, config: Path, via: str, outcome: Outcome) -> None:
    line = refusal(cluster, config, f"--via={via}", "--slurm-partition=nowhere")
    assert "sbatch refused the job: invalid partition specified: nowhere; " in line
    assert "correct --slurm-partition" in line
    outcome(line)


@fault("cluster", "more nodes than the partition has")
@pytest.mark.parametrize("via", ["srun", "submitit"])
def test_job_that_could_never_start_is_refused(cluster: Cluster, config: Path, via: str, outcome: Outcome) -> None:
    """Slurm takes it, unless it is told not to, and lets it wait."""
    line = refusal(cluster, config, f"--via={via}", f"--num-nodes={NODES + 1}", "--num-gpus=2")
    assert re.search(r"job \S+ requests more than the partition has and would never start", line)
    assert f"partition main has {NODES} node(s), each with 32 CPUs" in line and "lower --num-nodes" in line
    assert "JobState=PENDING" not in cluster.call("scontrol", "show", "job").stdout
    outcome(re.sub(r"job \S+ asks", "job ... asks", line))


@fault("cluster", "more time than the partition allows")
def test_time_that_no_job_has(cluster: Cluster, config: Path, outcome: Outcome) -> None:
    cluster.call("scontrol", "update", "PartitionName=gpu", "MaxTime=30")
    line = refusal(cluster, config, "--slurm-partition=gpu")
    cluster.call("scontrol", "update", "PartitionName=gpu", "MaxTime=INFINITE")
    assert "would never start" in line and "a time of 30:00" in line and "--slurm-timeout" in line
    outcome(re.sub(r"job \S+ asks", "job ... asks", line))


@fault("cluster", "more GPUs than a node has")
def test_gpus_that_no_node_has(cluster: Cluster, config: Path, outcome: Outcome) -> None:
    line = refusal(cluster, config, "--num-gpus=9", "--slurm-partition=gpu", cpu=False)
    assert "Requested node configuration is not available; partition gpu has" in line
    assert "gpu:4" in line and "--num-gpus" in line
    outcome(line)


def refusal(cluster: Cluster, config: Path, *flags: str, cpu: bool = True) -> str:
    """The last line of a submission in vain."""
    refused = cluster.submit(config, "refused", *flags, check=False, cpu=cpu)
    assert refused.returncode == 2
    line = refused.stderr.splitlines()[-1]
    assert line.startswith("fairchem-hdgnn submit: ")
    return line.removeprefix("fairchem-hdgnn submit: ")


@pytest.mark.parametrize(
    "what, via",
    [
        pytest.param("environment", "srun", marks=fault("cluster", "a node that does not see the Python environment")),
        pytest.param("run", "srun", marks=fault("cluster", "a node that does not see --run-dir")),
        pytest.param("run", "submitit", marks=fault("cluster", "a node that does not see --run-dir")),
    ],
)
def test_path_that_a_node_does_not_see(
    cluster: Cluster, config: Path, what: str, via: str, monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    # Each node has a folder of its own at this place, and so has the machine that submits.
    hidden = cluster.folder / "local" / what
    for folder in (hidden, cluster.folder / "nodes" / "node1" / what):
        folder.mkdir(exist_ok=True)
        if what == "environment":
            (folder / "python").symlink_to(sys.executable)
    if what == "environment":
        monkeypatch.setattr(sys, "executable", str(hidden / "python"))
    printed = cluster.submit(config, f"unseen-{what}", f"--via={via}", "--num-nodes=2", f"--run-dir={hidden}").stdout
    job, log = SUBMITTED.search(printed)[1], Path(re.search(r"log: +(\S+)", printed)[1])
    cluster.wait(job, lambda: cluster.has_ended(job), log)
    assert cluster.state(job) == "FAILED"
    unseen = hidden / "python" if what == "environment" else hidden
    line = f"node2 cannot access {unseen}: move it to a file system that all nodes share, or --exclude the node"
    assert log.read_text() == line + "\n"
    outcome(f"error: {line.replace(str(hidden.parent), 'home')}")
