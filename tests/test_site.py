"""The documentation as a site: every page is in it, generated pages are current, and a broken link fails the build."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.append(str(ROOT / "tools"))

import cli_page  # noqa: E402
import keys_page  # noqa: E402

MKDOCS = ROOT / ".venv-docs/bin/mkdocs"


def pages_of(navigation: Any) -> Iterator[str]:
    if isinstance(navigation, str):
        yield navigation
    else:
        for part in navigation.values() if isinstance(navigation, dict) else navigation:
            yield from pages_of(part)


def test_navigation_has_every_page_once() -> None:
    listed = pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_page_of_commands_is_current() -> None:
    assert cli_page.PAGE.read_text() == cli_page.page(), "run `python tools/cli_page.py`"


def test_generated_pages_end_as_git_hooks_want_it() -> None:
    for page in (cli_page.page(), keys_page.page()):
        assert page == page.rstrip() + "\n"


@pytest.mark.parametrize(
    "broken", ["", "[nowhere](model.md#no-such-heading)", "[nowhere](no-such-page.md)", "[nowhere](../no-such-file.py)"]
)
def test_build_fails_at_a_broken_link(broken: str, tmp_path: Path) -> None:
    if not MKDOCS.exists():
        pytest.skip("MkDocs is not installed: make docs")
    for name in (
        "docs",
        "mkdocs.yml",
        "tools",
        "src",
        "slurm",
        "configs",
        "packaging",
        "benchmarks",
        "CONTRIBUTING.md",
    ):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, tmp_path / name)
    for name in ("README.md", "CHANGELOG.md"):
        shutil.copy2(ROOT / name, tmp_path / name)
    with (tmp_path / "docs/index.md").open("a") as page:
        page.write(f"\n{broken}\n")
    command = [MKDOCS, "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == bool(broken), done.stderr
    if broken:
        assert "no-such" in done.stderr
    else:
        assert "arithmatex" in (tmp_path / "site/model.html").read_text()
        assert (tmp_path / "site/mathjax/tex-chtml.js").stat().st_size > 1e6
