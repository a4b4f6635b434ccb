"""Sections and keys of a fairchem config: names that exist, values of the right kind, parts that fit together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fairchem.core.common.registry import registry
from fairchem.core.modules import evaluator

from fairchem_hdgnn.errors import nearest, suggestion
from fairchem_hdgnn.host.preflight.data_section import data_section_findings
from fairchem_hdgnn.host.preflight.findings import Finding, error, value_findings, warning
from fairchem_hdgnn.host.preflight.optim import optim_findings
from fairchem_hdgnn.host.sections import Loss

SECTIONS = {"trainer", "logger", "task", "model", "dataset", "outputs", "loss_functions", "evaluation_metrics", "optim"}
"""Sections that fairchem reads, ``slurm`` and what the command line sets aside."""

REQUIRED: dict[str, type | tuple[type, ...]] = {
    "model": dict,
    "dataset": (dict, list),
    "outputs": dict,
    "loss_functions": list,
    "optim": dict,
}
"""Sections that a training needs, and how YAML must give them."""


def section_findings(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Sections that nothing reads, and those without which nothing can start."""
    for name in config:
        close = nearest(str(name), SECTIONS)
        if name not in SECTIONS and close:
            problem = f"fairchem reads no section of that name; did you mean '{close}'?"
            yield warning(str(name), problem, "correct or remove it")
    for name, kind in REQUIRED.items():
        if not isinstance(config.get(name), kind) or not config[name]:
            yield error(name, "the section is missing, empty or of the wrong kind", "see configs/ for examples")


def key_findings(config: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong with the sections of ``config`` by themselves; the model's own keys are its constructor's part."""
    yield from section_findings(config)
    if isinstance(config.get("optim"), dict):
        yield from optim_findings(config["optim"], amp=bool(config.get("amp", False)))
    yield from data_section_findings(config.get("dataset"))
    yield from _target_findings(config)


def _target_findings(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Losses and metrics name outputs, and functions that exist."""
    outputs = config.get("outputs")
    if not isinstance(outputs, dict) or not all(_is_output(output) for output in outputs.values()):
        yield error("outputs", "is no mapping of an output's name to its settings", "write {energy: {level: system}}")
        return
    targets = {*outputs, *(part for output in outputs.values() for part in output.get("decomposition") or ())}
    losses = registry.mapping["loss_name_mapping"]
    losses_given = config.get("loss_functions")
    for entry in losses_given if isinstance(losses_given, list) else []:
        if not isinstance(entry, dict) or not all(isinstance(loss, dict) for loss in entry.values()):
            yield error("loss_functions", f"{entry!r} is no loss", "write - energy: {fn: mae, coefficient: 1}")
            continue
        for name, loss in entry.items():
            if name not in targets:
                yield error(
                    f"loss_functions.{name}", f"no such output{suggestion(str(name), targets)}", "add it to outputs"
                )
            yield from value_findings(f"loss_functions.{name}", Loss, loss)
            function = loss.get("fn")
            if isinstance(function, str) and function not in losses:
                problem = f"fairchem has no loss {function!r}{suggestion(function, losses)}"
                yield error(f"loss_functions.{name}.fn", problem, "correct it")
    yield from _metric_findings(config.get("evaluation_metrics"), targets)


def _metric_findings(section: Any, targets: set[str]) -> Iterator[Finding]:
    if not isinstance(section, dict):
        return
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
    if primary is not None and names and str(primary) not in names:
        yield error(
            "evaluation_metrics.primary_metric",
            f"{primary!r} is not computed{suggestion(str(primary), names)}",
            "name one of evaluation_metrics.metrics as TARGET_METRIC",
        )


def _is_output(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("decomposition") or {}, dict)
