"""A Slurm of several nodes on this machine, and the trainings that tests hand to it."""

from __future__ import annotations

import contextlib
import io
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import ENVIRONMENT, load

from fairchem_hdgnn import cli

SCRIPT = Path(__file__).with_name("cluster.sh")
BIN = Path(sys.executable).parent
NODES = 2
SUBMITTED = re.compile(r"Submitted job (\d+)")


class Cluster:
    """A Slurm of our own; ``environment`` leads its commands to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **ENVIRONMENT,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "SLURMCTLD_PORT": str(free_port()),
            "SLURMD_PORT": str(free_ports(NODES)),
        }

    def call(
        self, *command: str, check: bool = True, cwd: Path | None = None, input: str | None = None
    ) -> subprocess.CompletedProcess:
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=cwd,
            input=input,
            capture_output=True,
            text=True,
            check=False,
            timeout=170,
        )
        if check and done.returncode:
            raise AssertionError(f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done

    def node(self, what: str, name: str) -> None:
        """``kill`` a node, or have it come back: ``node``."""
        self.call("bash", str(SCRIPT), what, str(self.folder), name)

    def submit(
        self, config: Path, run_id: str, *extra: str, check: bool = True, cpu: bool = True
    ) -> subprocess.CompletedProcess:
        """``fairchem-hdgnn submit`` with small means, in this process; without a run id, the command makes one."""
        arguments = [
            *("submit", "--mode=train", f"--config-yml={config}", "--seed=3", "--print-every=1"),
            *(["--cpu"] if cpu else []),
            *([f"--timestamp-id={run_id}"] if run_id else []),
            *("--slurm-mem=1", "--slurm-timeout=1", f"--run-dir={config.parent}", *extra),
        ]
        output, errors = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
        ):
            for name, value in self.environment.items():
                patch.setenv(name, value)
            patch.chdir(config.parent)
            status = cli.main(arguments)
        done = subprocess.CompletedProcess(arguments, status, output.getvalue(), errors.getvalue())
        if check:
            assert status == 0, done.stderr
        return done

    def state(self, job: str) -> str:
        """State of a job, as Slurm calls it."""
        shown = self.call("scontrol", "show", "job", job).stdout
        found = re.search(r"JobState=(\w+)", shown)
        assert found, shown
        return found[1]

    def wait(self, job: str, condition: Callable[[], object], log: Path) -> None:
        """Wait until ``condition`` holds, or fail with the job's log."""
        deadline = time.monotonic() + 300
        while not condition():
            in_vain = self.has_ended(job) and not condition()
            if in_vain or time.monotonic() > deadline:
                text = log.read_text()[-3000:] if log.is_file() else "(no log)"
                raise AssertionError(f"job {job} is {self.state(job)}:\n{text}")
            time.sleep(0.3)

    def has_ended(self, job: str) -> bool:
        return self.state(job) in {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"}

    def was_requeued(self, job: str, times: int = 1) -> bool:
        """Whether the job waits to start again; then it need not wait the two minutes that Slurm gives it."""
        if self.state(job) != "PENDING" or f"Restarts={times} " not in self.call("scontrol", "show", "job", job).stdout:
            return False
        # In the second in which it was stopped, slurmd would take it for the job that it has just killed.
        self.call("scontrol", "update", f"JobId={job}", "StartTime=now+3")
        return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def free_ports(count: int) -> int:
    """The first of so many ports in a row, which were free just now."""
    while True:
        first = free_port()
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, OverflowError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("", port))
            return first


def has_step(folder: Path, run_id: str, step: int) -> bool:
    """Whether the run's checkpoint has come to ``step``."""
    path = folder / "checkpoints" / run_id / "checkpoint.pt"
    return path.is_file() and load(folder, run_id)["step"] >= step
