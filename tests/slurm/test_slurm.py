"""Jobs on a real Slurm: several ranks, a requeue that nobody notices in the losses, scancel, and errors in sight."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_runs import ENVIRONMENT, PLUGIN, TINY_HDGNN, launch, load, losses, write_config

SCRIPT = Path(__file__).with_name("one_node.sh")
BIN = Path(sys.executable).parent
STEPS = 60
"""20 epochs of 3 steps: 24 systems, 4 at a time, on 2 ranks."""

SETTINGS = {"max_epochs": 20, "eval_every": 30, "checkpoint_every": 5}
SUBMITTED = re.compile(r"Submitted job (\d+)")


class Cluster:
    """A Slurm of our own; ``environment`` leads its commands to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **ENVIRONMENT,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "SLURMCTLD_PORT": str(free_port()),
            "SLURMD_PORT": str(free_port()),
        }

    def call(self, *command: str, check: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess:
        done = subprocess.run(
            command, env=self.environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=170
        )
        if check and done.returncode:
            raise AssertionError(f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done

    def submit(self, config: Path, run_id: str, *extra: str, check: bool = True) -> subprocess.CompletedProcess:
        """``fairchem-hdgnn submit`` with small means."""
        return self.call(
            *(str(BIN / "fairchem-hdgnn"), "submit", "--mode=train", f"--config-yml={config}", "--cpu", "--seed=3"),
            *("--print-every=1", f"--timestamp-id={run_id}", "--slurm-mem=1", "--slurm-timeout=1", *extra),
            check=check,
            cwd=config.parent,
        )

    def state(self, job: str) -> str:
        """State of a job, as Slurm calls it."""
        shown = self.call("scontrol", "show", "job", job).stdout
        found = re.search(r"JobState=(\w+)", shown)
        assert found, shown
        return found[1]

    def wait(self, job: str, condition: Callable[[], object], log: Path) -> None:
        """Wait until ``condition`` holds, or fail with the job's log."""
        deadline = time.monotonic() + 150
        while not condition():
            if time.monotonic() > deadline:
                text = log.read_text()[-3000:] if log.is_file() else "(no log)"
                raise AssertionError(f"job {job} is {self.state(job)}:\n{text}")
            time.sleep(0.3)

    def has_ended(self, job: str) -> bool:
        return self.state(job) in {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"}

    def was_requeued(self, job: str) -> bool:
        """Whether the job waits to start again; then it need not wait the two minutes that Slurm gives it."""
        if self.state(job) != "PENDING" or "Restarts=1" not in self.call("scontrol", "show", "job", job).stdout:
            return False
        # In the second in which it was stopped, slurmd would take it for the job that it has just killed.
        self.call("scontrol", "update", f"JobId={job}", "StartTime=now+3")
        return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if os.geteuid() != 0:
        pytest.skip("starting a Slurm needs root")
    if shutil.which("slurmctld") is None and shutil.which("apt-get") is None:
        pytest.skip("no Slurm here, and no apt-get to install it")
    # A short path: the munge socket lies in it.
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        started = cluster.call("bash", str(SCRIPT), "start", str(cluster.folder), check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("Slurm could not be installed within three minutes")
    if started.returncode:
        pytest.skip(f"Slurm cannot be started here: {' '.join(started.stderr.split())[-300:]}")
    yield cluster
    cluster.call("scancel", "--user=root", check=False)
    cluster.call("bash", str(SCRIPT), "stop", str(cluster.folder))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("runs"), {**TINY_HDGNN, "lmax": 1, "num_layers": 1}, **SETTINGS)


@pytest.fixture(scope="module")
def uninterrupted(config: Path) -> dict[int, float]:
    """Losses of the same training on two ranks, outside of Slurm, without interruption."""
    launch(PLUGIN, config, "whole", "--num-gpus=2")
    whole = losses(config.parent, "whole")
    assert sorted(whole) == list(range(1, STEPS + 1))
    return whole


def has_step(folder: Path, run_id: str, step: int) -> bool:
    """Whether the run's checkpoint has come to ``step``."""
    path = folder / "checkpoints" / run_id / "checkpoint.pt"
    return path.is_file() and load(folder, run_id)["step"] >= step


@pytest.mark.parametrize("via, signal", [("srun", "USR1"), ("one-node", "USR1"), ("submitit", "USR2")])
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
    assert "Slurm is ending this job already" in log.read_text()
    logged = max(losses(folder, "cancelled"))
    assert load(folder, "cancelled")["step"] == logged


@pytest.mark.parametrize("via, num_ranks", [("srun", 2), ("submitit", 1)])
def test_error_of_a_job_reaches_the_user(cluster: Cluster, config: Path, via: str, num_ranks: int) -> None:
    ranks = f"--num-gpus={num_ranks}"
    printed = cluster.submit(config, f"bad-{via}", f"--via={via}", ranks, "--model.lmaks=2").stdout
    job = SUBMITTED.search(printed)[1]
    log = Path(re.search(r"log: +(\S+)", printed)[1])
    cluster.wait(job, lambda: cluster.has_ended(job), log)
    assert cluster.state(job) == "FAILED"
    assert "HDGNN: unknown key 'lmaks'; did you mean 'lmax'?" in log.read_text()


def test_words_of_sbatch_reach_the_user(cluster: Cluster, config: Path) -> None:
    for via in ("srun", "submitit"):
        refused = cluster.submit(config, "refused", f"--via={via}", "--slurm-partition=nowhere", check=False)
        assert refused.returncode == 2
        assert refused.stderr.splitlines()[-1].startswith("fairchem-hdgnn submit: error: sbatch refused the job")
        assert "invalid partition specified: nowhere" in refused.stderr
