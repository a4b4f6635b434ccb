"""Write ``docs/keys.md``, the page of all configuration keys: ``python tools/keys_page.py``.

Types, ranges, defaults and explanations are the same as in error messages and checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lines import ROOT

from fairchem_hdgnn.host.graph import GraphSettings
from fairchem_hdgnn.host.noisy_nodes import NoisyNodes
from fairchem_hdgnn.host.sections import FineTuning, Loss, Normalizer, Optim, RelaxOpt, Split, Task
from fairchem_hdgnn.models.escn.config import ESCNConfig
from fairchem_hdgnn.models.hdgnn.config import PRESETS, HDGNNConfig
from fairchem_hdgnn.schema import Key, keys_of

PAGE = ROOT / "docs" / "keys.md"

HEAD = """\
# All keys of a config

Written by `python tools/keys_page.py` from the code that checks them. A key that is not listed here is fairchem's own.
`fairchem-hdgnn check CONFIG` finds wrong keys and values before a training starts. If a default is empty, the text
describes it.
"""

SECTIONS: dict[str, tuple[str, type]] = {
    "`model`, HDGNN": ("`name: fairchem_hdgnn.HDGNN`; [model.md](model.md) has the equations.", HDGNNConfig),
    "`model`, eSCN": ("`name: fairchem_hdgnn.ESCN`; see [escn.md](escn.md).", ESCNConfig),
    "`model`, graph and outputs": ("For both models.", GraphSettings),
    "`dataset`": (
        "Keys of `dataset.train`, `dataset.val`, `dataset.test` and, up to `use_train_settings`, of `dataset.relax`.",
        Split,
    ),
    "`dataset.train.transforms.normalizer`": (
        "Keys of each target there: the network learns (target - `mean`) / `rmsd`.",
        Normalizer,
    ),
    "`dataset.train.transforms.noisy_nodes`": (
        "Structures that are moved in training; see [leaderboard.md](leaderboard.md).",
        NoisyNodes,
    ),
    "`loss_functions`": ("A list; keys of each target in it.", Loss),
    "`optim`": (
        "A scheduler's own arguments, such as `max_lr` and `pct_start` of `OneCycleLR`, stand beside these.",
        Optim,
    ),
    "`optim.fine_tuning`": ("See [training.md](training.md).", FineTuning),
    "`task`": ("Of relaxations; see [leaderboard.md](leaderboard.md).", Task),
    "`task.relax_opt`": ("Settings of fairchem's LBFGS.", RelaxOpt),
}
"""Heading -> introduction and keys."""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


def page() -> str:
    """The content of the page."""
    return HEAD + "".join(_section(heading, text, kind) for heading, (text, kind) in SECTIONS.items())


def _section(heading: str, text: str, kind: type) -> str:
    columns = ["key", "may be", "default", "what it does", "what a larger one costs"]
    rows = [columns, ["---"] * len(columns), *(_row(key, kind) for key in keys_of(kind).values())]
    if not any(row[-1] for row in rows[2:]):
        rows = [row[:-1] for row in rows]
    return f"\n## {heading}\n\n{text}\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(key: Key, kind: type) -> list[str]:
    meaning, _, cost = key.meaning.replace("``", "`").replace("|", "\\|").partition(" Cost: ")
    return [f"`{key.name}`", key.allowed, "; ".join(_defaults(key, kind)), meaning, cost.rstrip(".")]


def _defaults(key: Key, kind: type) -> Iterator[str]:
    presets = {preset.value: values[key.name] for preset, values in PRESETS.items() if key.name in values}
    if kind is HDGNNConfig and presets:
        yield from (f"{preset}: {_yaml(value)}" for preset, value in presets.items())
    elif key.required:
        yield "required"
    elif key.default is not None:
        yield _yaml(key.default)


def _yaml(value: Any) -> str:
    value = getattr(value, "value", value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
