"""Jobs that Slurm refuses, or accepts but can never start: a one-line error with the partition's resources."""

from __future__ import annotations

import subprocess

from fairchem_hdgnn.errors import UserError

HOPELESS = {"PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit"}
"""squeue's reasons for a job that requests more than its partition has; a job that waits for nodes has others."""

SMALLER = (
    "lower --num-nodes, --num-gpus, --slurm-mem, --slurm-timeout or optim.num_workers, or choose another "
    "--slurm-partition"
)


def refusal(words: str, partition: str | None) -> UserError:
    """The error to raise when sbatch refused a job.

    Args:
        words: sbatch's output.
        partition: the requested partition; ``None``: Slurm's default.
    """
    said = "; ".join(line.removeprefix("sbatch: error: ") for line in words.splitlines())
    if "configuration is not available" in said or "specification" in said:
        remedy = f"{_room(partition)}{SMALLER}"
    else:
        remedy = "correct --slurm-partition, --slurm-account, --slurm-qos or --sbatch; `sinfo` lists partitions"
    return UserError(f"sbatch refused the job: {said}; {remedy}")


def check_can_start(job: str) -> None:
    """Cancel a job that would wait forever: by default Slurm accepts such jobs silently.

    Args:
        job: id of a job submitted just now.

    Raises:
        UserError: it requests more than its partition has.
    """
    shown = _printed("squeue", "--noheader", "--format=%r|%P", f"--jobs={job}")
    reason, _, partition = shown.partition("\n")[0].partition("|")
    # With several partitions, the reason applies to one of them only.
    if reason in HOPELESS and "," not in partition:
        subprocess.run(["scancel", job], check=False)
        raise UserError(
            f"job {job} requests more than the partition has and would never start (Slurm: {reason}), so it was "
            f"cancelled; {_room(partition)}{SMALLER}"
        )


def _room(partition: str | None) -> str:
    """The partition's resources; empty if sinfo does not know it."""
    asked = [f"--partition={partition}"] if partition else []
    shown = _printed("sinfo", "--noheader", "--format=%P|%D|%c|%m|%G|%s|%l", *asked).splitlines()
    # A star marks Slurm's default partition.
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
