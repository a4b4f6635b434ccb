"""The rank of this process, for every launcher: srun, submitit, torchrun, fairchem's own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch
from fairchem.core.common import distutils

from fairchem_hdgnn.errors import ConfigError, UserError

FIRST_PORT, NUM_PORTS = 20000, 12000


def is_task_of_many() -> bool:
    """Whether ``srun`` (or submitit with it) started this process as one of several tasks."""
    return "RANK" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def is_rank_of_srun() -> bool:
    """Whether this process is one of several tasks of ``srun`` whose rank is already in the environment."""
    return "SLURM_PROCID" in os.environ and os.environ.get("RANK") == os.environ["SLURM_PROCID"]


def set_rank_environment() -> None:
    """Set the variables that torch.distributed reads in a task of ``srun``; do nothing in any other process.

    torchrun and fairchem's ``--num-gpus`` set ``RANK`` and the others themselves; ``srun`` (and with it submitit) uses
    its own variables. ``MASTER_ADDR`` and ``MASTER_PORT`` are kept if the batch script exports them (our recipes do:
    the script runs on the first node and can choose a free port there); otherwise they are the first host of the step
    and a port derived from the job id.
    """
    if not is_task_of_many():
        return
    local_rank = int(os.environ["SLURM_LOCALID"])
    # With --gpus-per-task=1 each task sees one device only, as cuda:0.
    os.environ["LOCAL_RANK"] = str(local_rank % max(1, torch.cuda.device_count()))
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["WORLD_SIZE"] = os.environ["SLURM_STEP_NUM_TASKS"]
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = _first_host_of_step()
    os.environ.setdefault("MASTER_PORT", str(FIRST_PORT + int(os.environ["SLURM_JOB_ID"]) % NUM_PORTS))


def on_first_rank(check: Callable[[], None], device: torch.device) -> None:
    """Call ``check`` on rank 0 while the others wait; its ``UserError`` is raised on all of them. Collective."""
    outcome: list[UserError | None] = [None]
    if distutils.is_master():
        try:
            check()
        except UserError as error:
            outcome = [error]
    distutils.broadcast_object_list(outcome, src=0, device=device)
    if outcome[0] is not None:
        raise outcome[0]


def check_same_start(checkpoint: Path, step: int, device: torch.device) -> None:
    """Refuse a rank that has resumed from another step than rank 0, which writes the checkpoints. Collective.

    Args:
        checkpoint: the run's checkpoint.
        step: step of this rank.
        device: device of this rank.

    Raises:
        ConfigError: on the ranks that differ.
    """
    first = [step]
    distutils.broadcast_object_list(first, src=0, device=device)
    if first != [step]:
        raise ConfigError(
            f"{checkpoint}: rank 0 resumes from step {first[0]}, but this rank from step {step}; choose a --run-dir on "
            "a file system that all nodes share"
        )


def _first_host_of_step() -> str:
    nodes = os.environ["SLURM_STEP_NODELIST"]
    try:
        hosts = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(
            f"cannot find the first host of '{nodes}' with scontrol ({error}); "
            "export MASTER_ADDR and MASTER_PORT in the batch script"
        ) from error
    return hosts.stdout.split()[0]
