"""The `fairchem` command line with this plugin's additions: `fairchem-hdgnn train` and `main.py`."""

from __future__ import annotations

import argparse
import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from fairchem.core import _cli
from fairchem.core.common.flags import flags
from fairchem.core.common.utils import build_config
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from fairchem_hdgnn.errors import ConfigError, UserError, nearest
from fairchem_hdgnn.integration.excepthook import user_message
from fairchem_hdgnn.integration.names import with_dotted_names
from fairchem_hdgnn.integration.preflight import check_data_sets
from fairchem_hdgnn.integration.run_ids import new_run_id
from fairchem_hdgnn.integration.runner import Runner, runner_wrapper

PACKAGED = "hdgnn:"
"""Prefix of a ``--config-yml`` that names one of the shipped configs, e.g. ``hdgnn:oc20/is2re/all/hdgnn.yml``."""


def run(arguments: Sequence[str]) -> None:
    """Do what `fairchem ARGUMENTS` does, and more safely.

    - ``--config-yml hdgnn:...`` names a shipped config, from any working directory.
    - Model names become dotted, in the checkpoint too, so that it opens in any process.
    - Each run gets a directory of its own, unless ``--timestamp-id`` names one.
    - Jobs and ranks go through this plugin's ``Runner``.

    Args:
        arguments: as for `fairchem`; overrides such as ``--optim.max_epochs=3`` included.

    Raises:
        ConfigError: a flag, override or config file that cannot be used.
    """
    parser = flags.get_parser()
    parser.prog = "fairchem-hdgnn train"
    args, overrides = parser.parse_known_args(arguments)
    _check(args, overrides)
    args.config_yml = find_config(str(args.config_yml))
    if args.timestamp_id is None and args.sweep_yml is None:
        args.timestamp_id = new_run_id(args.identifier)
    try:
        with _plugin_in_fairchem():
            _cli.main(args, overrides)
    except (UserError, ChildFailedError) as error:
        message = user_message(error)
        if message is None:
            raise
        raise UserError(message) from error


def _check(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    if args.mode is None:
        raise ConfigError("--mode: missing; one of train, validate, predict, run-relaxations")
    if args.submit and shutil.which("sbatch") is None:
        raise ConfigError(
            "--submit: this machine has no sbatch, so no Slurm to submit to; leave --submit out to run here"
        )
    for override in overrides:
        if not override.startswith("--") or override.count("=") != 1:
            raise ConfigError(f"'{override}': neither a flag nor an override of the form --section.key=value")


def find_config(name: str) -> Path:
    """The file that ``--config-yml`` names.

    Raises:
        ConfigError: there is none; with the nearest shipped config if it was to be one of those.
    """
    if not name.startswith(PACKAGED):
        if not Path(name).is_file():
            raise ConfigError(
                f"--config-yml: no file '{name}'; shipped configs: {PACKAGED}oc20/..., from any directory"
            )
        return Path(name)
    folder = shipped_configs()
    path = folder / name[len(PACKAGED) :]
    if not path.is_file():
        shipped = [f"{PACKAGED}{file.relative_to(folder).as_posix()}" for file in folder.rglob("*.yml")]
        raise ConfigError(f"--config-yml: no shipped config '{name}'{nearest(name, shipped)}")
    return path


def shipped_configs() -> Path:
    """The folder of shipped configs: inside the package when installed, at the top of a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parents[1] / "configs"


@contextlib.contextmanager
def _plugin_in_fairchem() -> Iterator[None]:
    """Put this plugin's Runner and config reading where fairchem's ``main`` looks for its own."""
    ours = {"Runner": Runner, "runner_wrapper": runner_wrapper, "build_config": _build_config}
    theirs = {name: getattr(_cli, name) for name in ours}
    vars(_cli).update(ours)
    try:
        yield
    finally:
        vars(_cli).update(theirs)


def _build_config(args: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    try:
        config = build_config(args, overrides)
    except (ValueError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(f"{args.config_yml}: {' '.join(str(error).split())}") from error
    for section in ("model", "dataset", "optim"):
        if not config.get(section):
            raise ConfigError(f"{args.config_yml}: no section '{section}'")
    if isinstance(config["dataset"], dict):
        check_data_sets(config["dataset"])
    return with_dotted_names(config)
