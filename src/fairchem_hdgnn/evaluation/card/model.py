"""The card's section on the network: sizes, keys, file, outputs with units, normalisers."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any

from ase.data import chemical_symbols

from fairchem_hdgnn.evaluation.card.markdown import NOT_KNOWN, code, facts, table
from fairchem_hdgnn.evaluation.card.subject import Subject
from fairchem_hdgnn.host.graph import GraphSettings
from fairchem_hdgnn.host.trained import OUTPUTS
from fairchem_hdgnn.schema import keys_of

LENGTHS = {"cutoff", "distance_resolution"}
"""Keys in Å; all others have no unit."""

PAPERS = {
    "HDGNN": "HDGNN (An et al., ICLR 2024)",
    "ESCN": "eSCN (Passaro and Zitnick, ICML 2023)",
}


def model_section(subject: Subject) -> list[str]:
    """Lines of the section."""
    config = subject.config
    choices = {name: getattr(config, name).value for name in ("message", "frames") if hasattr(config, name)}
    rows = {
        "architecture": f"{PAPERS[subject.trained.name]}, {code(f'fairchem_hdgnn.{subject.trained.name}')}",
        "sizes": ", ".join(f"{name} = {value}" for name, value in subject.sizes.items()),
        **{name: code(value) for name, value in choices.items()},
        "edges": f"up to {config.cutoff:g} Å, of the nearest {subject.graph.max_neighbors} neighbours of each atom",
        "parameters": f"{subject.num_parameters:,}",
        "file": f"{code(subject.path.name)}, {subject.size / 1e6:.2f} MB",
        "SHA-256": code(subject.sha256),
        "weights": _weights(subject),
        **_outputs(subject),
    }
    keys = list(_changed_keys(subject))
    lines = ["## Model", "", *facts(rows), ""]
    if not keys:
        return [*lines, "All keys have their defaults.", ""]
    return [*lines, "Keys that differ from their defaults:", "", *table(("key", "value", "default"), keys), ""]


def _weights(subject: Subject) -> str:
    averaged, decay = subject.record.averaged, subject.record.section("optim").get("ema_decay")
    if averaged is None:
        return f"averaged or raw: {NOT_KNOWN}"
    if not averaged:
        return "raw, without averaging"
    return f"moving averages (EMA){f', decay {decay}' if decay else ''}"


def _outputs(subject: Subject) -> dict[str, str]:
    """Unit, normaliser and references of each output."""
    rows = {}
    for output, (name, unit) in zip(OUTPUTS, subject.units.items()):
        scale = subject.trained.scales.get(output)
        each = "of each atom" if output == "forces" else "of a structure"
        rows[f"output {code(name)}"] = f"{unit}, {each}"
        rows[f"normaliser of {code(name)}"] = (
            "none" if scale is None else f"label = {scale.mean:g} {unit} + {scale.rmsd:g} {unit} × the network's output"
        )
        rows[f"element references of {code(name)}"] = _references(subject, output, unit)
    return rows


def _references(subject: Subject, output: str, unit: str) -> str:
    references = subject.trained.references.get(output)
    if references is None:
        return "none"
    known = {chemical_symbols[number]: value for number, value in enumerate(references.tolist()) if value}
    return ", ".join(f"{symbol} {value:.4f}" for symbol, value in known.items()) + f" ({unit} an atom)"


def _changed_keys(subject: Subject) -> Iterator[tuple[str, str, str]]:
    for name, value in subject.trained.keys.items():
        kind: Any = GraphSettings if name in keys_of(GraphSettings) else type(subject.config)
        default = keys_of(kind)[name].default
        if value is None or value == default:
            continue
        unit = " Å" if name in LENGTHS else ""
        before = "follows from other keys" if default is None else f"{code(default)}{unit}"
        yield code(name), f"{code(value.value if isinstance(value, Enum) else value)}{unit}", before
