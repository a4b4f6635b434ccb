"""Markdown with escaped texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

NOT_KNOWN = "not known"


def code(value: Any) -> str:
    """A name or value as in a config."""
    return f"`{' '.join(_plain(value).split()).replace('`', chr(39))}`"


def cell(text: str) -> str:
    """A text in a table."""
    return " ".join(text.split()).replace("|", "\\|")


def facts(rows: Mapping[str, str]) -> list[str]:
    """A table of two columns without headings."""
    return ["| | |", "| --- | --- |", *(f"| {cell(name)} | {cell(text)} |" for name, text in rows.items())]


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Lines of a table."""
    lines = [[*headings], *([cell(text) for text in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in (lines[0], ["---"] * len(lines[0]), *lines[1:])]


def yaml_text(value: Any) -> str:
    """YAML in the order given."""
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100))


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    return str(yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)).partition("\n...")[0]
