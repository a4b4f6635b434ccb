"""Check the sections and keys of a fairchem config: names, types of values, consistency between sections."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from fairchem.core.common.registry import registry
from fairchem.core.common.utils import setup_imports
from fairchem.core.modules import evaluator

from fairchem_hdgnn.checks.findings import Finding, error, finding_of, value_findings, warning
from fairchem_hdgnn.checks.relaxation import relaxation_findings
from fairchem_hdgnn.checks.unread import METRIC_KEYS, OUTPUT_KEYS, SECTIONS, unread_findings
from fairchem_hdgnn.errors import ConfigError, suggestion
from fairchem_hdgnn.host.checkpoints import quiet_fairchem
from fairchem_hdgnn.host.fairchem1.config_forms import by_split
from fairchem_hdgnn.host.fairchem1.fine_tuning import fine_tuning_of
from fairchem_hdgnn.host.fairchem1.names import known_model
from fairchem_hdgnn.host.models import read_keys
from fairchem_hdgnn.host.precision import Precision
from fairchem_hdgnn.host.sections import FURTHER_OPTIM_KEYS, Loss, Optim, Split
from fairchem_hdgnn.hyperparameters import key_names

COMMAND_LINE_KEYS = {
    "mode", "identifier", "timestamp_id", "seed", "is_debug", "run_dir", "print_every", "amp", "checkpoint", "cpu",
    "submit", "summit", "world_size", "distributed_backend", "gp_gpus", "local_rank", "slurm", "hide_eval_progressbar",
}  # fmt: skip
"""Keys that fairchem's command line adds to a config."""

OURS = "fairchem_hdgnn.Trainer"

ERRORS = ("mse", "magnitude_error")
"""Ends of the names of fairchem's metrics that are better when smaller, besides those with ``mae``."""

SPLIT_OF_MODE = {"predict": "test", "validate": "val"}
"""Mode on the command line -> split that it needs; ``relaxation_findings`` has that of relaxations."""

SPLITS = ("train", "val", "test", "relax")

TRAIN = "train_split_settings"

FURTHER_SPLIT_KEYS = ("splits", "no_shuffle", "seed", "metadata_path", "lin_ref")
"""Further keys of a data set that fairchem reads."""

REQUIRED: dict[str, type | tuple[type, ...]] = {
    "model": dict,
    "dataset": (dict, list),
    "outputs": dict,
    "loss_functions": list,
    "optim": dict,
}
"""Sections that a training needs -> type in the YAML."""


def section_findings(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Check section names, required sections, the trainer, and what a mode other than training needs."""
    task = config.get("task")
    if isinstance(task, dict) and "dataset" in task:
        problem = f"is the format before 2024 ({task['dataset']}): fairchem converts it to outputs, losses and metrics"
        yield warning("task.dataset", problem, "write them out as in configs/")
    if task is not None and not isinstance(task, dict):
        yield error("task", f"is {task!r}, not a mapping", "remove it, or give the keys of relaxations")
    yield from unread_findings("", config, SECTIONS | COMMAND_LINE_KEYS)
    for name, kind in REQUIRED.items():
        if not isinstance(config.get(name), kind) or not config[name]:
            yield error(name, "the section is missing, empty or of the wrong type", "see configs/ for examples")
    yield from _trainer_findings(config.get("trainer") or "ocp")
    yield from relaxation_findings(config)
    yield from _mode_findings(config)


def _mode_findings(config: Mapping[str, Any]) -> Iterator[Finding]:
    mode = config.get("mode")
    split = SPLIT_OF_MODE.get(str(mode))
    if split is None:
        return
    settings = by_split(config.get("dataset")).get(split)
    if not isinstance(settings, dict) or not settings.get("src"):
        key = f"dataset.{split}.src"
        yield error(key, f"missing, but --mode {mode} needs it", f"add --{key}=LMDB")


def _trainer_findings(name: Any) -> Iterator[Finding]:
    with quiet_fairchem():
        setup_imports()
    try:
        registry.get_trainer_class(str(name))
    except (RuntimeError, ImportError, ValueError):
        known = [*registry.mapping["trainer_name_mapping"], OURS]
        yield error("trainer", f"fairchem has no trainer '{name}'{suggestion(str(name), known)}", f"write {OURS}")


def key_findings(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Check all sections of ``config`` except the model's keys, which its constructor checks."""
    yield from section_findings(config)
    if isinstance(config.get("optim"), dict):
        yield from _optim_findings(config["optim"], amp=bool(config.get("amp", False)))
    yield from _data_findings(config.get("dataset"))
    yield from _target_findings(config)


def model_findings(model: Any) -> Iterator[Finding]:
    """Check a model's name and, for this plugin's models, its keys, without building it."""
    if not isinstance(model, dict):
        return
    if "name" not in model:
        yield error("model.name", "is missing", "write fairchem_hdgnn.HDGNN or fairchem_hdgnn.ESCN")
    for subject, part, key in (("model", model, "name"), ("model.backbone", model.get("backbone"), "model")):
        if not isinstance(part, dict) or key not in part:
            continue
        try:
            kind = registry.get_model_class(known_model(part[key], f"{subject}.{key}"))
            if hasattr(kind, "architecture"):
                read_keys({name: value for name, value in part.items() if name != key}, kind.architecture)
        except ConfigError as problem:
            yield error(subject, str(problem).removeprefix(f"{subject}: "))


def _target_findings(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Check that losses and metrics refer to existing outputs and functions."""
    outputs = config.get("outputs")
    if not isinstance(outputs, dict) or not all(_is_output(output) for output in outputs.values()):
        yield error("outputs", "is not a mapping from output names to settings", "write {energy: {level: system}}")
        return
    for name, output in outputs.items():
        yield from unread_findings(f"outputs.{name}", output, OUTPUT_KEYS)
    targets = {*outputs, *(part for output in outputs.values() for part in output.get("decomposition") or ())}
    losses = registry.mapping["loss_name_mapping"]
    losses_given = config.get("loss_functions")
    for entry in losses_given if isinstance(losses_given, list) else []:
        if not isinstance(entry, dict) or not all(isinstance(loss, dict) for loss in entry.values()):
            yield error("loss_functions", f"{entry!r} is not a loss", "write - energy: {fn: mae, coefficient: 1}")
            continue
        for name, loss in entry.items():
            if name not in targets:
                yield error(
                    f"loss_functions.{name}", f"no such output{suggestion(str(name), targets)}", "add it to outputs"
                )
            yield from value_findings(f"loss_functions.{name}", Loss, loss)
            yield from unread_findings(f"loss_functions.{name}", loss, [*key_names(Loss), "reduction"])
            function = loss.get("fn")
            if isinstance(function, str) and function not in losses:
                problem = f"fairchem has no loss {function!r}{suggestion(function, losses)}"
                yield error(f"loss_functions.{name}.fn", problem, "correct it")
    yield from _metric_findings(config.get("evaluation_metrics"), targets)


def _metric_findings(section: Any, targets: set[str]) -> Iterator[Finding]:
    if not isinstance(section, dict):
        return
    yield from unread_findings("evaluation_metrics", section, METRIC_KEYS)
    metrics = section.get("metrics") or {}
    names = set()
    for target, functions in metrics.items() if isinstance(metrics, dict) else ():
        if target not in targets and target != "misc":
            yield error(
                f"evaluation_metrics.metrics.{target}",
                f"no such output{suggestion(str(target), targets)}",
                "correct it",
            )
        for function in functions if isinstance(functions, list) else [functions]:
            if not hasattr(evaluator, str(function)):
                yield error(
                    f"evaluation_metrics.metrics.{target}", f"fairchem has no metric {function!r}", "correct it"
                )
            names |= {f"{target}_{function}", str(function)}
    primary = section.get("primary_metric")
    if primary is not None and "mae" not in str(primary) and str(primary).endswith(ERRORS):
        yield error(
            "evaluation_metrics.primary_metric",
            f"fairchem takes the epoch with the largest {primary!r} as the best",
            "choose a metric with 'mae' in its name, of which it takes the smallest",
        )
    if primary is not None and names and str(primary) not in names:
        yield error(
            "evaluation_metrics.primary_metric",
            f"{primary!r} is not computed{suggestion(str(primary), names)}",
            "write one of evaluation_metrics.metrics as TARGET_METRIC",
        )


def _is_output(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("decomposition") or {}, dict)


def _optim_findings(optim: Mapping[str, Any], *, amp: bool) -> Iterator[Finding]:
    """Check values, and the names of torch's optimizers and schedulers."""
    yield from value_findings("optim", Optim, {name: value for name, value in optim.items() if name != "precision"})
    for name, holder in (("optimizer", torch.optim), ("scheduler", torch.optim.lr_scheduler)):
        value = optim.get(name)
        if isinstance(value, str) and value not in ("", "Null") and not isinstance(getattr(holder, value, None), type):
            valid = [key for key, kind in vars(holder).items() if isinstance(kind, type) and key[0].isupper()]
            yield error(f"optim.{name}", f"torch has no {value!r}{suggestion(value, valid)}", "correct it")
    try:
        fine_tuning_of({"optim": optim})
    except ConfigError as problem:
        yield finding_of(problem)
    try:
        Precision.from_config(dict(optim), amp=amp)
    except ConfigError as problem:
        yield error("optim.precision", str(problem).partition(": ")[2], "correct it")
    yield from unread_findings("optim", optim, [*key_names(Optim), *FURTHER_OPTIM_KEYS, *_arguments(optim)])


def _arguments(optim: Mapping[str, Any]) -> list[str]:
    """Arguments of the scheduler, which are keys of ``optim``."""
    scheduler = getattr(torch.optim.lr_scheduler, str(optim.get("scheduler")), None)
    return list(inspect.signature(scheduler).parameters) if isinstance(scheduler, type) else []


def _data_findings(section: Any) -> Iterator[Finding]:
    """Check that splits are mappings, sources are paths, and so on; the files themselves are not opened.

    Args:
        section: settings by split, a list of them, or those of the training data alone.
    """
    for split, settings in by_split(section).items():
        if split not in SPLITS:
            yield warning(f"dataset.{split}", f"nothing reads this split{suggestion(str(split), SPLITS)}", "rename it")
            continue
        if settings is None:
            continue
        if not isinstance(settings, dict):
            yield error(f"dataset.{split}", f"is {settings!r}", "give src, format and so on")
            continue
        yield from _split_findings(f"dataset.{split}", settings)


def _split_findings(subject: str, settings: dict[str, Any]) -> Iterator[Finding]:
    yield from value_findings(subject, Split, settings)
    yield from unread_findings(subject, settings, [*key_names(Split), *FURTHER_SPLIT_KEYS])
    if subject == "dataset.train" and (subsets := {"first_n", "sample_n"} & settings.keys()):
        key = min(subsets)
        problem = "val and test inherit it" + (", and train_split_settings replaces it" if TRAIN in settings else "")
        yield warning(f"{subject}.{key}", problem, f"write {TRAIN}: {{{key}: {settings[key]}}}")
    transforms = settings.get("transforms")
    normalizer = transforms.get("normalizer") if isinstance(transforms, dict) else None
    parts = normalizer.items() if isinstance(normalizer, dict) else [("", normalizer or {})]
    for name, value in parts:
        if name not in ("file", "fit") and not isinstance(value, dict):
            yield error(f"{subject}.transforms.normalizer", f"is {value!r}", "give {energy: {mean: 0, stdev: 1}}")
