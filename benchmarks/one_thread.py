"""CPU time on one thread: of training steps, and of other processes."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def cpu_minutes(command: Sequence[str], log: Path) -> float:
    """Run ``command`` with its output in ``log``; minutes of CPU time it took, independent of other programs.

    Raises:
        SystemExit: it failed; names the log.
    """
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=ENVIRONMENT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"a run failed; see {log}")
    return (usage.ru_utime + usage.ru_stime) / 60


def seconds_per_step(
    network: torch.nn.Module, loss: Callable[[int], torch.Tensor], steps: int, warm_up: int
) -> tuple[float, int]:
    """Median CPU time of a training step with AdamW after ``warm_up`` steps, and the number of parameters.

    Args:
        network: what is trained.
        loss: the loss of the step with this number, data loading included.
        steps: how many are made.
        warm_up: how many of them do not count.
    """
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    times = []
    for step in range(steps):
        start = time.process_time()
        optimiser.zero_grad()
        loss(step).backward()
        optimiser.step()
        times.append(time.process_time() - start)
    return statistics.median(times[warm_up:]), sum(parameter.numel() for parameter in network.parameters())
