"""Convert configs to the form that fairchem's trainer reads: older formats, numbers, paths."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fairchem.core.common.utils import update_config
from fairchem.core.modules.evaluator import Evaluator

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.files import expanded
from fairchem_hdgnn.host.checkpoints import quiet_fairchem

PATH_KEYS = {"src", "file", "metadata_path"}
"""Keys of data sets and their transforms that name files."""

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def by_split(section: Any) -> dict[str, Any]:
    """Settings of each split in a ``dataset`` section, in any form that fairchem accepts; empty for other values.

    Args:
        section: settings by split, a list in the order train, val, test, or those of the training data alone.
    """
    if isinstance(section, list):
        return dict(zip(("train", "val", "test"), section))
    if not isinstance(section, dict):
        return {}
    return {"train": section} if "src" in section else section


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """Convert a config to fairchem 1.10's format, with numbers parsed and paths expanded.

    Raises:
        ConfigError: an old config that fairchem cannot convert, or a path with a variable that is not set.
    """
    # Only in sections: a run may be called 1e-4.
    sections = {name: with_numbers(part) if isinstance(part, (dict, list)) else part for name, part in config.items()}
    config = _with_primary_metric(present_layout(sections))
    if isinstance(config.get("optim"), dict):
        config = {**config, "optim": _optim(config["optim"])}
    return {name: with_paths(part, name) if name in ("dataset", "task") else part for name, part in config.items()}


def present_layout(config: dict[str, Any]) -> dict[str, Any]:
    """Convert a config with the format before 2024 as fairchem does; return any other config unchanged.

    Such a config has ``task.dataset`` and no ``loss_functions``; outputs, losses and metrics follow from the task.
    Even older ones have the model's keys in ``model_attributes``.

    Raises:
        ConfigError: fairchem cannot convert it.
    """
    if isinstance(config.get("model_attributes"), dict) and isinstance(config.get("model"), str):
        model = {**config["model_attributes"], "name": config["model"]}
        config = {name: part for name, part in config.items() if name != "model_attributes"} | {"model": model}
    if not is_old(config):
        return config
    splits = by_split(config.get("dataset"))
    if not isinstance(splits.get("train"), dict):
        return config
    try:
        with quiet_fairchem(warnings_too=True):
            new = update_config({**config, "dataset": splits["train"]})
    except (KeyError, NotImplementedError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"task.dataset: has the format before 2024, but fairchem cannot convert it ({error!r}); write it as in "
            "configs/"
        ) from error
    return {**new, "dataset": {**splits, "train": new["dataset"]}}


def _with_primary_metric(config: dict[str, Any]) -> dict[str, Any]:
    """Add the primary metric, which a config with the format before 2024 takes from its task."""
    task = config.get("task")
    metrics = config.get("evaluation_metrics")
    if not (isinstance(task, dict) and "dataset" in task and isinstance(metrics, dict)):
        return config
    name = "s2ef" if "forces" in config.get("outputs", {}) else "is2re"
    return {**config, "evaluation_metrics": {"primary_metric": Evaluator.task_primary_metric[name], **metrics}}


def _optim(optim: dict[str, Any]) -> dict[str, Any]:
    optim = dict(optim)
    if optim.get("scheduler", "") is None:
        # fairchem uses the string "Null"; YAML reads an unquoted Null as none.
        optim["scheduler"] = "Null"
    if type(optim.get("ema_decay")) is int:
        optim["ema_decay"] = float(optim["ema_decay"])
    return optim


def is_old(config: Mapping[str, Any]) -> bool:
    """Whether fairchem treats ``config`` as one with the format before 2024."""
    task = config.get("task")
    has_task = isinstance(task, dict) and "dataset" in task
    return not config.get("loss_functions") and (has_task or "loss_fns" in config)


def with_numbers(value: Any) -> Any:
    """Convert strings such as ``1e-2``, which YAML does not read as numbers; whole ones, as ``1e3``, to ``int``."""
    if isinstance(value, dict):
        return {name: with_numbers(part) for name, part in value.items()}
    if isinstance(value, list):
        return [with_numbers(part) for part in value]
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        number = float(value)
        return int(number) if number.is_integer() and "." not in value else number
    return value


def with_paths(value: Any, subject: str) -> Any:
    """Expand ``~`` and ``$VARIABLE`` in the values of ``PATH_KEYS``.

    Args:
        value: a section of a config.
        subject: its name.

    Raises:
        ConfigError: a variable is not set; names the key.
    """
    if isinstance(value, list):
        return [with_paths(part, f"{subject}.{number}") for number, part in enumerate(value)]
    if not isinstance(value, dict):
        return value
    return {
        name: _paths(part, f"{subject}.{name}") if name in PATH_KEYS else with_paths(part, f"{subject}.{name}")
        for name, part in value.items()
    }


def _paths(value: Any, subject: str) -> Any:
    if isinstance(value, list):
        return [_paths(part, subject) for part in value]
    if not isinstance(value, str):
        return value
    try:
        return expanded(value)
    except ConfigError as error:
        raise ConfigError(f"{subject}: {error}") from None


def checkpoint_config(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The config stored in a checkpoint, in fairchem 1.10's format (older formats are converted).

    Its trainer is ``ocp``. For ``trainer: energy`` and ``forces``, aliases of the same class, fairchem stores the name
    of a task, ``is2re`` or ``s2ef``, under which it later finds no trainer.
    """
    with quiet_fairchem():
        return {**update_config(checkpoint["config"]), "trainer": "ocp"}
