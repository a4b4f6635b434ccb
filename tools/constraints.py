"""Pin the newest compatible versions for each torch in ``constraints/``, with the uv of ``.venv``.

``python tools/constraints.py`` writes all files, ``python tools/constraints.py 2.7`` one,
``python tools/constraints.py fairchem-2`` that of the environment with fairchem-core 2, and
``python tools/constraints.py docs`` that of the documentation.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import tomllib
from lines import DOCS_PINS, DOCS_PYTHONS, FAIRCHEM_2, LINES, ROOT, Line, Python, text
from packaging.requirements import Requirement

EXTRAS = ("qm9", "vesin")

PROJECT = """
[project]
name = "pins"
version = "0"
requires-python = ">={oldest}"
dependencies = {requirements}

[tool.uv]
environments = ["sys_platform == 'linux' and {pythons}"]
"""


def main(names: list[str]) -> None:
    """Write the files of the given lines, or of all."""
    for line in LINES:
        if not names or line.name in names:
            line.constraints.parent.mkdir(exist_ok=True)
            line.constraints.write_text(pins(line))
            print(line.constraints.relative_to(ROOT))
    if not names or FAIRCHEM_2.pins in names:
        FAIRCHEM_2.constraints.write_text(pins_of_second(FAIRCHEM_2))
        print(FAIRCHEM_2.constraints.relative_to(ROOT))
    if not names or DOCS_PINS.stem in names:
        DOCS_PINS.write_text(pins_of_docs())
        print(DOCS_PINS.relative_to(ROOT))


def pins(line: Line) -> str:
    """The content of a line's file: versions, with markers for Pythons that need other ones."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [f"torch=={line.torch}", line.numpy, "wheel", "hatchling", "editables"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted += [requirement for requirement in lines if requirement and not requirement.startswith("#")]
    wanted += project["dependency-groups"]["test"]
    wanted += [requirement for extra in EXTRAS for requirement in project["project"]["optional-dependencies"][extra]]
    head = f"# torch {line.torch} on Linux, Python {text(line.oldest)} to {text(line.newest)}. By `make constraints`.\n"
    return f"{head}fairchem-core==1.10.0\n" + compiled(wanted, line.oldest, line.newest)


def pins_of_second(line: Line) -> str:
    """The same for fairchem-core 2, which is itself pinned."""
    project = tomllib.loads((ROOT / "packaging/fairchem2/pyproject.toml").read_text())
    wanted = [f"torch=={line.torch}", *project["project"]["dependencies"], *project["dependency-groups"]["test"]]
    head = f"# fairchem-core 2 on Linux, Python {text(line.oldest)} to {text(line.newest)}. By `make constraints`.\n"
    return head + compiled(wanted, line.oldest, line.newest)


def pins_of_docs() -> str:
    """The same for the documentation."""
    oldest, newest = DOCS_PYTHONS
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["docs"]
    head = f"# The documentation, on Linux, Python {text(oldest)} to {text(newest)}. By `make constraints`.\n"
    return head + compiled(wanted, oldest, newest)


def compiled(wanted: list[str], oldest: Python, newest: Python) -> str:
    """Pins of the newest versions that meet these requirements, one per line.

    Raises:
        SystemExit: no versions are compatible.
    """
    options = ["--quiet", "--universal", "--python-version", text(oldest), "--no-header", "--no-annotate"]
    command = [sys.executable, "-m", "uv", "pip", "compile", *options, "--no-emit-index-url"]
    pythons = f"python_version >= '{text(oldest)}' and python_version <= '{text(newest)}'"
    with tempfile.TemporaryDirectory() as folder:
        # Not in the project's own folder, whose overrides would take precedence over the line's torch.
        asked = PROJECT.format(oldest=text(oldest), pythons=pythons, requirements=json.dumps(wanted))
        Path(folder, "pyproject.toml").write_text(asked)
        done = subprocess.run([*command, "pyproject.toml"], capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        sys.exit(f"constraints: no compatible versions for {', '.join(wanted)}:\n{done.stderr}")
    return "\n".join(map(shortened, done.stdout.splitlines())) + "\n"


def shortened(pin: str) -> str:
    """A pin without the markers that hold for every line: Linux, and the newest Python."""
    requirement = Requirement(pin)
    if requirement.marker is not None:
        marker = str(requirement.marker).replace('"', "'")
        for always in (r"sys_platform == 'linux'", r"python_full_version < '3\.1[34]'"):
            marker = re.sub(rf" and {always}|{always} and |^{always}$", "", marker)
        return f"{requirement.name}{requirement.specifier}" + (f" ; {marker}" if marker else "")
    return pin


if __name__ == "__main__":
    main(sys.argv[1:])
