"""Sections and keys of a fairchem config: names that exist, values of the right kind, parts that fit together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from fairchem.core.common.registry import registry
from fairchem.core.modules import evaluator

from fairchem_hdgnn.errors import ConfigError, nearest
from fairchem_hdgnn.integration.precision import Precision
from fairchem_hdgnn.integration.preflight.findings import Finding, error, warning

SECTIONS = {"trainer", "logger", "task", "model", "dataset", "outputs", "loss_functions", "evaluation_metrics", "optim"}
"""Sections that fairchem reads, ``slurm`` and what the command line sets aside."""

REQUIRED = ("model", "dataset", "outputs", "loss_functions", "optim")

_OPTIM = {
    "batch_size", "eval_batch_size", "num_workers", "load_balancing", "load_balancing_on_error", "optimizer",
    "optimizer_params", "weight_decay", "lr_initial", "lr_gamma", "lr_milestones", "warmup_steps", "warmup_epochs",
    "warmup_factor", "max_epochs", "max_steps", "eval_every", "checkpoint_every", "clip_grad_norm", "ema_decay",
    "scheduler", "scheduler_params", "precision", "loss_energy", "loss_forces", "energy_coefficient",
    "force_coefficient", "load_datasets_and_model_then_exit",
}  # fmt: skip
"""Keys of ``optim``; a scheduler's own arguments stand beside them."""

_COUNTS = ("batch_size", "eval_batch_size", "max_epochs")
_STEPS = ("eval_every", "checkpoint_every", "warmup_steps")


def key_findings(config: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong with the sections of ``config`` by themselves; the model's own keys are its constructor's part."""
    for name in config:
        hint = nearest(str(name), SECTIONS)
        if name not in SECTIONS and "did you mean" in hint:
            yield warning(str(name), f"fairchem reads no section of that name{hint}", "correct or remove it")
    for name in REQUIRED:
        if not isinstance(config.get(name), (dict, list)) or not config[name]:
            yield error(name, "the section is missing or empty", "see configs/ for complete examples")
    if isinstance(config.get("optim"), dict):
        yield from _optim_findings(config["optim"], amp=bool(config.get("amp", False)))
    yield from _target_findings(config)


def _optim_findings(optim: Mapping[str, Any], *, amp: bool) -> Iterator[Finding]:
    for name in _COUNTS:
        if (name == "max_epochs" or name in optim) and not _is_count(optim.get(name)):
            yield error(f"optim.{name}", f"is {optim.get(name)!r}", "give a whole number of at least 1")
    for name in _STEPS:
        value = optim.get(name)
        if value is not None and not (_is_count(value) or value in (0, -1)):
            yield error(f"optim.{name}", f"is {value!r}", "give a whole number of steps")
    if not _is_positive(optim.get("lr_initial")):
        remedy = "give a positive number; YAML reads 1e-4 as text, write 1.0e-4"
        yield error("optim.lr_initial", f"is {optim.get('lr_initial')!r}", remedy)
    for name, holder in (("optimizer", torch.optim), ("scheduler", torch.optim.lr_scheduler)):
        value = optim.get(name)
        if value is None or (name == "scheduler" and value == "Null"):
            continue
        if not isinstance(value, str) or not isinstance(getattr(holder, value, None), type):
            valid = [key for key, kind in vars(holder).items() if isinstance(kind, type) and key[0].isupper()]
            yield error(f"optim.{name}", f"torch has no {value!r}{nearest(str(value), valid)}", "correct it")
    try:
        Precision.from_config(dict(optim), amp=amp)
    except ConfigError as problem:
        yield error("optim.precision", str(problem).partition(": ")[2], "correct it")
    for name in optim:
        hint = nearest(str(name), _OPTIM)
        if name not in _OPTIM and "did you mean" in hint and optim.get("scheduler") is None:
            yield warning(f"optim.{name}", f"nothing reads this key{hint}", "correct or remove it")


def _target_findings(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Losses and metrics name outputs, and functions that exist."""
    outputs = config.get("outputs")
    if not isinstance(outputs, dict) or not all(isinstance(output, dict) for output in outputs.values()):
        yield error("outputs", "is no mapping of an output's name to its settings", "write {energy: {level: system}}")
        return
    targets = {*outputs, *(part for output in outputs.values() for part in output.get("decomposition", {}))}
    losses = registry.mapping["loss_name_mapping"]
    for entry in config.get("loss_functions") or []:
        if not isinstance(entry, dict) or not all(isinstance(loss, dict) for loss in entry.values()):
            yield error("loss_functions", f"{entry!r} is no loss", "write - energy: {fn: mae, coefficient: 1}")
            continue
        for name, loss in entry.items():
            if name not in targets:
                yield error(
                    f"loss_functions.{name}", f"no such output{nearest(str(name), targets)}", "add it to outputs"
                )
            if loss.get("fn") not in losses:
                yield error(
                    f"loss_functions.{name}.fn",
                    f"fairchem has no loss {loss.get('fn')!r}{nearest(str(loss.get('fn')), losses)}",
                    "correct it",
                )
            if not _is_positive(loss.get("coefficient")):
                yield error(
                    f"loss_functions.{name}.coefficient", f"is {loss.get('coefficient')!r}", "give a positive number"
                )
    yield from _metric_findings(config.get("evaluation_metrics"), targets)


def _metric_findings(section: Any, targets: set[str]) -> Iterator[Finding]:
    if not isinstance(section, dict):
        return
    metrics = section.get("metrics") or {}
    names = set()
    for target, functions in metrics.items() if isinstance(metrics, dict) else ():
        if target not in targets and target != "misc":
            yield error(
                f"evaluation_metrics.metrics.{target}", f"no such output{nearest(str(target), targets)}", "correct it"
            )
        for function in functions if isinstance(functions, list) else [functions]:
            if not hasattr(evaluator, str(function)):
                yield error(
                    f"evaluation_metrics.metrics.{target}", f"fairchem has no metric {function!r}", "correct it"
                )
            names |= {f"{target}_{function}", str(function)}
    primary = section.get("primary_metric")
    if primary is not None and names and primary not in names:
        yield error(
            "evaluation_metrics.primary_metric",
            f"{primary!r} is not computed{nearest(str(primary), names)}",
            "name one of evaluation_metrics.metrics as TARGET_METRIC",
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0
