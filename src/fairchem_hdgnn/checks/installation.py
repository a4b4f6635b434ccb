"""Check the installation and whether fairchem finds the plugin. Imports nothing that can be broken."""

from __future__ import annotations

import importlib
import importlib.util
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from fairchem_hdgnn.host.which import DISTRIBUTIONS, Host, installed_host, installed_version, own_distributions

DISTRIBUTION = "fairchem-hdgnn"
IN_A_CLONE = {
    # The bounds of fairchem-core 1.10, which is there already, would change torch.
    "fairchem-hdgnn": "in a clone: pip install --no-deps .",
    "fairchem2-hdgnn": "in a clone: pip install ./packaging/fairchem2",
    "hdgnn-networks": "in a clone: pip install ./packaging/networks",
}
"""How to install each distribution of this package."""

MODULES = {
    "pyyaml": "yaml",
    "fairchem-core": "fairchem.core",
    "ase-db-backends": "ase_db_backends",
    "hydra-core": "hydra",
}
"""Import names of the requirements whose import name differs from their own name with underscores."""

SCATTER = ("torch-scatter", "torch-sparse")
"""Packages that fairchem-core 1.10 imports but does not declare as requirements."""

STANDIN = "standin"
"""Local version label of this repository's replacements for them in plain torch."""

SHIM_FOLDER = "hdgnn"

PROBE = """
import json
from fairchem.core.common.registry import registry
from fairchem.core.common.relaxation import OptimizableBatch
from fairchem.core.common.utils import setup_imports
setup_imports()
short = "hdgnn" in registry.mapping["model_name_mapping"]
registry.get_model_class("fairchem_hdgnn.HDGNN")
lacking = sorted(getattr(OptimizableBatch, "__abstractmethods__", ()))
print(json.dumps({"short": short, "lacking": lacking}))
"""
"""Run in a fresh process: what fairchem finds if the plugin has not been imported before."""


PROBE_2 = """
from fairchem.core.common.registry import registry
for name in ("HDGNNBackbone", "HDGNNEnergyHead", "HDGNNForceHead", "ESCNBackbone", "ESCNEnergyHead", "ESCNForceHead"):
    registry.get_model_class(f"fairchem_hdgnn.{name}")
"""
"""The same for fairchem-core 2, whose YAML uses dotted names only."""


class State(Enum):
    """Severity of a finding."""

    OK = "ok"
    NOTE = "note"
    BROKEN = "broken"


@dataclass(frozen=True)
class Line:
    """One line of the report; ``remedy`` says what to do, if anything."""

    subject: str
    state: State
    detail: str
    remedy: str = ""


def report() -> Iterator[Line]:
    """Check everything, in the order in which problems should be solved."""
    host = installed_host()
    distribution = _distribution(host)
    yield distribution
    name = distribution.detail.split()[0] if distribution.state is State.OK else DISTRIBUTION
    yield _python(name)
    requirements = [Requirement(line) for line in _requirements(name)]
    packages = [_package(requirement) for requirement in requirements if _holds_here(requirement)]
    packages += [] if host is Host.FAIRCHEM_2 else [_scatter(name) for name in SCATTER]
    yield from packages
    if all(package.state is State.OK for package in packages):
        yield from _second_plugin() if host is Host.FAIRCHEM_2 else _plugin()
    yield _gpu()
    yield _slurm()


def _distribution(host: Host | None) -> Line:
    """Check that the installed distribution of this package is the one for the installed fairchem-core."""
    subject, found = "this package", own_distributions()
    wanted = dict(zip((Host.FAIRCHEM_1, Host.FAIRCHEM_2, None), DISTRIBUTIONS))[host]
    fairchem = f"fairchem-core {installed_version()}" if host else "no fairchem-core"
    if found == [wanted]:
        return Line(subject, State.OK, f"{wanted} {installed_version(wanted)}, with {fairchem}")
    remedy = f"pip uninstall {' '.join(found)}; " if found else ""
    detail = f"installed as {' and '.join(found) or 'nothing'}, but with {fairchem} it must be {wanted}"
    return Line(subject, State.BROKEN, detail, remedy + IN_A_CLONE[wanted])


def _requirements(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


def _holds_here(requirement: Requirement) -> bool:
    """Whether it is one of this Python, and not of an extra."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def _python(distribution: str) -> Line:
    version = platform.python_version()
    try:
        allowed = Requirement(f"python{metadata.metadata(distribution)['Requires-Python']}").specifier
    except metadata.PackageNotFoundError:
        return Line("Python", State.OK, f"{version}, {sys.executable}")
    if version in allowed:
        return Line("Python", State.OK, f"{version}, {sys.executable}")
    return Line("Python", State.BROKEN, f"{version}, needed: {allowed}", "make PYTHON=python3.11")


def _package(requirement: Requirement) -> Line:
    """Check that a requirement is installed in a suitable version and can be imported."""
    name = requirement.name
    # fairchem-core's own requirements would downgrade torch to 2.4.
    without = "--no-deps " if name == "fairchem-core" else ""
    remedy = f'pip install {without}"{name}{requirement.specifier}"'
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Line(name, State.BROKEN, "not installed", remedy)
    if not requirement.specifier.contains(version, prereleases=True):
        return Line(name, State.BROKEN, f"{version}, needed: {requirement.specifier}", remedy)
    return _imported(name, version, f"{remedy} --force-reinstall")


def _scatter(name: str) -> Line:
    """Check that a package that fairchem imports is installed, compiled or as this project's replacement."""
    remedy = _standin(name) or f"pip install --force-reinstall --no-deps --only-binary=:all: {name} -f {_pyg_wheels()}"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Line(name, State.BROKEN, "not installed, but fairchem-core imports it", remedy)
    remark = ", this project's stand-in in plain torch" if version.endswith(f"+{STANDIN}") else ""
    return _imported(name, f"{version}{remark}", remedy)


def _imported(name: str, version: str, remedy: str) -> Line:
    try:
        importlib.import_module(MODULES.get(name, name.replace("-", "_")))
    except Exception as error:  # an extension built for another torch raises OSError, numpy 2 AttributeError, ...
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Line(name, State.BROKEN, f"{version}, but import fails: {reason}", remedy)
    return Line(name, State.OK, version)


def _standin(name: str) -> str:
    """Command that installs the replacement from the clone; empty if this package is not installed from a clone."""
    folder = Path(__file__).parents[3] / "packaging" / name
    return f"pip install --force-reinstall --no-deps {folder}" if folder.is_dir() else ""


def _pyg_wheels() -> str:
    """URL of compiled wheels for the installed torch."""
    try:
        import torch  # noqa: PLC0415  may be missing or broken
    except Exception:
        return "https://data.pyg.org/whl"
    release, _, variant = torch.__version__.partition("+")
    minor = ".".join(release.split(".")[:2])
    return f"https://data.pyg.org/whl/torch-{minor}.0+{variant or 'cpu'}.html"


def _plugin() -> Iterator[Line]:
    probe = subprocess.run([sys.executable, "-W", "ignore", "-c", PROBE], capture_output=True, text=True, check=False)
    dotted = "name: fairchem_hdgnn.HDGNN"
    if probe.returncode:
        lines = probe.stderr.strip().splitlines()
        yield Line(dotted, State.BROKEN, f"fairchem cannot import it: {lines[-1]}", f"pip install {DISTRIBUTION}")
        return
    yield Line(dotted, State.OK, f"found, {Path(__file__).parents[1]}")
    found = json.loads(probe.stdout.splitlines()[-1])
    short = "name: hdgnn"
    include = _fairchem_folder() / "experimental" / ".include"
    if found["short"]:
        yield Line(short, State.OK, f"found through {include}")
    else:
        yield Line(short, State.NOTE, *_why_no_short_name(include))
    yield _relaxations(found["lacking"])


def _second_plugin() -> Iterator[Line]:
    """Check that fairchem-core 2 finds the models under their dotted names."""
    probe = subprocess.run([sys.executable, "-W", "ignore", "-c", PROBE_2], capture_output=True, text=True, check=False)
    dotted = "model: fairchem_hdgnn.HDGNNBackbone"
    if probe.returncode:
        reason = probe.stderr.strip().splitlines()[-1]
        yield Line(dotted, State.BROKEN, f"fairchem cannot import it: {reason}", IN_A_CLONE["fairchem2-hdgnn"])
        return
    yield Line(dotted, State.OK, f"found, {Path(__file__).parents[1]}")


def _relaxations(lacking: list[str]) -> Line:
    """Check that fairchem's own relaxations work, given the methods that ASE requires and fairchem's class lacks."""
    subject = "run-relaxations"
    if not lacking:
        return Line(subject, State.OK, "works with fairchem's trainer and this plugin's")
    detail = (
        f"does not work with fairchem's own trainer: fairchem-core {metadata.version('fairchem-core')} lacks "
        f"{', '.join(lacking)}, which ASE {metadata.version('ase')} requires"
    )
    remedy = "fairchem-hdgnn train --mode run-relaxations, with trainer: fairchem_hdgnn.Trainer"
    return Line(subject, State.NOTE, detail, f'{remedy}; or pip install "ase<3.26"')


def _fairchem_folder() -> Path:
    spec = importlib.util.find_spec("fairchem.core")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).resolve().parents[1]


def _why_no_short_name(include: Path) -> tuple[str, str]:
    other_ways = "or use the dotted name, or import fairchem_hdgnn first"
    reinstall = f"pip install --force-reinstall --no-deps {DISTRIBUTION}, {other_ways}"
    if not include.exists():
        return f"no {include}: fairchem and this plugin are installed in different places", reinstall
    if SHIM_FOLDER not in include.read_text().split():
        return f"{include} belongs to another plugin", f"add a line '{SHIM_FOLDER}' to it, {other_ways}"
    return (
        f"{include} names '{SHIM_FOLDER}', but importing it failed",
        f"python -c 'import fairchem_hdgnn', {other_ways}",
    )


def _gpu() -> Line:
    try:
        import torch  # noqa: PLC0415  may be missing or broken
    except Exception as error:
        return Line("GPU", State.NOTE, f"unknown: torch cannot be imported ({type(error).__name__})")
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        names = ", ".join(f"{device.name} ({device.total_memory / 2**30:.0f} GiB)" for device in devices)
        return Line("GPU", State.OK, f"{names}, CUDA {torch.version.cuda}")
    if shutil.which("nvidia-smi") is None:
        return Line("GPU", State.NOTE, "none: training runs with --cpu only")
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU only"
    return Line(
        "GPU", State.NOTE, f"torch was built for {build} and finds none", "compare with the driver's CUDA: nvidia-smi"
    )


def _slurm() -> Line:
    sbatch = shutil.which("sbatch")
    return Line("Slurm", State.OK, sbatch) if sbatch else Line("Slurm", State.NOTE, "no sbatch: no --submit here")
