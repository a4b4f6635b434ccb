"""What the README and the pages name exists, and the README's commands run as they stand."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111
from ase.io import write
from fairchem.core.common import distutils

from fairchem_hdgnn.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "tools"), str(ROOT / "benchmarks")]

import keys_page  # noqa: E402
from pages import marks  # noqa: E402

README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks/README.md",
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "slurm").glob("*.md"),
]
MAKEFILE = (ROOT / "Makefile").read_text()


def braces(pattern: str) -> list[str]:
    """``a/{b,c}`` -> ``a/b`` and ``a/c``."""
    before, brace, rest = pattern.partition("{")
    inner, _, after = rest.partition("}")
    return [before + choice + end for choice in inner.split(",") for end in braces(after)] if brace else [pattern]


def has_configs(_: Path, pattern: str) -> bool:
    return all(any((ROOT / "configs").glob(each)) for each in braces(pattern.rstrip("/")))


NAMES: dict[str, tuple[str, Callable[[Path, str], bool]]] = {
    "page or file": (r"\]\((?!https?:|mailto:|#)([^)#]+)", lambda page, name: (page.parent / name).exists()),
    "figure": (r"(?:src|srcset)=\"([^\"]+)\"", lambda page, name: (page.parent / name).is_file()),
    "command": (r"^\s*fairchem-hdgnn (\S+)", lambda page, name: name in COMMANDS),
    "target": (r"(?:^|`)make ([a-z]+(?:-[a-z]+)*)\b", lambda _, name: f"\n{name}:" in MAKEFILE),
    "config": (r"(?<![\w/])(configs/[\w/-]+\.yml)", lambda page, name: (ROOT / name).is_file()),
    "configs": (r"`((?:oc20|qm9)/[^`]+)`", has_configs),
    "script": (r"python3? (?:-m )?((?:benchmarks|examples|tools)/\S+\.py)", lambda page, name: (ROOT / name).is_file()),
    "test": (r"(?<![\w/.])(tests/[\w/]+\w(?:\.py)?)", lambda page, name: (ROOT / name).exists()),
}
"""How a page names each, and whether what it names is there."""


@pytest.mark.parametrize("kind", NAMES)
def test_what_pages_name_exists(kind: str) -> None:
    pattern, exists = NAMES[kind]
    named = [(page, name) for page in PAGES for name in re.findall(pattern, page.read_text(), re.MULTILINE)]
    assert named
    assert [(page.name, name) for page, name in named if not exists(page, name)] == []


def command_lines(text: str) -> list[list[str]]:
    """The ``fairchem-hdgnn`` commands of a page's code, each as its words."""
    code = "".join(re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line, comments=True)[1:] for line in re.findall(r"^fairchem-hdgnn .*", code, re.MULTILINE)]


USED = {
    (words[0], word.partition("=")[0])
    for page in PAGES
    for words in command_lines(page.read_text())
    for word in words
    if re.match(r"--[a-z-]+(?:=|$)", word)
}
"""Commands and their flags on the pages."""


@pytest.mark.parametrize("command", sorted({command for command, _ in USED}))
def test_flags_on_pages_exist(command: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    known = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", capsys.readouterr().out))
    assert {flag for name, flag in USED if name == command} <= known


def section(title: str) -> str:
    """A part of the README."""
    return README.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]


def structures(count: int, seed: int) -> list[Atoms]:
    """Rattled slabs with an atom on top, and an energy that has no meaning."""
    random = np.random.default_rng(seed)
    slabs = []
    for _ in range(count):
        atoms = fcc111(random.choice(["Cu", "Pt"]), (2, 2, 2), vacuum=6.0)
        atoms.append("O")
        atoms.positions[-1] = atoms.positions[-2] + (0, 0, 1.5 + 0.3 * random.random())
        atoms.info = {"energy": float(random.normal())}
        slabs.append(atoms)
    return slabs


def test_commands_for_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a narrow network and two epochs; then the calculator. fairchem takes the folder that it was imported in."""
    monkeypatch.chdir(tmp_path)
    write("train.extxyz", structures(12, seed=0))
    write("val.extxyz", structures(4, seed=1))
    shorter = {
        "recipe": ["--epochs", "2"],
        "train": [
            "--cpu",
            f"--run-dir={tmp_path}",
            "--optim.num_workers=0",
            "--model.sphere_channels=4",
            "--model.hidden_channels=4",
        ],
    }
    commands = command_lines(section("Your own data"))
    assert [words[0] for words in commands] == ["make-lmdb", "make-lmdb", "recipe", "train", "predict"]
    try:
        for words in commands:
            assert main([*words, *shorter.get(words[0], [])]) == 0
    finally:
        distutils.cleanup()
    predictions = np.load("predictions/val_id.npz")
    assert len(predictions["ids"]) == len(predictions["energy"]) == 4

    (code,) = re.findall(r"```python\n(.*?)```", section("Your own data"), re.DOTALL)
    (atoms,) = structures(1, seed=2)
    exec(code, {"atoms": atoms})
    assert np.isfinite(atoms.get_potential_energy())


def test_readme_has_the_results_of_the_page_of_evidence() -> None:
    begin, end = marks("gamenet")
    parts = [page.read_text().split(begin)[1].split(end)[0] for page in (README, ROOT / "docs/evidence.md")]
    assert parts[0] == parts[1], "benchmarks/gamenet.py writes both"


def test_every_benchmark_is_listed() -> None:
    listed = set(re.findall(r"^\| `(\w+\.py)`", (ROOT / "benchmarks/README.md").read_text(), re.MULTILINE))
    assert listed == {path.name for path in (ROOT / "benchmarks").glob("*.py")}


def test_changelog_names_every_command() -> None:
    words = set(re.findall(r"[a-z0-9-]+", (ROOT / "CHANGELOG.md").read_text()))
    assert set(COMMANDS) <= words


def test_page_of_keys_is_current() -> None:
    assert keys_page.PAGE.read_text() == keys_page.page(), "run `python tools/keys_page.py`"
