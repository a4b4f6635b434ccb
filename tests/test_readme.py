"""What the README and the pages name exists."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fairchem_hdgnn.cli import COMMANDS

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import keys_page  # noqa: E402

PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "slurm").glob("*.md")]
NAMES: dict[str, tuple[str, Callable[[Path, str], bool]]] = {
    "page or file": (r"\]\((?!https?:|mailto:|#)([^)#]+)", lambda page, name: (page.parent / name).exists()),
    "command": (r"^\s*fairchem-hdgnn (\S+)", lambda page, name: name in COMMANDS),
    "config": (r"(?<![\w/])(configs/[\w/-]+\.yml)", lambda page, name: (ROOT / name).is_file()),
    "script": (r"python3? (?:-m )?((?:benchmarks|examples)/\S+\.py)", lambda page, name: (ROOT / name).is_file()),
}
"""How a page names each, and whether what it names is there."""


@pytest.mark.parametrize("kind", NAMES)
def test_what_pages_name_exists(kind: str) -> None:
    pattern, exists = NAMES[kind]
    named = [(page, name) for page in PAGES for name in re.findall(pattern, page.read_text(), re.MULTILINE)]
    assert named
    assert [(page.name, name) for page, name in named if not exists(page, name)] == []


def test_page_of_keys_is_current() -> None:
    assert keys_page.PAGE.read_text() == keys_page.page(), "run `python tools/keys_page.py`"
