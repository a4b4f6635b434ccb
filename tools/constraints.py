"""Pin the newest compatible versions for each torch in ``constraints/``, with the uv of ``.venv``.

``python tools/constraints.py`` writes all files, ``python tools/constraints.py 2.7`` one, and
``python tools/constraints.py fairchem-2`` that of the environment with fairchem-core 2.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import tomllib
from lines import FAIRCHEM_2, LINES, ROOT, Line, text
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


def pins(line: Line) -> str:
    """The content of a line's file: versions, with markers for Pythons that need other ones."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [f"torch=={line.torch}", line.numpy, "wheel", "hatchling", "editables"]
    # On Python 3.9 submitit 1.5.4 fails on first use: it reads entry points through the API of later Pythons.
    wanted.append("submitit<1.5.4; python_version < '3.10'")
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted += [requirement for requirement in lines if requirement and not requirement.startswith("#")]
    wanted += project["dependency-groups"]["test"]
    wanted += [requirement for extra in EXTRAS for requirement in project["project"]["optional-dependencies"][extra]]
    head = f"# torch {line.torch} on Linux, Python {text(line.oldest)} to {text(line.newest)}. By `make constraints`.\n"
    return f"{head}fairchem-core==1.10.0\n" + compiled(line, wanted)


def pins_of_second(line: Line) -> str:
    """The same for fairchem-core 2, which is itself pinned."""
    project = tomllib.loads((ROOT / "packaging/fairchem2/pyproject.toml").read_text())
    wanted = [f"torch=={line.torch}", *project["project"]["dependencies"], *project["dependency-groups"]["test"]]
    head = f"# fairchem-core 2 on Linux, Python {text(line.oldest)} to {text(line.newest)}. By `make constraints`.\n"
    return head + compiled(line, wanted)


def compiled(line: Line, wanted: list[str]) -> str:
    """Pins of the newest versions that meet these requirements, one per line.

    Raises:
        SystemExit: no versions are compatible.
    """
    options = ["--quiet", "--universal", "--python-version", text(line.oldest), "--no-header", "--no-annotate"]
    command = [sys.executable, "-m", "uv", "pip", "compile", *options, "--no-emit-index-url"]
    pythons = f"python_version >= '{text(line.oldest)}' and python_version <= '{text(line.newest)}'"
    with tempfile.TemporaryDirectory() as folder:
        # Not in the project's own folder, whose overrides would take precedence over the line's torch.
        asked = PROJECT.format(oldest=text(line.oldest), pythons=pythons, requirements=json.dumps(wanted))
        Path(folder, "pyproject.toml").write_text(asked)
        done = subprocess.run([*command, "pyproject.toml"], capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        sys.exit(f"constraints: no compatible versions for torch {line.torch}:\n{done.stderr}")
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
