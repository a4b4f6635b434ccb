"""Make ``.venv`` and install the project into it, in the order that its compiled dependencies need.

``torch-scatter`` and ``torch-sparse`` import torch while they are built, so torch comes first. They are taken as wheels
where pip can find any (PyG's index for this torch, or a folder named in ``PIP_FIND_LINKS``), else built from source.
Versions come from ``constraints.txt``. Safe to run again: pip skips what is there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
COMPILED = ["torch-scatter", "torch-sparse"]
PYG_INDEX = "https://data.pyg.org/whl/torch-{torch}+{platform}.html"
PROBE_SECONDS = 3


def main() -> None:
    """Install everything, or exit with one line that says what to do."""
    if not (3, 9) <= sys.version_info[:2] <= (3, 12):
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        sys.exit(f"install: torch 2.4 runs on Python 3.9 to 3.12, this is {version}; name one: make PYTHON=python3.11")
    os.chdir(ROOT)
    make_environment()
    step("torch", "the largest download, about 2.5 GB with its CUDA libraries on Linux")
    pip("pip", "setuptools", "wheel", "hatchling", "editables", "numpy", "torch")
    step(" and ".join(COMPILED), "as wheels where they can be had, else compiled: about 10 minutes on 2 cores")
    install_compiled()
    step("fairchem-hdgnn", "editable, with fairchem-core and what the tests need")
    pip("--no-build-isolation", "--editable", ".[test]")


def make_environment() -> None:
    """Make ``.venv`` unless it works already."""
    if PYTHON.exists() and succeeds("-c", "import pip"):
        return
    try:
        venv.create(ENVIRONMENT, with_pip=True, symlinks=True)
    except subprocess.CalledProcessError:
        sys.exit("install: this Python cannot make virtual environments; on Debian: apt-get install python3-venv")


def install_compiled() -> None:
    """Install torch's compiled extensions, as wheels if there are any that work with the installed torch."""
    links = [os.environ.get("PIP_FIND_LINKS", ""), pyg_wheels()]
    pip("--no-build-isolation", *COMPILED, find_links=" ".join(filter(None, links)))
    modules = ", ".join(name.replace("-", "_") for name in COMPILED)
    if not succeeds("-c", f"import {modules}"):
        step("the same from source", "the wheels found were built for another torch or C library")
        pip("--no-build-isolation", "--no-cache-dir", "--force-reinstall", "--no-deps", "--no-binary=:all:", *COMPILED)


def pyg_wheels() -> str:
    """Address of PyG's wheels for the installed torch; empty when it does not answer."""
    query = "import torch; print(torch.__version__)"
    version = subprocess.run([PYTHON, "-c", query], check=True, capture_output=True, text=True).stdout.strip()
    release, _, platform = version.partition("+")
    # One set of wheels serves every patch release, and is listed under the first.
    minor = ".".join(release.split(".")[:2])
    address = PYG_INDEX.format(torch=f"{minor}.0", platform=platform or "cpu")
    try:
        with urllib.request.urlopen(address, timeout=PROBE_SECONDS):
            return address
    except OSError:
        return ""


def pip(*arguments: str, find_links: str | None = None) -> None:
    """Run ``pip install`` in the environment, under the constraints."""
    environment = {"MAX_JOBS": "2", **os.environ}
    if find_links:
        environment["PIP_FIND_LINKS"] = find_links
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "-c", "constraints.txt", *arguments]
    if subprocess.run(command, env=environment, check=False).returncode:
        sys.exit(
            f"install: `pip install {' '.join(arguments)}` failed, see above; if a compiler or Python.h is missing, "
            "on Debian: apt-get install build-essential python3-dev; then run make again"
        )


def succeeds(*arguments: str) -> bool:
    """Whether the environment's Python runs with these arguments and exits with 0."""
    return subprocess.run([PYTHON, *arguments], check=False, capture_output=True).returncode == 0


def step(what: str, remark: str) -> None:
    """Say what is installed next."""
    print(f"\n== {what} ({remark})", flush=True)


if __name__ == "__main__":
    main()
