"""The ``optim`` section of a config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from fairchem_hdgnn.errors import ConfigError, nearest, suggestion
from fairchem_hdgnn.host.precision import Precision
from fairchem_hdgnn.host.preflight.findings import Finding, error, value_findings, warning
from fairchem_hdgnn.host.sections import FURTHER_OPTIM_KEYS, Optim
from fairchem_hdgnn.hyperparameters import key_names


def optim_findings(optim: Mapping[str, Any], *, amp: bool) -> Iterator[Finding]:
    """Values, and names of torch's optimizers and schedulers, that cannot be used."""
    yield from value_findings("optim", Optim, {name: value for name, value in optim.items() if name != "precision"})
    for name, holder in (("optimizer", torch.optim), ("scheduler", torch.optim.lr_scheduler)):
        value = optim.get(name)
        if isinstance(value, str) and value not in ("", "Null") and not isinstance(getattr(holder, value, None), type):
            valid = [key for key, kind in vars(holder).items() if isinstance(kind, type) and key[0].isupper()]
            yield error(f"optim.{name}", f"torch has no {value!r}{suggestion(value, valid)}", "correct it")
    try:
        Precision.from_config(dict(optim), amp=amp)
    except ConfigError as problem:
        yield error("optim.precision", str(problem).partition(": ")[2], "correct it")
    known = [*key_names(Optim), *FURTHER_OPTIM_KEYS]
    for name in optim:
        close = nearest(str(name), known)
        if name not in known and close and optim.get("scheduler") is None:
            yield warning(f"optim.{name}", f"nothing reads this key; did you mean '{close}'?", "correct or remove it")
