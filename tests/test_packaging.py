"""What a stranger installs: the wheel, its pins, and what happens when it is broken."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import urllib.error
import zipfile
from importlib import metadata
from pathlib import Path

import fairchem.core
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from small_runs import ENVIRONMENT

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import install  # noqa: E402


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with fairchem and the plugin's wheel beside it, as pip would lay them out."""
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(Path(fairchem.core.__file__).parent, site / "fairchem" / "core")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def run_in(site: Path, script: str) -> subprocess.CompletedProcess:
    environment = {**ENVIRONMENT, "PYTHONPATH": str(site)}
    command = [sys.executable, "-W", "ignore::FutureWarning", "-c", script]
    return subprocess.run(command, env=environment, cwd=site, capture_output=True, text=True, check=False)


SET_UP_IMPORTS = """
import logging
logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
from fairchem.core.common.registry import registry
from fairchem.core.common.utils import setup_imports
setup_imports()
models = registry.mapping["model_name_mapping"]
"""


def test_wheel_contents(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "fairchem_hdgnn/py.typed" in names
    assert "fairchem/experimental/.include" in names
    assert "fairchem/experimental/hdgnn/register.py" in names
    configs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yml")}
    assert {f"fairchem_hdgnn/{name}" for name in configs} <= names
    strangers = {name.split("/")[0] for name in names} - {"fairchem", "fairchem_hdgnn"}
    assert all(name.endswith(".dist-info") for name in strangers)
    assert not any(name.startswith("fairchem/core") or name == "fairchem/__init__.py" for name in names)


def test_installed_wheel(site: Path) -> None:
    """The short name is found, and shipped configs are those inside the package."""
    script = f"""{SET_UP_IMPORTS}
from fairchem_hdgnn.integration.command_line import find_config
assert models["hdgnn"].__module__.startswith("fairchem_hdgnn"), models
print(find_config("hdgnn:qm9/mu.yml"))
"""
    done = run_in(site, script)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == str(site / "fairchem_hdgnn" / "configs" / "qm9" / "mu.yml")
    assert "WARNING" not in done.stderr


BROKEN = {
    "package": ("fairchem_hdgnn/__init__.py", "raise RuntimeError('poisoned')"),
    "module": ("fairchem_hdgnn/integration/models.py", "raise RuntimeError('poisoned')"),
    "syntax": ("fairchem_hdgnn/__init__.py", "def ("),
}


@pytest.mark.parametrize("module, contents", BROKEN.values(), ids=BROKEN)
def test_broken_plugin_leaves_fairchem_alone(site: Path, tmp_path: Path, module: str, contents: str) -> None:
    broken = shutil.copytree(site, tmp_path / "site")
    (broken / module).write_text(contents)
    done = run_in(broken, f"{SET_UP_IMPORTS}\nprint('schnet' in models, 'hdgnn' in models)")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "True False"
    assert done.stderr.count("doctor") == 1
    assert "Traceback" not in done.stderr


def test_networks_without_fairchem(site: Path, tmp_path: Path) -> None:
    """Where only torch and e3nn are installed the networks work, and the fairchem models say what they need."""
    alone = tmp_path / "alone"
    shutil.copytree(site / "fairchem_hdgnn", alone / "fairchem_hdgnn")
    script = """
import sys
from importlib.machinery import PathFinder

class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in {"fairchem", "torch_geometric", "torch_scatter", "torch_sparse", "ase", "lmdb"}:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Absent)
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "fairchem" else find_spec(name, *rest)
from fairchem_hdgnn.hdgnn.network import HDGNNNetwork
try:
    from fairchem_hdgnn import HDGNN
except ImportError as error:
    print(error)
"""
    done = run_in(alone, script)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == (
        "fairchem_hdgnn.HDGNN needs fairchem-core 1.10 in working order; run `fairchem-hdgnn doctor`"
    )
    assert "Warning" not in done.stderr


# Pins.


EXTRAS = ["", "qm9", "test", "vesin"]


def environment(python: str, extra: str = "") -> dict[str, str]:
    """What pip's markers see on x86 Linux."""
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "extra": extra,
    }


def pins(python: str) -> dict[str, str]:
    """Pinned version of each package on one version of Python."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines]
    assert all(requirement.url is None for requirement in requirements)
    valid = [r for r in requirements if r.marker is None or r.marker.evaluate(environment(python))]
    names = [canonicalize_name(requirement.name) for requirement in valid]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"==[\w.]+", str(requirement.specifier)) for requirement in valid)
    return {name: str(requirement.specifier)[2:] for name, requirement in zip(names, valid)}


@pytest.mark.parametrize("python", ["3.9", "3.10", "3.11", "3.12"])
def test_constraints_pin_every_requirement(python: str) -> None:
    pinned = pins(python)
    requirements = [Requirement(line) for line in metadata.requires("fairchem-hdgnn") or []]
    assert set(metadata.metadata("fairchem-hdgnn").get_all("Provides-Extra")) == {*EXTRAS} - {""}
    for requirement in requirements:
        if requirement.marker is None or any(requirement.marker.evaluate(environment(python, e)) for e in EXTRAS):
            name = canonicalize_name(requirement.name)
            assert requirement.specifier.contains(pinned[name]), requirement
    assert pinned["torch"] == "2.4.1"


def test_one_version() -> None:
    version = metadata.version("fairchem-hdgnn")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


# The installer.


def test_install_refuses_other_pythons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 1))
    with pytest.raises(SystemExit, match=r"Python 3.9 to 3.12, this is 3.13; name one: make PYTHON=python3.11"):
        install.main()


def test_wheels_of_unreachable_index_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "PYTHON", Path(sys.executable))
    asked = []

    def refuse(address: str, timeout: float) -> None:
        asked.append((address, timeout))
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(install.urllib.request, "urlopen", refuse)
    assert install.pyg_wheels() == ""
    [(address, timeout)] = asked
    assert re.search(r"torch-2\.4\.0\+(cpu|cu\d+)\.html$", address)
    assert timeout <= 5


def test_failed_pip_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "PYTHON", Path("false"))
    with pytest.raises(SystemExit, match=r"pip install torch` failed.*apt-get install build-essential"):
        install.pip("torch")
