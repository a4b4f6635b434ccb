"""Check that a config has the settings that its relaxations need."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from fairchem.core.common.registry import registry
from fairchem.core.common.relaxation import OptimizableBatch

from fairchem_hdgnn.checks.findings import Finding, error, finding_of, warning
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host.fairchem1.config_forms import by_split
from fairchem_hdgnn.host.fairchem1.relaxation import RESULTS, require_relaxable
from fairchem_hdgnn.host.fairchem1.trainer import Trainer


def relaxation_findings(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Report what is missing for relaxations, if the config or the command line (``mode``) requests them."""
    task = config.get("task")
    task = task if isinstance(task, dict) else {}
    alone = config.get("mode") == "run-relaxations"
    if not alone and not task.get("eval_relaxations"):
        return
    relax = by_split(config.get("dataset")).get("relax")
    outputs = config.get("outputs")
    try:
        has_data = isinstance(relax, dict) and bool(relax.get("src"))
        require_relaxable(task, outputs if isinstance(outputs, dict) else {}, has_data=has_data)
    except ConfigError as problem:
        yield finding_of(problem)
        return
    if not alone:
        return
    if not config.get("checkpoint"):
        yield error("--checkpoint", "missing", "give the checkpoint of the model that relaxes the structures")
    if not task.get("write_pos") and not (task.get("relax_opt") or {}).get("traj_dir"):
        unsaved = "neither it nor task.relax_opt.traj_dir is set, so no relaxed structure is saved"
        yield warning("task.write_pos", unsaved, f"set it to write {RESULTS}")
    yield from _trainer_findings(config.get("trainer", "ocp"))


def _trainer_findings(name: Any) -> Iterator[Finding]:
    """fairchem's own trainer cannot relax with every version of ASE."""
    try:
        kind = registry.get_trainer_class(str(name))
    except (RuntimeError, ImportError, ValueError):
        return
    ours = isinstance(kind, type) and issubclass(kind, Trainer)
    if inspect.isabstract(OptimizableBatch) and not ours:
        problem = f"'{name}' cannot relax with the installed ASE, which requires methods that fairchem 1.10 lacks"
        yield error("trainer", problem, 'write fairchem_hdgnn.Trainer, or pip install "ase<3.26"')
