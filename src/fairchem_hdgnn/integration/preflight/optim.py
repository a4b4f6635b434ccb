"""The ``optim`` section of a config."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from fairchem_hdgnn.errors import ConfigError, nearest
from fairchem_hdgnn.integration.precision import Precision
from fairchem_hdgnn.integration.preflight.findings import Finding, error, warning

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


def optim_findings(optim: Mapping[str, Any], *, amp: bool) -> Iterator[Finding]:
    """Numbers, and names of torch's optimizers and schedulers, that cannot be used."""
    for name in _COUNTS:
        if (name == "max_epochs" or name in optim) and not _is_count(optim.get(name)):
            yield error(f"optim.{name}", f"is {optim.get(name)!r}", "give a whole number of at least 1")
    for name in _STEPS:
        value = optim.get(name)
        if value is not None and not (_is_count(value) or value in (0, -1)):
            yield error(f"optim.{name}", f"is {value!r}", "give a whole number of steps")
    if not is_positive(optim.get("lr_initial")):
        remedy = "give a positive number; YAML reads 1e-4 as text, write 1.0e-4"
        yield error("optim.lr_initial", f"is {optim.get('lr_initial')!r}", remedy)
    yield from _algorithm_findings(optim)
    try:
        Precision.from_config(dict(optim), amp=amp)
    except ConfigError as problem:
        yield error("optim.precision", str(problem).partition(": ")[2], "correct it")
    for name in optim:
        hint = nearest(str(name), _OPTIM)
        if name not in _OPTIM and "did you mean" in hint and optim.get("scheduler") is None:
            yield warning(f"optim.{name}", f"nothing reads this key{hint}", "correct or remove it")


def _algorithm_findings(optim: Mapping[str, Any]) -> Iterator[Finding]:
    for name, holder in (("optimizer", torch.optim), ("scheduler", torch.optim.lr_scheduler)):
        value = optim.get(name)
        if value is None or (name == "scheduler" and value == "Null"):
            continue
        if not isinstance(value, str) or not isinstance(getattr(holder, value, None), type):
            valid = [key for key, kind in vars(holder).items() if isinstance(kind, type) and key[0].isupper()]
            yield error(f"optim.{name}", f"torch has no {value!r}{nearest(str(value), valid)}", "correct it")
    for name in ("optimizer_params", "scheduler_params"):
        if not isinstance(optim.get(name) or {}, dict):
            yield error(f"optim.{name}", f"is {optim[name]!r}", "give keys and values")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def is_positive(value: Any) -> bool:
    """Whether ``value`` is a finite number above 0, and neither text nor a truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0
