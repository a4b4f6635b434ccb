"""Jobs that Slurm does not take, or takes and never starts: one line, with what the partition has."""

from __future__ import annotations

import subprocess

from fairchem_hdgnn.errors import UserError

HOPELESS = {"PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit"}
"""Reasons of squeue's for a job that asks for more than its partition has; one that waits for a node has others."""

SMALLER = (
    "lower --num-nodes, --num-gpus, --slurm-mem, --slurm-timeout or optim.num_workers, or choose another "
    "--slurm-partition"
)


def refusal(words: str, partition: str | None) -> UserError:
    """What to raise when sbatch refused a job.

    Args:
        words: what it printed.
        partition: that was asked for; ``None`` is Slurm's default.
    """
    said = "; ".join(line.removeprefix("sbatch: error: ") for line in words.splitlines())
    if "configuration is not available" in said or "specification" in said:
        remedy = f"{_room(partition)}{SMALLER}"
    else:
        remedy = "correct --slurm-partition, --slurm-account, --slurm-qos or --sbatch; `sinfo` lists partitions"
    return UserError(f"sbatch refused the job: {said}; {remedy}")


def check_can_start(job: str) -> None:
    """Cancel a job that would wait for ever: unless told otherwise, Slurm takes it and says nothing.

    Args:
        job: submitted just now.

    Raises:
        UserError: it asks for more than its partition has.
    """
    shown = _printed("squeue", "--noheader", "--format=%r|%P", f"--jobs={job}")
    reason, _, partition = shown.partition("\n")[0].partition("|")
    # Of several partitions it is the reason for one of them.
    if reason in HOPELESS and "," not in partition:
        subprocess.run(["scancel", job], check=False)
        raise UserError(
            f"job {job} asks for more than the partition has and would never start (Slurm: {reason}), so it was "
            f"cancelled; {_room(partition)}{SMALLER}"
        )


def _room(partition: str | None) -> str:
    """What the partition has; nothing where sinfo does not know it."""
    asked = [f"--partition={partition}"] if partition else []
    shown = _printed("sinfo", "--noheader", "--format=%P|%D|%c|%m|%G|%s|%l", *asked).splitlines()
    # A star is Slurm's sign for the default.
    return "".join(f"{_described(line)}; " for line in shown if partition or line.split("|")[0].endswith("*"))


def _described(line: str) -> str:
    name, nodes, cpus, memory, devices, size, limit = line.split("|")
    devices = devices.replace("(null)", "no GPU")
    return (
        f"partition {name.rstrip('*')} has {nodes} node(s), each with {cpus} CPUs, {memory} MB and {devices}, "
        f"for jobs of {size} node(s) and a time of {limit}"
    )


def _printed(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
