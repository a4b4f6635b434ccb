"""The `fairchem` command line with this plugin's additions: `fairchem-hdgnn train` and `main.py`."""

from __future__ import annotations

import argparse
import contextlib
import functools
import shutil
import signal
from collections.abc import Iterator, Sequence
from typing import Any

from fairchem.core import _cli
from fairchem.core.common.flags import flags
from fairchem.core.common.utils import build_config
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig

from fairchem_hdgnn.config_files import check_overrides, find_config, read_config
from fairchem_hdgnn.errors import ConfigError, UserError
from fairchem_hdgnn.integration.excepthook import user_message
from fairchem_hdgnn.integration.names import with_dotted_names
from fairchem_hdgnn.integration.preemption import PREEMPTED_EXIT_STATUS
from fairchem_hdgnn.integration.preflight import check_data_sets
from fairchem_hdgnn.integration.preflight.findings import stop_or_warn
from fairchem_hdgnn.integration.preflight.keys import key_findings
from fairchem_hdgnn.integration.ranks import is_task_of_many
from fairchem_hdgnn.integration.run_ids import new_run_id, slurm_run_id
from fairchem_hdgnn.integration.runner import Runner, runner_wrapper
from fairchem_hdgnn.integration.submitit_jobs import submit_jobs
from fairchem_hdgnn.integration.sweeps import sweep


def run(arguments: Sequence[str]) -> None:
    """Do what `fairchem ARGUMENTS` does, and more safely.

    - ``--config-yml hdgnn:...`` names a shipped config, from any working directory.
    - Model names become dotted, in the checkpoint too, so that it opens in any process.
    - Each run gets a directory of its own, unless ``--timestamp-id`` names one.
    - Jobs and ranks go through this plugin's ``Runner``.
    - As one of several tasks of ``srun`` this process is one rank; it starts no others.

    Args:
        arguments: as for `fairchem`; overrides such as ``--optim.max_epochs=3`` included.

    Raises:
        ConfigError: a flag, override or config file that cannot be used.
        SystemExit: the scheduler preempted the run (status ``PREEMPTED_EXIT_STATUS``).
    """
    parser = flags.get_parser()
    parser.prog = "fairchem-hdgnn train"
    args, overrides = parser.parse_known_args(arguments)
    check(args, overrides)
    _check_launch(args)
    # Its handler comes with the training loop. Until then, and in the parent of several ranks, it must not kill.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        if args.submit:
            submit_jobs(args, configs(args, overrides))
        elif is_task_of_many():
            args.timestamp_id = args.timestamp_id or slurm_run_id(args.identifier)
            Runner()(_build_config(args, overrides))
        else:
            args.timestamp_id = args.timestamp_id or new_run_id(args.identifier)
            with _plugin_in_fairchem():
                _cli.main(args, overrides)
    except SignalException as error:
        raise SystemExit(PREEMPTED_EXIT_STATUS) from error
    except (UserError, ChildFailedError) as error:
        if isinstance(error, ChildFailedError) and error.get_first_failure()[1].exitcode == PREEMPTED_EXIT_STATUS:
            raise SystemExit(PREEMPTED_EXIT_STATUS) from error
        message = user_message(error)
        if message is None:
            raise
        raise UserError(message) from error


def check(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Refuse what cannot work, and find the file that ``--config-yml`` names.

    Raises:
        ConfigError: names the flag.
    """
    if args.mode is None:
        raise ConfigError("--mode: missing; one of train, validate, predict, run-relaxations")
    check_overrides(overrides)
    args.config_yml = find_config(str(args.config_yml))


def _check_launch(args: argparse.Namespace) -> None:
    if args.submit and shutil.which("sbatch") is None:
        raise ConfigError(
            "--submit: this machine has no sbatch, so no Slurm to submit to; leave --submit out to run here"
        )
    if args.sweep_yml is not None and not args.submit:
        raise ConfigError("--sweep-yml: each run of a sweep is a job of its own; add --submit")
    if is_task_of_many() and args.num_gpus > 1:
        raise ConfigError("--num-gpus: srun has started one task for each rank; leave it out, or srun --ntasks=1")


@contextlib.contextmanager
def _plugin_in_fairchem() -> Iterator[None]:
    """Put this plugin's Runner and config reading where fairchem's ``main`` looks for its own.

    So too a rendezvous on a free port: fairchem's is always 29400, so that a second run on the machine would depend on
    the first one's store and end with it.
    """
    ours = {
        "Runner": Runner,
        "runner_wrapper": runner_wrapper,
        "build_config": _build_config,
        "LaunchConfig": functools.partial(LaunchConfig, rdzv_endpoint="localhost:0"),
    }
    theirs = {name: getattr(_cli, name) for name in ours}
    vars(_cli).update(ours)
    try:
        yield
    finally:
        vars(_cli).update(theirs)


def configs(args: argparse.Namespace, overrides: list[str]) -> list[dict[str, Any]]:
    """The config of each run that ``args`` asks for, one or a sweep, with run ids that no other run has."""
    config = _build_config(args, overrides)
    runs = [("", config)] if args.sweep_yml is None else list(sweep(config, args.sweep_yml))
    for name, run_config in runs:
        identifier = "-".join(filter(None, (args.identifier, name)))
        run_config["identifier"] = identifier
        run_config["timestamp_id"] = args.timestamp_id or new_run_id(identifier)
    return [run_config for _, run_config in runs]


def _build_config(args: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    read_config(args.config_yml, overrides, sections=("model", "dataset", "optim"))
    # What could be read above fairchem reads too, and it knows where its flags go.
    config = build_config(args, overrides)
    stop_or_warn(key_findings(config))
    if isinstance(config["dataset"], dict):
        check_data_sets(config["dataset"])
    return with_dotted_names(config)
