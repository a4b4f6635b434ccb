"""``fairchem-hdgnn train`` and ``main.py``: the ``fairchem`` command line with this plugin's additions."""

from __future__ import annotations

import argparse
import dataclasses
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fairchem.core.common import distutils
from fairchem.core.common.flags import flags
from fairchem.core.common.utils import build_config, setup_logging
from torch.distributed import DistNetworkError
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from fairchem_hdgnn.checks.files import check_data_sets, disk_findings
from fairchem_hdgnn.checks.findings import Finding, stop_or_warn
from fairchem_hdgnn.checks.keys import key_findings, model_findings, section_findings
from fairchem_hdgnn.cli._flags import require_at_least, require_names
from fairchem_hdgnn.errors import ConfigError, UserError
from fairchem_hdgnn.files import expanded
from fairchem_hdgnn.host.fairchem1.config_files import check_overrides, find_config, read_config, splits_of
from fairchem_hdgnn.host.fairchem1.config_forms import prepared
from fairchem_hdgnn.host.fairchem1.fine_tuning import check_start
from fairchem_hdgnn.host.fairchem1.names import with_dotted_names
from fairchem_hdgnn.host.fairchem1.ranks import is_task_of_many
from fairchem_hdgnn.host.fairchem1.run_directories import new_run_id, slurm_run_id
from fairchem_hdgnn.host.fairchem1.runner import Runner, runner_wrapper
from fairchem_hdgnn.host.fairchem1.submitit_jobs import submit_jobs
from fairchem_hdgnn.host.layer_rates import SECTION
from fairchem_hdgnn.host.messages import user_message
from fairchem_hdgnn.host.preemption import PREEMPTED_EXIT_STATUS, held_back, job_run_id
from fairchem_hdgnn.host.sweeps import sweep

PATH_FLAGS = ("run_dir", "checkpoint", "init_from", "logdir", "sweep_yml")


def configure(parser: argparse.ArgumentParser) -> None:
    """Accept any arguments: fairchem's own parser reads them."""
    parser.add_argument("arguments", nargs="*", help="the arguments of `fairchem`; see `fairchem --help`")


def run(args: argparse.Namespace) -> None:
    """Run ``fairchem ARGUMENTS`` with these additions.

    - ``--config-yml hdgnn:...`` names a shipped config, from any working directory.
    - Model names become dotted paths, also in the checkpoint, so that any process can load it.
    - Each run gets its own directory, unless ``--timestamp-id`` names one. A requeued job uses its first one again.
    - ``--init-from CHECKPOINT`` starts from another model's weights (``optim.fine_tuning``).
    - Jobs and ranks run through this plugin's ``Runner``.
    - As one of several ``srun`` tasks this process is one rank and starts no others.

    Raises:
        UserError: a flag, override, config file or data set cannot be used, here or in a rank.
        SystemExit: the scheduler preempted the run (status ``PREEMPTED_EXIT_STATUS``).
    """
    args, overrides = training_parser().parse_known_args(args.arguments)
    check(args, overrides)
    _check_launch(args)
    setup_logging()
    try:
        with held_back():
            _launch(args, overrides)
    except SignalException as error:
        raise SystemExit(PREEMPTED_EXIT_STATUS) from error
    except (UserError, ChildFailedError, DistNetworkError) as error:
        if isinstance(error, ChildFailedError) and error.get_first_failure()[1].exitcode == PREEMPTED_EXIT_STATUS:
            raise SystemExit(PREEMPTED_EXIT_STATUS) from error
        message = user_message(error)
        if message is None:
            raise
        raise UserError(message) from error


def training_parser() -> argparse.ArgumentParser:
    """fairchem's own parser with ``--init-from`` added."""
    parser = argparse.ArgumentParser(prog="fairchem-hdgnn train", parents=[flags.get_parser()], add_help=False)
    parser.add_argument(
        "--init-from", metavar="CHECKPOINT", help="start from another model's weights; sets optim.fine_tuning.init_from"
    )
    return parser


def _launch(args: argparse.Namespace, overrides: list[str]) -> None:
    if args.submit:
        submit_jobs(args, configs(args, overrides))
    elif is_task_of_many():
        args.timestamp_id = args.timestamp_id or slurm_run_id(args.identifier)
        Runner()(_config(args, overrides))
    else:
        config = _config(args, overrides)
        name = args.identifier
        config["timestamp_id"] = args.timestamp_id or job_run_id(config, name) or new_run_id(name)
        _run_here(config, args.num_gpus)


def check(args: argparse.Namespace, overrides: list[str]) -> None:
    """Refuse unusable flags, expand paths, find the file of ``--config-yml``, turn ``--init-from`` into an override.

    Raises:
        ConfigError: names the flag.
    """
    if args.mode is None:
        raise ConfigError("--mode: missing; give one of train, validate, predict, run-relaxations")
    check_overrides(overrides)
    require_names({"--identifier": args.identifier, "--timestamp-id": args.timestamp_id})
    if args.sweep_yml is not None and args.timestamp_id:
        raise ConfigError("--timestamp-id: all runs of --sweep-yml would share one folder; omit it (see --identifier)")
    for name in PATH_FLAGS:
        if (path := getattr(args, name)) is not None:
            if not str(path).isprintable():
                raise ConfigError(f"--{name.replace('_', '-')} {str(path)!r}: a path cannot contain line breaks")
            setattr(args, name, type(path)(expanded(str(path))))
    if args.init_from is not None:
        if args.checkpoint is not None or args.mode != "train":
            raise ConfigError(
                "--init-from: only for the start of a training; to resume one or to use its model give --checkpoint"
            )
        overrides.append(f"--{SECTION}.init_from={args.init_from}")
    args.config_yml = find_config(str(args.config_yml))
    if args.mode != "train" and args.checkpoint is None:
        raise ConfigError(f"--checkpoint: missing; --mode {args.mode} needs a checkpoint.pt or best_checkpoint.pt")
    if args.mode == "predict" and args.debug:
        raise ConfigError("--debug: writes no files, so --mode predict would lose its results; omit one of the two")
    if not args.debug:
        stop_or_warn(disk_findings(Path(args.run_dir), needed=0))


def _check_launch(args: argparse.Namespace) -> None:
    if args.submit and shutil.which("sbatch") is None:
        raise ConfigError("--submit: sbatch not found on this machine; omit --submit to run without Slurm")
    if args.sweep_yml is not None and not args.submit:
        raise ConfigError("--sweep-yml: each run of a sweep is a separate job; add --submit")
    require_at_least(1, {"--num-gpus": args.num_gpus})
    if is_task_of_many() and args.num_gpus > 1:
        raise ConfigError("--num-gpus: srun has started one task per rank; omit --num-gpus, or use srun --ntasks=1")


def _run_here(config: dict[str, Any], num_ranks: int) -> None:
    """Run in this process, or in ranks that torch starts on this machine."""
    if num_ranks == 1:
        distutils.setup_env_local()
        runner_wrapper(config)
        return
    # As in fairchem, whose LMDB data sets cannot be pickled for a rank's workers.
    config["optim"]["num_workers"] = 0
    # A separate rendezvous on a free port: two runs on one machine must not interfere.
    ranks = LaunchConfig(
        1, 1, nproc_per_node=num_ranks, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0
    )
    elastic_launch(ranks, runner_wrapper)(config)


def configs(args: argparse.Namespace, overrides: list[str]) -> list[dict[str, Any]]:
    """The config of each run that ``args`` requests, one or a sweep, with unique run ids.

    Keys and data sets are checked here, before a job waits in the queue; the trainer checks the rest.

    Raises:
        ConfigError: a config, key or override that cannot be used.
        DataError: a data set is missing, empty or damaged.
    """
    config = _raw_config(args, overrides)
    if args.sweep_yml is None:
        runs = [("", config)]
        stop_or_warn(_findings(config))
    else:
        runs = [(name, prepared(run_config)) for name, run_config in sweep(config, args.sweep_yml)]
        stop_or_warn(dict.fromkeys(_sweep_findings(config, [run_config for _, run_config in runs])))
    for splits in {repr(splits): splits for _, run_config in runs if (splits := splits_of(run_config))}.values():
        check_data_sets(splits)
    made = []
    for name, run_config in runs:
        check_start(run_config)
        # A value may be a path; the name becomes part of a folder's.
        identifier = "-".join(filter(None, (args.identifier, re.sub(r"[^\w.,:+@%=-]+", "_", name))))
        named = {"identifier": identifier, "timestamp_id": args.timestamp_id or new_run_id(identifier)}
        made.append({**with_dotted_names(run_config), **named})
    return made


def _findings(config: dict[str, Any]) -> Iterator[Finding]:
    yield from key_findings(config)
    yield from model_findings(config.get("model"))


def _sweep_findings(base: dict[str, Any], runs: list[dict[str, Any]]) -> Iterator[Finding]:
    """Findings of all runs of a sweep. One that the sweep adds is an error: its runs would not be what was meant."""
    known = set(_findings(base))
    for config in runs:
        for finding in _findings(config):
            yield finding if finding in known else dataclasses.replace(finding, fatal=True)


def _config(args: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """The config of one run; its trainer checks more than the sections."""
    config = _raw_config(args, overrides)
    stop_or_warn(section_findings(config))
    return with_dotted_names(config)


def _raw_config(args: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    read_config(args.config_yml, overrides, sections=("model", "dataset", "optim"))
    # read_config has shown that the files are valid; fairchem's own function also merges its flags.
    return prepared(build_config(args, overrides))
