"""Keys of a config that nothing reads where they are: misspelt, or of another section."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from fairchem_hdgnn.checks.findings import Finding, warning
from fairchem_hdgnn.errors import nearest
from fairchem_hdgnn.host.graph import GraphSettings
from fairchem_hdgnn.host.sections import Loss, Optim, Split, Task
from fairchem_hdgnn.hyperparameters import key_names
from fairchem_hdgnn.models.escn.config import ESCNConfig
from fairchem_hdgnn.models.hdgnn.config import HDGNNConfig

SECTIONS = {"trainer", "logger", "task", "model", "dataset", "outputs", "loss_functions", "evaluation_metrics", "optim"}
"""Sections that fairchem reads, apart from ``slurm`` and what the command line sets."""

OUTPUT_KEYS = (
    "level", "train_on_free_atoms", "eval_on_free_atoms", "prediction_dtype", "decomposition", "irrep_dim", "property",
)  # fmt: skip
"""Keys of an output that fairchem reads."""

METRIC_KEYS = ("metrics", "primary_metric")
"""Keys of ``evaluation_metrics`` that fairchem reads."""


@functools.cache
def _places() -> dict[str, str]:
    """Key -> where it belongs: ``in SECTION`` or ``at the top level``."""
    keys = {
        "outputs": OUTPUT_KEYS,
        "evaluation_metrics": METRIC_KEYS,
        "loss_functions": key_names(Loss),
        "task": key_names(Task),
        "dataset.train": key_names(Split),
        "model": [*key_names(GraphSettings), *key_names(HDGNNConfig), *key_names(ESCNConfig)],
        "optim": key_names(Optim),
    }
    places = {name: f"in {section}" for section, names in keys.items() for name in names}
    return {**places, **dict.fromkeys([*SECTIONS, "amp"], "at the top level")}


def unread_findings(subject: str, settings: Mapping[str, Any], known: Collection[str]) -> Iterator[Finding]:
    """Warn of keys that are probably misspelt or misplaced; other trainers, data sets and losses may read further ones.

    Args:
        subject: section of the settings; empty: the top level.
        settings: the section.
        known: names that are read there.
    """
    for name in settings:
        if name in known:
            continue
        key = f"{subject}.{name}" if subject else str(name)
        if place := _places().get(str(name)):
            yield warning(key, f"nothing reads this key here; it belongs {place}", "move or remove it")
        elif close := nearest(str(name), known):
            yield warning(key, f"nothing reads this key; did you mean '{close}'?", "correct or remove it")
