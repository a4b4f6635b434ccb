"""``fairchem-hdgnn submit``: run a training as a Slurm job that is requeued and resumes by itself."""

from __future__ import annotations

import argparse
import logging
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from fairchem_hdgnn.cli._flags import require_at_least, require_names
from fairchem_hdgnn.cli.train import check, configs, training_parser
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host.fairchem1.submitit_jobs import submission_script, submit_jobs
from fairchem_hdgnn.host.node_access import access_check
from fairchem_hdgnn.host.slurm_queue import check_can_start, refusal
from fairchem_hdgnn.host.time_limits import SUBMITIT_LEAD, lead, too_short

logger = logging.getLogger(__name__)

MEMORY = {"mem-per-cpu", "mem-per-gpu"}
"""Options that exclude ``--mem``."""

BY_SUBMITIT = {
    "output": "the logs; choose their folder with --logdir",
    **dict.fromkeys(MEMORY, "--mem from --slurm-mem, which excludes it; use --via srun or --slurm-mem"),
}
"""Options that submitit's jobs cannot have, and why."""

SCRIPT = Template(
    """\
#!/bin/bash
$directives

# This script runs on the first node, which hosts rank 0.
export MASTER_ADDR=$$(scontrol show hostnames "$$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$$($python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
# Since Slurm 22.05, srun does not inherit it from sbatch.
export SRUN_CPUS_PER_TASK=$$SLURM_CPUS_PER_TASK
$access_check
# The run id is fixed, so a requeued job resumes from its own checkpoint.
srun --kill-on-bad-exit=1 $python -m fairchem_hdgnn_command train \\
  $training
"""
)


@dataclass(frozen=True)
class Job:
    """A batch job for one training.

    Attributes:
        args: the arguments of fairchem's command line and of this command.
        training: the arguments of the training alone.
        run_id: name of the run directory.
        num_workers: data-loader processes per rank.
    """

    args: argparse.Namespace
    training: list[str]
    run_id: str
    num_workers: int

    @property
    def log(self) -> Path:
        """The job's log file; ``%j`` is its id."""
        return Path(_given(self.args).get("output") or self.args.logdir / "slurm" / "%j.out").resolve()

    @property
    def script(self) -> str:
        """The batch script for sbatch."""
        training = [*self.training, f"--timestamp-id={self.run_id}"]
        if self.args.via == "one-node":
            training.append(f"--num-gpus={self.args.num_gpus}")
        return SCRIPT.substitute(
            directives="\n".join(f"#SBATCH {directive}" for directive in self._directives()),
            access_check=access_check(self.args),
            python=shlex.quote(sys.executable),
            training=shlex.join(training),
        )

    def _directives(self) -> list[str]:
        given = _given(self.args)
        replaced = {*given, *(["mem"] if MEMORY & given.keys() else [])}
        if any(resource.split(":")[0] == "gpu" for resource in given.get("gres", "").split(",")):
            replaced.add("gpus-per-node")
        own = {name: value for name, value in self.options.items() if name not in replaced}
        return [*map(_directive, own.items()), "--requeue", *map(_directive, map(_named, self.args.sbatch))]

    @property
    def options(self) -> dict[str, str]:
        """The options of sbatch that follow from the flags of ``submit``."""
        args = self.args
        ranks = args.num_gpus
        # With one-node, fairchem starts the ranks, and each rank loads data in its own process.
        tasks, cpus = (1, ranks) if args.via == "one-node" else (ranks, self.num_workers + 1)
        limit = _given(args).get("time", f"{args.slurm_timeout}:00:00")
        options = {
            "job-name": args.identifier or "hdgnn",
            "nodes": args.num_nodes,
            "ntasks-per-node": tasks,
            "cpus-per-task": cpus,
            "gpus-per-node": None if args.cpu else ranks,
            "mem": f"{args.slurm_mem}G",
            "partition": args.slurm_partition,
            "account": args.slurm_account,
            "qos": args.slurm_qos,
            "output": self.log,
            "open-mode": "append",
            "time": limit,
            "signal": f"USR1@{lead(limit)}",
        }
        return {name: str(value) for name, value in options.items() if value is not None}

    def submit(self) -> str:
        """Submit the script with sbatch and return the job id.

        Raises:
            UserError: sbatch refused the job (its message is included), or the job could never start.
        """
        if "%" not in str(self.log.parent):
            self.log.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["sbatch", "--parsable"], input=self.script, capture_output=True, text=True, check=False)
        if done.returncode:
            raise refusal(done.stderr, self.args.slurm_partition)
        job = done.stdout.strip().split(";")[0]
        check_can_start(job)
        return job


def configure(parser: argparse.ArgumentParser) -> None:
    """Accept any arguments: most are for fairchem's own parser."""
    parser.add_argument("arguments", nargs="*", help="see `fairchem-hdgnn submit --help`")


def run(args: argparse.Namespace) -> None:
    """Submit a training, or print what would be submitted.

    Raises:
        ConfigError: a flag, override or config that cannot be used, or no Slurm on this machine.
        UserError: Slurm refused the job.
    """
    parser = argparse.ArgumentParser(
        prog="fairchem-hdgnn submit", parents=[cluster_parser(), training_parser()], add_help=False
    )
    arguments = args.arguments
    args, overrides = parser.parse_known_args(arguments)
    _check(args)
    check(args, overrides)
    runs = configs(args, overrides)
    extra = _given(args)
    if args.via == "submitit":
        _warn_if_short({"time": f"{args.slurm_timeout}:00:00", "signal": f"USR2@{SUBMITIT_LEAD}", **extra})
        if args.dry_run:
            print(submission_script(args, runs[0], _for_submitit(extra)))
        else:
            submit_jobs(args, runs, _for_submitit(extra))
        return
    [config] = runs
    _, training = _job_parser().parse_known_args(arguments)
    job = Job(args, training, config["timestamp_id"], config["optim"].get("num_workers", 0))
    _warn_if_short({**job.options, **extra})
    if args.dry_run:
        print(job.script, end="")
        return
    job_id = job.submit()
    folder = Path(args.run_dir).resolve()
    backend = "CPU, gloo" if args.cpu else "one GPU each, nccl"
    print(
        f"Submitted job {job_id}: {args.num_nodes} node(s) x {args.num_gpus} rank(s) ({backend}), run id {job.run_id}"
    )
    print(f"  log:         {str(job.log).replace('%j', job_id)}")
    print(
        "               (if it never appears: the job's BatchHost, see `scontrol show job`, cannot access that folder)"
    )
    print(f"  checkpoints: {folder / 'checkpoints' / job.run_id}")
    print(f"  stop:        scancel {job_id}")
    print(f"  resume:      the same command with --timestamp-id={job.run_id}")


def cluster_parser() -> argparse.ArgumentParser:
    """This command's own flags."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(
        "--via",
        choices=("srun", "one-node", "submitit"),
        default="srun",
        help="what starts the ranks: srun, one task per rank (default); fairchem's --num-gpus on one node; or submitit",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the batch script without submitting it")
    parser.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="--NAME[=VALUE]",
        help="an additional #SBATCH line; may be repeated",
    )
    return parser


def _job_parser() -> argparse.ArgumentParser:
    """A parser for the flags of the job; it leaves those of the training inside it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, parents=[cluster_parser()])
    parser.add_argument("--submit", action="store_true")
    for flag in ("num-gpus", "num-nodes", "logdir", "timestamp-id"):
        parser.add_argument(f"--{flag}")
    for flag in ("partition", "account", "qos", "mem", "timeout"):
        parser.add_argument(f"--slurm-{flag}")
    return parser


def _check(args: argparse.Namespace) -> None:
    if shutil.which("sbatch") is None and not args.dry_run:
        raise ConfigError("sbatch: not found on this machine; use `fairchem-hdgnn train` to run without Slurm")
    if args.via == "one-node" and args.num_nodes > 1:
        raise ConfigError("--via one-node: --num-nodes must be 1; use --via srun or --via submitit")
    if args.sweep_yml is not None and args.via != "submitit":
        raise ConfigError("--sweep-yml: needs --via submitit, which submits the sweep as a job array")
    require_names({f"--slurm-{name}": getattr(args, f"slurm_{name}") for name in ("partition", "account", "qos")})
    counts = ("num_gpus", "num_nodes", "slurm_mem", "slurm_timeout")
    require_at_least(1, {f"--{name.replace('_', '-')}": getattr(args, name) for name in counts})
    for name in _given(args):
        if name == "array":
            raise ConfigError("--sbatch=--array: its tasks would share one run id; use --sweep-yml, or submit each run")
        if args.via == "submitit" and name in BY_SUBMITIT:
            raise ConfigError(f"--sbatch=--{name}: submitit sets {BY_SUBMITIT[name]}")
        if args.cpu and name.startswith(("gpu", "gres")):
            raise ConfigError(
                f"--sbatch=--{name}: a training with --cpu would leave the GPUs idle; omit one of the two"
            )


def _warn_if_short(options: Mapping[str, str]) -> None:
    if words := too_short(options):
        logger.warning("%s", words)


def _given(args: argparse.Namespace) -> dict[str, str]:
    """The options of ``--sbatch`` by name; empty for one without a value."""
    return dict(map(_named, args.sbatch))


def _named(option: str) -> tuple[str, str]:
    name, _, value = option.partition("=")
    if not re.fullmatch(r"--[a-z][a-z-]*", name) or not option.isprintable():
        raise ConfigError(f"--sbatch {option!r}: write it as --sbatch=--NAME[=VALUE], on one line")
    return name[2:], value


def _directive(option: tuple[str, str]) -> str:
    name, value = option
    return f"--{name}={shlex.quote(value)}" if value else f"--{name}"


def _for_submitit(options: Mapping[str, str]) -> dict[str, Any]:
    return {name: value or True for name, value in options.items()}
