"""Layer-wise learning rates and frozen parameters, as parameter groups of an optimiser."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import torch
from torch import nn

from fairchem_hdgnn.errors import ConfigError, suggestion
from fairchem_hdgnn.host.sections import FineTuning
from fairchem_hdgnn.host.starting_weights import BACKBONE, plain_names

SECTION = "optim.fine_tuning"
LAYER = re.compile(rf"{re.escape(BACKBONE)}layers\.(\d+)\.")
RATES = ("lr", "initial_lr", "max_lr", "min_lr")
"""Learning-rate entries that optimiser and schedule store in each parameter group."""


def matching(model: nn.Module, patterns: Iterable[str], key: str) -> set[str]:
    """Names of the parameters that match any of the patterns, with ``*`` and ``?`` as in a shell.

    Raises:
        ConfigError: a pattern matches none; suggests existing names.
    """
    names = [name for name, _ in model.named_parameters()]
    found: set[str] = set()
    for pattern in patterns:
        fitting = {name for name in names if fnmatchcase(name, pattern)}
        if not fitting:
            parts = re.findall(r"output_heads\.\w+|\w+_head|layers\.\d+|\w*embedding", "\n".join(names))
            raise ConfigError(
                f"{key}: '{pattern}' matches no parameter{suggestion(pattern, {f'*{part}.*' for part in parts})}"
            )
        found |= fitting
    return found


def learning_rate_factors(model: nn.Module, settings: FineTuning) -> dict[str, float]:
    """Factor of the learning rate for each parameter; 0 for frozen ones.

    Heads have factor 1, the last layer ``layer_decay``, the one before it its square, embeddings the next power; then
    each pattern of ``learning_rates`` multiplies the factors of the parameters that it matches.

    Raises:
        ConfigError: a pattern matches no parameter, or all are frozen.
    """
    names = plain_names(model)
    layer = {own: int(found[1]) if (found := LAYER.match(plain)) else -1 for own, plain in names.items()}
    heads = max(layer.values()) + 1
    factors = {
        own: settings.layer_decay ** (heads - layer[own] if plain.startswith(BACKBONE) else 0)
        for own, plain in names.items()
    }
    for pattern, factor in (settings.learning_rates or {}).items():
        for name in matching(model, [pattern], f"{SECTION}.learning_rates"):
            factors[name] *= factor
    for name in matching(model, settings.freeze or (), f"{SECTION}.freeze"):
        factors[name] = 0.0
    if not any(factors.values()):
        raise ConfigError(f"{SECTION}: freezes all parameters, so nothing would be trained; freeze fewer")
    return factors


def use_factors(optimizer: torch.optim.Optimizer, model: nn.Module, factors: Mapping[str, float]) -> None:
    """Split the groups of a new optimiser by factor, largest first (logs show the first); drop frozen parameters."""
    factor_of = {parameter: factors[name] for name, parameter in model.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        for factor in sorted({factor_of[parameter] for parameter in group["params"]} - {0.0}):
            parameters = [parameter for parameter in group["params"] if factor_of[parameter] == factor]
            groups.append({**group, "params": parameters, "factor": factor})
    optimizer.param_groups = sorted(groups, key=lambda group: -group["factor"])
    scale_rates(optimizer)


def scale_rates(optimizer: torch.optim.Optimizer) -> None:
    """Multiply each group's learning rates by its factor."""
    for group in optimizer.param_groups:
        for name in RATES:
            if name in group:
                group[name] *= group["factor"]
