"""What the README and the pages name exists."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from fairchem_hdgnn.cli import COMMANDS

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import keys_page  # noqa: E402

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "slurm").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#]+)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
    for command in re.findall(r"^\s*fairchem-hdgnn (\S+)", text, re.MULTILINE):
        assert command in COMMANDS, f"{page.name} names 'fairchem-hdgnn {command}'"
    for config in re.findall(r"(?<![\w/])configs/[\w/-]+\.yml", text):
        assert (ROOT / config).is_file(), f"{page.name} names {config}"
    for script in re.findall(r"python3? (?:-m )?(benchmarks/\S+\.py)", text):
        assert (ROOT / script).is_file(), f"{page.name} names {script}"


def test_page_of_keys_is_current() -> None:
    assert keys_page.PAGE.read_text() == keys_page.page(), "run `python tools/keys_page.py`"
