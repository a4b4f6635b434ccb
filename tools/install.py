"""Make ``.venv`` and install the project into it: fairchem-core 1.10 beside a torch that it was not released for.

``HOST=2`` makes ``.venv2`` with fairchem-core 2 instead, which needs none of what follows.

fairchem-core's own metadata asks for torch 2.4, numpy 1 and Python up to 3.12. It runs on later ones, so what it needs
is installed from ``requirements.txt``, pinned by a file in ``constraints/``, and it comes last, without its
dependencies. It imports torch-scatter and torch-sparse. Where there are wheels of them for the installed torch, those
are taken; else the stand-ins in ``packaging/``, in plain torch. Nothing is compiled unless asked. Safe to run again.

uv does the work, since it downloads and unpacks several packages at a time. It gets the indexes that pip is set up for.

Environment variables, which ``make install NAME=VALUE`` sets:

- ``TORCH=2.7``: another line of torch than the newest for this Python.
- ``CPU=1``: torch's build without CUDA, a tenth of the download.
- ``NEWEST=1``, with ``HOST=2``: ``.venv2-newest`` with the newest fairchem-core, also beyond the range of the metadata.
- ``COMPILE=1``: build torch-scatter and torch-sparse from source, about 20 minutes on 2 cores.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from lines import FAIRCHEM_2, ROOT, Line, find_line, text

SCATTER = ("torch-scatter==2.1.2", "torch-sparse==0.6.18")
STANDINS = ("packaging/torch-scatter", "packaging/torch-sparse")
FAIRCHEM = "fairchem-core==1.10.0"
SECOND = ROOT / "packaging/fairchem2"
PYG_INDEX = "https://data.pyg.org/whl/torch-{torch}+{platform}.html"
UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
}
"""Settings of pip -> environment variables by which uv is told the same."""

PROBE_SECONDS = 3
CPU_GB, OTHER_GB = 0.2, 0.4
"""Downloads of torch without CUDA, and of everything else, GB."""

WORKS = """
import torch, torch_scatter, torch_sparse
assert torch_scatter.scatter(torch.ones(3), torch.tensor([0, 1, 1]), dim=0).tolist() == [1, 2]
row = torch.tensor([1, 0])
assert torch_sparse.SparseTensor(row=row, col=row, sparse_sizes=(2, 2)).storage.row().tolist() == [0, 1]
"""


class Environment:
    """A virtual environment that the project is installed into.

    Args:
        folder: Where it is or will be.
        python: The Python that makes it.
        project: Folder of the ``pyproject.toml`` whose settings uv follows, overrides of versions among them.
    """

    def __init__(self, folder: Path, python: str = sys.executable, project: Path = ROOT) -> None:
        self.folder, self.project = folder, project
        self.python = folder / "bin" / "python"
        self._maker = python

    def make(self) -> None:
        """Make it unless it works already.

        Raises:
            SystemExit: this Python cannot.
        """
        if self.succeeds("import pip, uv"):
            return
        script = f"import venv; venv.create({str(self.folder)!r}, with_pip=True, symlinks=True, clear=True)"
        if subprocess.run([self._maker, "-c", script], check=False).returncode:
            sys.exit("install: this Python cannot make virtual environments; on Debian: apt-get install python3-venv")
        if subprocess.run([str(self.python), "-m", "pip", "install", "--quiet", "uv"], check=False).returncode:
            sys.exit("install: `pip install uv` failed, see above; is there a network, or a mirror in pip's settings?")

    def pip(self, *arguments: str, pins: Path, remedy: str = "run make again") -> None:
        """Run ``uv pip install`` in it, under the constraints of a file.

        Raises:
            SystemExit: it failed; with what to do.
        """
        if not self._pip(*arguments, "-c", str(pins)):
            sys.exit(f"install: `uv pip install {' '.join(arguments)}` failed, see above; {remedy}")

    def unbound(self, package: str, *arguments: str) -> None:
        """The same without pins, and without this project's bounds on one package.

        Raises:
            SystemExit: it failed; with what to do.
        """
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as overrides:
            overrides.write(f"{package}\n")
            overrides.flush()
            if not self._pip("--upgrade", "--override", overrides.name, *arguments):
                sys.exit(f"install: the newest {package} cannot be installed beside this package, see above")

    def tries_pip(self, *arguments: str) -> bool:
        """Run ``uv pip install`` in it; whether that succeeded. What it says of a failure is left out."""
        return self._pip(*arguments, quiet=True)

    def _pip(self, *arguments: str, quiet: bool = False) -> bool:
        # Every test and every rank is a new process, which else would compile all that it imports where
        # PYTHONDONTWRITEBYTECODE is set.
        options = ["--python", str(self.python), "--compile-bytecode"]
        command = [str(self.python), "-m", "uv", "pip", "install", *options, *arguments]
        environment = {"MAX_JOBS": "2", **uv_settings(self.pip_settings()), **os.environ}
        output = subprocess.DEVNULL if quiet else None
        done = subprocess.run(command, env=environment, stdout=output, stderr=output, check=False, cwd=self.project)
        return not done.returncode

    def pip_settings(self) -> str:
        """What pip is set up for here, by its files and the environment: lines such as ``global.index-url='...'``."""
        command = [str(self.python), "-m", "pip", "config", "list"]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT).stdout

    def succeeds(self, script: str) -> bool:
        """Whether a Python script runs in it without an error."""
        if not self.python.exists():
            return False
        command = [str(self.python), "-W", "ignore", "-c", script]
        return not subprocess.run(command, capture_output=True, check=False, cwd=ROOT).returncode

    def answer(self, script: str) -> str:
        """What a Python script prints in it."""
        command = [str(self.python), "-W", "ignore", "-c", script]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()


def main() -> None:
    """Install everything into ``.venv`` (or ``.venv2``), or exit with one line that says what to do."""
    if os.environ.get("HOST", "1") == "2":
        install_second(newest=bool(os.environ.get("NEWEST")), cpu=bool(os.environ.get("CPU")))
        return
    try:
        line = find_line(sys.version_info[:2], os.environ.get("TORCH", ""))
    except ValueError as error:
        sys.exit(f"install: {error}; name another: make PYTHON=python3.11")
    environment = Environment(ROOT / ".venv")
    unmark(environment)
    install(environment, line, cpu=bool(os.environ.get("CPU")), compile_=bool(os.environ.get("COMPILE")))


def install_second(*, newest: bool, cpu: bool) -> None:
    """Install fairchem-core 2 and this package into an environment of their own.

    Args:
        newest: Take the newest release of fairchem-core, not the one that is pinned.
        cpu: Take torch's build without CUDA.
    """
    line = FAIRCHEM_2
    if not line.runs_on(sys.version_info[:2]):
        needed = f"Python {text(line.oldest)} to {text(line.newest)}"
        sys.exit(
            f"install: fairchem-core 2 is tested on {needed}, not {text(sys.version_info[:2])}; "
            "name another: make HOST=2 PYTHON=python3.11"
        )
    environment = Environment(ROOT / (".venv2-newest" if newest else ".venv2"), project=SECOND)
    unmark(environment)
    announce(line, cpu=cpu, fairchem="2", folder=environment.folder.name)
    environment.make()
    backend = ["--torch-backend", "cpu"] if cpu else []
    step("fairchem-core 2, what it and this package need, and the tests")
    wanted = ["--editable", ".", "--group", "test", *backend]
    if newest:
        environment.unbound("fairchem-core", *wanted)
    else:
        environment.pip(*wanted, pins=line.constraints)


def unmark(environment: Environment) -> None:
    """Forget that an installation was complete."""
    for mark in environment.folder.glob(".installed*"):
        mark.unlink()


def install(environment: Environment, line: Line, *, cpu: bool = False, compile_: bool = False) -> None:
    """Install everything into an environment.

    Args:
        environment: Made if it is not there.
        line: The torch to install.
        cpu: Take torch's build without CUDA.
        compile_: Build torch-scatter and torch-sparse from source.
    """
    announce(line, cpu=cpu)
    environment.make()
    step(f"torch {line.torch}, what fairchem-core and this package need, and the tests")
    backend = ["--torch-backend", "cpu"] if cpu else []
    environment.pip("-r", "requirements.txt", "--group", "test", *backend, pins=line.constraints)
    step("torch-scatter and torch-sparse")
    install_scatter(environment, line, compile_=compile_)
    step("fairchem-core 1.10 and this package")
    environment.pip("--no-deps", "--no-build-isolation", FAIRCHEM, "--editable", ".", pins=line.constraints)


def announce(line: Line, *, cpu: bool, fairchem: str = "1.10", folder: str = ".venv") -> None:
    """Say what will be downloaded and how long that may take; refuse a disk that is too small."""
    size = (CPU_GB if cpu else line.cuda_gb) + OTHER_GB
    minutes = size * 8000 / 100 / 60
    kind = "without CUDA" if cpu else "with CUDA"
    print(f"Installing torch {line.torch} {kind}, fairchem-core {fairchem} and about 100 packages into {folder}.")
    print(f"Downloads {size:.1f} GB: about {minutes:.0f} min at 100 Mbit/s, then 1 to 2 min to unpack.")
    if not cpu and shutil.which("nvidia-smi") is None:
        print(f"No NVIDIA driver here: `make install CPU=1` downloads {CPU_GB + OTHER_GB:.1f} GB.")
    needed, free = 3 * size, shutil.disk_usage(ROOT).free / 1e9
    if free < needed:
        sys.exit(f"install: {ROOT} has {free:.1f} GB of free disk space; this needs about {needed:.0f} GB")


def install_scatter(environment: Environment, line: Line, *, compile_: bool) -> None:
    """Install torch-scatter and torch-sparse: compiled here if asked, else as wheels, else the stand-ins."""
    if compile_:
        source = ["--no-build-isolation", "--no-cache", "--reinstall", "--no-deps", "--no-binary=:all:"]
        remedy = "if a compiler or Python.h is missing, on Debian: apt-get install build-essential python3-dev"
        environment.pip(*source, *SCATTER, pins=line.constraints, remedy=remedy)
        return
    links = [argument for page in pyg_wheels(environment) for argument in ("--find-links", page)]
    wheels = environment.tries_pip("--only-binary=:all:", "--no-deps", *links, *SCATTER)
    if wheels and environment.succeeds(WORKS):
        return
    print("No wheels of them for this torch here: taking the stand-ins in packaging/, which are plain torch.")
    environment.pip("--no-deps", "--no-build-isolation", "--reinstall", *STANDINS, pins=line.constraints)


def uv_settings(pip_settings: str) -> dict[str, str]:
    """Environment variables that set up uv as ``pip config list`` says that pip is."""
    found: dict[str, str] = {}
    for key, value in re.findall(r"^\S+\.([\w-]+)='(.*)'$", pip_settings, flags=re.MULTILINE):
        if key in UV_NAMES:
            # pip separates several by white space or line ends, uv files and pages by commas.
            found[UV_NAMES[key]] = ("," if key == "find-links" else " ").join(value.replace("\\n", " ").split())
    if "UV_INDEX" in found:
        # As pip does: the best version of all indexes, not the first index that has any.
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return found


def pyg_wheels(environment: Environment) -> list[str]:
    """PyG's page of wheels for the installed torch; empty when it does not answer."""
    release, _, platform = environment.answer("import torch; print(torch.__version__)").partition("+")
    # One set of wheels serves every patch release, and is listed under the first.
    minor = ".".join(release.split(".")[:2])
    address = PYG_INDEX.format(torch=f"{minor}.0", platform=platform or "cpu")
    try:
        with urllib.request.urlopen(address, timeout=PROBE_SECONDS):
            return [address]
    except OSError:
        return []


def step(what: str) -> None:
    """Say what is installed next."""
    print(f"\n== {what}", flush=True)


if __name__ == "__main__":
    main()
