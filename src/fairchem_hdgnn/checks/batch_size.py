"""Check that batch size, accumulation and ranks give the effective batch size that a config is meant for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fairchem.core.common.registry import registry

from fairchem_hdgnn.checks.findings import Finding, warning
from fairchem_hdgnn.host.fairchem1.trainer import Trainer
from fairchem_hdgnn.host.sections import Optim
from fairchem_hdgnn.schema import faults

KEYS = ("batch_size", "accumulate", "effective_batch_size")


def batch_size_findings(config: Mapping[str, Any], num_ranks: int) -> Iterator[Finding]:
    """Compare the systems per optimiser step with ``optim.effective_batch_size``, if the config has it.

    Args:
        config: a fairchem config.
        num_ranks: ranks of the training.
    """
    optim = config.get("optim")
    if not isinstance(optim, Mapping) or any(fault.key.name in KEYS for fault in faults(Optim, optim)):
        return
    batch_size, accumulate, meant = (optim.get(key, default) for key, default in zip(KEYS, (1, 1, None)))
    if accumulate > 1 and not _is_ours(config.get("trainer") or "ocp"):
        yield warning("optim.accumulate", "fairchem's own trainer ignores it", "set trainer: fairchem_hdgnn.Trainer")
        accumulate = 1
    systems = batch_size * num_ranks
    if meant is None or meant == systems * accumulate:
        return
    ranks = "1 rank" if num_ranks == 1 else f"{num_ranks} ranks"
    yield warning(
        "optim.effective_batch_size",
        f"is {meant}, but batch_size {batch_size} x accumulate {accumulate} x {ranks} gives {systems * accumulate}",
        _remedy(meant, systems),
    )


def _remedy(meant: int, systems: int) -> str:
    if meant % systems == 0:
        return f"set optim.accumulate: {meant // systems}"
    nearest = max(1, round(meant / systems))
    return f"optim.accumulate: {nearest} comes closest with {nearest * systems}; another batch_size may match exactly"


def _is_ours(name: Any) -> bool:
    try:
        kind = registry.get_trainer_class(str(name))
    except (RuntimeError, ImportError, ValueError):
        return True
    return isinstance(kind, type) and issubclass(kind, Trainer)
