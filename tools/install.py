"""Create ``.venv`` and install the project into it: fairchem-core 1.10 with a newer torch than it was released for.

``HOST=2`` creates ``.venv2`` with fairchem-core 2 instead, to which the following does not apply.

fairchem-core's own metadata requires torch 2.4, numpy 1 and Python up to 3.12. It runs on later ones, so its
dependencies are installed from ``requirements.txt``, pinned by a file in ``constraints/``, and fairchem-core itself
last, without dependencies. It imports torch-scatter and torch-sparse. These are installed from wheels if there are any
for the installed torch, otherwise from the stand-ins in ``packaging/``, in plain torch. Nothing is compiled unless
requested. Safe to run again.

Packages are installed with uv, which downloads and unpacks them in parallel. It uses the indexes configured for pip.

Environment variables, which ``make install NAME=VALUE`` sets:

- ``TORCH=2.7``: a line of torch other than the newest for this Python.
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
"""Settings of pip -> equivalent environment variables of uv."""

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
        folder: Its path.
        python: The Python that creates it.
        project: Folder of the ``pyproject.toml`` with uv's settings, such as version overrides.
    """

    def __init__(self, folder: Path, python: str = sys.executable, project: Path = ROOT) -> None:
        self.folder, self.project = folder, project
        self.python = folder / "bin" / "python"
        self._maker = python

    def make(self) -> None:
        """Create it unless it already works.

        Raises:
            SystemExit: this Python cannot create virtual environments.
        """
        if self.succeeds("import pip, uv"):
            return
        script = f"import venv; venv.create({str(self.folder)!r}, with_pip=True, symlinks=True, clear=True)"
        if subprocess.run([self._maker, "-c", script], check=False).returncode:
            sys.exit("install: this Python cannot create virtual environments; on Debian: apt-get install python3-venv")
        if subprocess.run([str(self.python), "-m", "pip", "install", "--quiet", "uv"], check=False).returncode:
            sys.exit(
                "install: `pip install uv` failed, see above; check the network, or set a mirror in pip's settings"
            )

    def pip(self, *arguments: str, pins: Path, remedy: str = "run make again") -> None:
        """Run ``uv pip install`` in it, with the constraints of a file.

        Raises:
            SystemExit: it failed; with a remedy.
        """
        if not self._pip(*arguments, "-c", str(pins)):
            sys.exit(f"install: `uv pip install {' '.join(arguments)}` failed, see above; {remedy}")

    def unbound(self, package: str, *arguments: str) -> None:
        """The same without pins, and without this project's bounds on one package.

        Raises:
            SystemExit: it failed; with a remedy.
        """
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as overrides:
            overrides.write(f"{package}\n")
            overrides.flush()
            if not self._pip("--upgrade", "--override", overrides.name, *arguments):
                sys.exit(f"install: the newest {package} cannot be installed with this package, see above")

    def tries_pip(self, *arguments: str) -> bool:
        """Run ``uv pip install`` in it without output, and return whether it succeeded."""
        return self._pip(*arguments, quiet=True)

    def _pip(self, *arguments: str, quiet: bool = False) -> bool:
        # Every test and every rank is a new process, which would otherwise compile all its imports if
        # PYTHONDONTWRITEBYTECODE is set.
        options = ["--python", str(self.python), "--compile-bytecode"]
        command = [str(self.python), "-m", "uv", "pip", "install", *options, *arguments]
        environment = {"MAX_JOBS": "2", **uv_settings(self.pip_settings()), **os.environ}
        output = subprocess.DEVNULL if quiet else None
        done = subprocess.run(command, env=environment, stdout=output, stderr=output, check=False, cwd=self.project)
        return not done.returncode

    def pip_settings(self) -> str:
        """pip's settings from its files and the environment: lines such as ``global.index-url='...'``."""
        command = [str(self.python), "-m", "pip", "config", "list"]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT).stdout

    def succeeds(self, script: str) -> bool:
        """Whether a Python script runs in it without errors."""
        if not self.python.exists():
            return False
        command = [str(self.python), "-W", "ignore", "-c", script]
        return not subprocess.run(command, capture_output=True, check=False, cwd=ROOT).returncode

    def answer(self, script: str) -> str:
        """The output of a Python script that runs in it."""
        command = [str(self.python), "-W", "ignore", "-c", script]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()


def main() -> None:
    """Install everything into ``.venv`` (or ``.venv2``), or exit with a one-line remedy."""
    if os.environ.get("HOST", "1") == "2":
        install_second(newest=bool(os.environ.get("NEWEST")), cpu=bool(os.environ.get("CPU")))
        return
    try:
        line = find_line(sys.version_info[:2], os.environ.get("TORCH", ""))
    except ValueError as error:
        sys.exit(f"install: {error}; choose another: make PYTHON=python3.11")
    environment = Environment(ROOT / ".venv")
    outdate(environment)
    install(environment, line, cpu=bool(os.environ.get("CPU")), compile_=bool(os.environ.get("COMPILE")))


def install_second(*, newest: bool, cpu: bool) -> None:
    """Install fairchem-core 2 and this package into a separate environment.

    Args:
        newest: Use the newest release of fairchem-core, not the pinned one.
        cpu: Use torch's build without CUDA.
    """
    line = FAIRCHEM_2
    if not line.runs_on(sys.version_info[:2]):
        needed = f"Python {text(line.oldest)} to {text(line.newest)}"
        sys.exit(
            f"install: fairchem-core 2 is tested on {needed}, not {text(sys.version_info[:2])}; "
            "choose another: make HOST=2 PYTHON=python3.11"
        )
    environment = Environment(ROOT / (".venv2-newest" if newest else ".venv2"), project=SECOND)
    outdate(environment)
    announce(line, cpu=cpu, fairchem="2", folder=environment.folder.name)
    environment.make()
    step("fairchem-core 2, the dependencies of it and of this package, and those of the tests")
    wanted = ["--editable", ".", "--group", "test", *build_of_torch(environment, cpu=cpu)]
    if newest:
        environment.unbound("fairchem-core", *wanted)
    else:
        environment.pip(*wanted, pins=line.constraints)


def outdate(environment: Environment) -> None:
    """Let make take the mark of a complete installation as outdated; the options in it stay."""
    mark = environment.folder / ".installed"
    if mark.exists():
        os.utime(mark, (0, 0))


def build_of_torch(environment: Environment, *, cpu: bool) -> list[str]:
    """uv's options for torch's build: an installed one with CUDA is replaced if none is wanted."""
    if not cpu:
        return []
    replace = environment.succeeds("import torch; assert torch.version.cuda")
    return ["--torch-backend", "cpu", *(["--reinstall-package", "torch"] if replace else [])]


def install(environment: Environment, line: Line, *, cpu: bool = False, compile_: bool = False) -> None:
    """Install everything into an environment.

    Args:
        environment: Created if it does not exist.
        line: The torch to install.
        cpu: Use torch's build without CUDA.
        compile_: Build torch-scatter and torch-sparse from source.
    """
    announce(line, cpu=cpu)
    environment.make()
    step(f"torch {line.torch}, the dependencies of fairchem-core and of this package, and those of the tests")
    build = build_of_torch(environment, cpu=cpu)
    environment.pip("-r", "requirements.txt", "--group", "test", *build, pins=line.constraints)
    step("torch-scatter and torch-sparse")
    install_scatter(environment, line, compile_=compile_)
    step("fairchem-core 1.10 and this package")
    environment.pip("--no-deps", "--no-build-isolation", FAIRCHEM, "--editable", ".", pins=line.constraints)


def announce(line: Line, *, cpu: bool, fairchem: str = "1.10", folder: str = ".venv") -> None:
    """Print the size of the download and its likely duration; exit if the disk is too small."""
    size = (CPU_GB if cpu else line.cuda_gb) + OTHER_GB
    minutes = size * 8000 / 100 / 60
    kind = "without CUDA" if cpu else "with CUDA"
    print(f"Installing torch {line.torch} {kind}, fairchem-core {fairchem} and about 100 packages into {folder}.")
    print(f"Downloads {size:.1f} GB: about {minutes:.0f} min at 100 Mbit/s, then 1 to 2 min to unpack.")
    if not cpu and shutil.which("nvidia-smi") is None:
        print(f"No NVIDIA driver found: `make install CPU=1` downloads {CPU_GB + OTHER_GB:.1f} GB.")
    needed, free = 3 * size, shutil.disk_usage(ROOT).free / 1e9
    if free < needed:
        sys.exit(f"install: {ROOT} has {free:.1f} GB of free disk space; this needs about {needed:.0f} GB")


def install_scatter(environment: Environment, line: Line, *, compile_: bool) -> None:
    """Install torch-scatter and torch-sparse: compiled if requested, else as wheels, else the stand-ins."""
    if compile_:
        source = ["--no-build-isolation", "--no-cache", "--reinstall", "--no-deps", "--no-binary=:all:"]
        remedy = "if a compiler or Python.h is missing, on Debian: apt-get install build-essential python3-dev"
        environment.pip(*source, *SCATTER, pins=line.constraints, remedy=remedy)
        return
    links = [argument for page in pyg_wheels(environment) for argument in ("--find-links", page)]
    wheels = environment.tries_pip("--only-binary=:all:", "--no-deps", *links, *SCATTER)
    if wheels and environment.succeeds(WORKS):
        return
    print("No wheels of them for this torch: installing the stand-ins in packaging/, which are plain torch.")
    environment.pip("--no-deps", "--no-build-isolation", "--reinstall", *STANDINS, pins=line.constraints)


def uv_settings(pip_settings: str) -> dict[str, str]:
    """Environment variables that give uv the settings of ``pip config list``."""
    found: dict[str, str] = {}
    for key, value in re.findall(r"^\S+\.([\w-]+)='(.*)'$", pip_settings, flags=re.MULTILINE):
        if key in UV_NAMES:
            # pip separates values by white space or line ends; uv separates find-links by commas.
            found[UV_NAMES[key]] = ("," if key == "find-links" else " ").join(value.replace("\\n", " ").split())
    if "UV_INDEX" in found:
        # Like pip: the best version from all indexes, not the first index that has the package.
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return found


def pyg_wheels(environment: Environment) -> list[str]:
    """PyG's page of wheels for the installed torch; empty if the page cannot be reached."""
    release, _, platform = environment.answer("import torch; print(torch.__version__)").partition("+")
    # One set of wheels works for every patch release, and is listed under the first.
    minor = ".".join(release.split(".")[:2])
    address = PYG_INDEX.format(torch=f"{minor}.0", platform=platform or "cpu")
    try:
        with urllib.request.urlopen(address, timeout=PROBE_SECONDS):
            return [address]
    except OSError:
        return []


def step(what: str) -> None:
    """Print what is installed next."""
    print(f"\n== {what}", flush=True)


if __name__ == "__main__":
    main()
