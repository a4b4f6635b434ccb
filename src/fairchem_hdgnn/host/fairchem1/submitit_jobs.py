"""Jobs through submitit: one per config, each restarted from its own pickle when Slurm preempts it."""

from __future__ import annotations

import argparse
import copy
from typing import Any

from fairchem.core.common.utils import save_experiment_log
from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError

from fairchem_hdgnn.host.fairchem1.runner import Runner
from fairchem_hdgnn.host.node_access import access_check
from fairchem_hdgnn.host.slurm_queue import check_can_start, refusal

MAX_TIMEOUTS = 100
"""How often a job may time out and be requeued. fairchem allows 3, too few for a long run in short jobs."""


def submit_jobs(args: argparse.Namespace, configs: list[dict[str, Any]], extra: dict[str, Any] | None = None) -> None:
    """Submit like fairchem's ``--submit``, also on CPU nodes, and print where logs and configs are.

    Args:
        args: arguments of fairchem's command line.
        configs: the configs; several become a job array.
        extra: further ``#SBATCH`` options by name.

    Raises:
        UserError: sbatch refused a job, or a job could never start.
    """
    executor = _executor(args, configs[0], extra)
    for config in configs:
        config["slurm"] = {**copy.deepcopy(executor.parameters), "folder": str(executor.folder)}
    try:
        jobs = executor.map_array(Runner(), configs)
    except FailedJobError as error:
        raise refusal(str(error), args.slurm_partition) from error
    for job in jobs:
        check_can_start(job.job_id)
    for job, config in zip(jobs, configs):
        print(f"Submitted job {job.job_id}, run id {config['timestamp_id']}")
        print(f"  log: {job.paths.stderr} and {job.paths.stdout}")
    print(f"Configs and job ids: {save_experiment_log(args, jobs, configs).resolve()}")


def submission_script(args: argparse.Namespace, config: dict[str, Any], extra: dict[str, Any] | None = None) -> str:
    """The batch script that submitit would pass to sbatch for one job."""
    executor = _executor(args, config, extra)
    return executor._make_submission_file_text(executor._submitit_command_str, "dry-run")


def _executor(args: argparse.Namespace, config: dict[str, Any], extra: dict[str, Any] | None) -> SlurmExecutor:
    executor = SlurmExecutor(folder=args.logdir.resolve() / "%j", max_num_timeout=MAX_TIMEOUTS)
    parameters = {
        "job_name": args.identifier or "hdgnn",
        "mem": f"{args.slurm_mem}GB",
        "time": args.slurm_timeout * 60,
        "partition": args.slurm_partition,
        "qos": args.slurm_qos,
        "account": args.slurm_account,
        "nodes": args.num_nodes,
        "ntasks_per_node": args.num_gpus,
        "gpus_per_node": None if args.cpu else args.num_gpus,
        "cpus_per_task": config["optim"].get("num_workers", 0) + 1,
        "setup": [access_check(args)] if args.num_nodes > 1 else None,
        "additional_parameters": {**(config.get("slurm") or {}), **(extra or {})} or None,
    }
    executor.update_parameters(**{name: value for name, value in parameters.items() if value is not None})
    return executor
