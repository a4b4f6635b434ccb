"""What a stranger installs: the wheel, its pins, and what happens when it is broken."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import zipfile
import zlib
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
from lines import FAIRCHEM_2, LINES, Line, find_line, text  # noqa: E402


def built(kind: str, project: Path, folder: Path) -> Path:
    """The wheel or sdist of the project in a folder."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(build, cwd=project, check=True, capture_output=True)
    return next(folder.glob("*.whl" if kind == "wheel" else "*.tar.gz"))


def contents(wheel: Path) -> dict[str, int]:
    """Name -> checksum."""
    return {member.filename: member.CRC for member in zipfile.ZipFile(wheel).infolist()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist."""
    folder = tmp_path_factory.mktemp("sdist")
    shutil.unpack_archive(built("sdist", ROOT, folder), folder)
    return next(path for path in folder.iterdir() if path.is_dir())


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
    assert {f"fairchem_hdgnn/evaluation/page/assets/page.{suffix}" for suffix in ("html", "css", "js")} <= names
    assert not any("demo" in name for name in names - {f"fairchem_hdgnn/{name}" for name in configs})
    strangers = {name.split("/")[0] for name in names} - {"fairchem", "fairchem_hdgnn", "fairchem_hdgnn_command.py"}
    assert all(name.endswith(".dist-info") for name in strangers)
    assert not any(name.startswith("fairchem/core") or name == "fairchem/__init__.py" for name in names)


def test_installed_wheel(site: Path) -> None:
    """The short name is found, and shipped configs are those inside the package."""
    script = f"""{SET_UP_IMPORTS}
from fairchem_hdgnn.host.fairchem1.config_files import find_config
assert models["hdgnn"].__module__.startswith("fairchem_hdgnn"), models
print(find_config("hdgnn:qm9/mu.yml"))
"""
    done = run_in(site, script)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == str(site / "fairchem_hdgnn" / "configs" / "qm9" / "mu.yml")
    assert "WARNING" not in done.stderr


BROKEN = {
    "package": ("fairchem_hdgnn/__init__.py", "raise RuntimeError('poisoned')"),
    "module": ("fairchem_hdgnn/host/fairchem1/models.py", "raise RuntimeError('poisoned')"),
    "syntax": ("fairchem_hdgnn/__init__.py", "def ("),
}


@pytest.mark.parametrize(
    "module, contents",
    [
        pytest.param(*broken, id=name, marks=[] if name == "module" else pytest.mark.heavy)
        for name, broken in BROKEN.items()
    ],
)
def test_broken_plugin_leaves_fairchem_alone(site: Path, tmp_path: Path, module: str, contents: str) -> None:
    broken = shutil.copytree(site, tmp_path / "site")
    (broken / module).write_text(contents)
    done = run_in(broken, f"{SET_UP_IMPORTS}\nprint('schnet' in models, 'hdgnn' in models)")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "True False"
    assert done.stderr.count("doctor") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "error",
    [ModuleNotFoundError("No module named 'fairchem'"), ValueError("numpy.dtype size changed")],
    ids=["absent", "broken"],
)
def test_networks_without_fairchem(site: Path, tmp_path: Path, error: Exception) -> None:
    """Where only torch and e3nn are in order the networks work, and the fairchem models say what they need."""
    alone = tmp_path / "alone"
    shutil.copytree(site / "fairchem_hdgnn", alone / "fairchem_hdgnn")
    script = """
import sys

class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == "pydantic":
            raise ModuleNotFoundError("No module named 'pydantic'", name="pydantic")
        if name.split(".")[0] in ("fairchem", "torch_geometric", "torch_scatter", "torch_sparse", "ase", "lmdb"):
            raise ERROR

sys.meta_path.insert(0, Absent)
from fairchem_hdgnn.models.hdgnn.network import HDGNNNetwork
keys = {"lmax": 1, "num_layers": 1, "sphere_channels": 2, "message": "linear", "layer_norm": False}
config = HDGNNNetwork({**keys, "attention": [0, 0, 0, 1]}).config
assert config.message.name == "LINEAR" and config.layer_norm.name == "OFF" and config.attention == (0, 0, 0, 1)
try:
    from fairchem_hdgnn import HDGNN
except ImportError as error:
    print(error)
""".replace("ERROR", repr(error))
    done = run_in(alone, script)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == (
        "fairchem_hdgnn.HDGNN needs a working fairchem-core 1.10 "
        f"({type(error).__name__}: {error}); run `fairchem-hdgnn doctor`"
    )
    assert "Warning" not in done.stderr


# The other distributions of the same source.


@pytest.fixture(scope="module", params=["fairchem2", "networks"])
def other_wheel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", ROOT / "packaging" / request.param, tmp_path_factory.mktemp(request.param))


def test_other_wheels_hold_the_same_package(wheel: Path, other_wheel: Path) -> None:
    """The configs too where there is a host for them, and nothing in fairchem's own folders."""

    def own(names: dict[str, int]) -> dict[str, int]:
        return {
            name: crc for name, crc in names.items() if name.startswith("fairchem_hdgnn/") and "/configs/" not in name
        }

    assert own(contents(other_wheel)) == own(contents(wheel))
    names = zipfile.ZipFile(other_wheel).namelist()
    assert not any(name.startswith("fairchem/") for name in names)
    assert any("/configs/" in name for name in names) == ("fairchem2" in other_wheel.name)
    assert ("fairchem_hdgnn_command.py" in names) == ("fairchem2" in other_wheel.name)


@pytest.mark.parametrize("project", [".", *sorted(f"packaging/{path.name}" for path in (ROOT / "packaging").iterdir())])
def test_wheel_from_an_sdist(project: str, sdist: Path, tmp_path: Path) -> None:
    """Of the project itself or of the repository: it holds what a wheel from the repository holds, with the licence."""
    expected = contents(built("wheel", ROOT / project, tmp_path / "direct"))
    shutil.unpack_archive(built("sdist", ROOT / project, tmp_path / "own"), tmp_path / "own")
    own = next(path for path in (tmp_path / "own").iterdir() if path.is_dir())
    for number, source in enumerate((own, sdist / project)):
        assert contents(built("wheel", source, tmp_path / str(number))) == expected
    [licence] = [crc for name, crc in expected.items() if name.endswith(".dist-info/licenses/LICENSE")]
    assert licence == zlib.crc32((ROOT / "LICENSE").read_bytes())


def test_other_distributions_agree_with_the_first() -> None:
    """On the version, and on what both need."""
    tomllib = pytest.importorskip("tomllib", reason="Python reads TOML from 3.11 on")
    first = {r.name: r for r in map(Requirement, metadata.requires("fairchem-hdgnn") or []) if r.marker is None}
    for folder in ("fairchem2", "networks"):
        project = tomllib.loads((ROOT / "packaging" / folder / "pyproject.toml").read_text())["project"]
        assert project["version"] == metadata.version("fairchem-hdgnn")
        for requirement in map(Requirement, project["dependencies"]):
            if requirement.name in ("e3nn", "plotly", "pydantic"):
                assert requirement.specifier == first[requirement.name].specifier
        names = {Requirement(text).name for text in project["dependencies"]}
        hosts_own = {"setuptools", "fairchem-core", "wandb"} | ({"scipy"} if folder == "fairchem2" else set())
        assert folder == "networks" or set(first) - hosts_own <= names


def test_readme_of_the_networks() -> None:
    """Its example runs as it stands."""
    text = (ROOT / "packaging/networks/README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.match(r"tensor\(\[.*\], grad_fn", done.stdout)


def test_pins_of_the_second_host() -> None:
    """Every requirement is pinned within its bounds, for each tested Python."""
    tomllib = pytest.importorskip("tomllib", reason="Python reads TOML from 3.11 on")
    project = tomllib.loads((ROOT / "packaging/fairchem2/pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["test"]]
    for minor in range(FAIRCHEM_2.oldest[1], FAIRCHEM_2.newest[1] + 1):
        pinned = pins(FAIRCHEM_2, f"3.{minor}")
        for requirement in map(Requirement, wanted):
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement
        assert pinned["torch"] == FAIRCHEM_2.torch


def test_second_host_names_its_pythons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 1))
    monkeypatch.setenv("HOST", "2")
    with pytest.raises(
        SystemExit, match=r"fairchem-core 2 is tested on Python 3.11 to 3.13, not 3.10; choose another: "
    ):
        install.main()


# What is to be installed.


def environment(python: str, extra: str = "") -> dict[str, str]:
    """What pip's markers see on x86 Linux."""
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "extra": extra,
    }


def requirements(name: str) -> dict[str, Requirement]:
    """What a package's metadata ask for without extras."""
    found = map(Requirement, metadata.requires(name) or [])
    return {canonicalize_name(r.name): r for r in found if r.marker is None or r.marker.evaluate({"extra": ""})}


def listed(python: str = text(sys.version_info[:2])) -> dict[str, Requirement]:
    """``requirements.txt``, as one Python reads it."""
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    found = [r for r in map(Requirement, lines) if r.marker is None or r.marker.evaluate(environment(python))]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def test_requirements_are_those_of_both_packages() -> None:
    """Less fairchem-core itself, and its upper bounds on torch and numpy."""
    ours, fairchems = requirements("fairchem-hdgnn"), requirements("fairchem-core")
    assert set(listed()) == {*ours, *fairchems} - {"fairchem-core"}
    for name, requirement in listed().items():
        specifier = ours[name].specifier if name in ours else fairchems[name].specifier
        if name == "e3nn":
            assert ours[name].specifier == fairchems[name].specifier
        assert requirement.specifier == specifier, name
    assert str(listed()["torch"].specifier) == ">=2.4"
    assert str(ours["fairchem-core"].specifier) == "==1.10.*"
    assert not {"torch-scatter", "torch-sparse"} & set(listed()), "pip would compile them"


def imported(path: Path) -> set[str]:
    """Packages that a module imports when it is imported itself."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).split(".")[0])
    return found


@pytest.mark.skipif(sys.version_info < (3, 10), reason="Python names its own modules from 3.10 on")
def test_what_is_imported_is_required() -> None:
    """Not only through another package; triton comes with the torch that needs it."""
    source = ROOT / "src/fairchem_hdgnn"
    modules = [path for path in source.rglob("*.py") if source / "host/fairchem2" not in path.parents]
    own = {"fairchem_hdgnn", "fairchem_hdgnn_command"}
    names = set().union(*map(imported, modules)) - {*sys.stdlib_module_names, *own, "triton"}
    required, origins = requirements("fairchem-hdgnn"), metadata.packages_distributions()
    assert names
    assert [name for name in names if not {*map(canonicalize_name, origins[name])} & {*required}] == []


def pins(line: Line, python: str) -> dict[str, str]:
    """Pinned version of each package beside one torch on one version of Python."""
    lines = [text for text in line.constraints.read_text().splitlines() if not text.startswith("#")]
    found = [Requirement(text) for text in lines]
    assert all(requirement.url is None for requirement in found)
    valid = [r for r in found if r.marker is None or r.marker.evaluate(environment(python))]
    names = [canonicalize_name(requirement.name) for requirement in valid]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"==[\w.]+", str(requirement.specifier)) for requirement in valid)
    return {name: str(requirement.specifier)[2:] for name, requirement in zip(names, valid)}


PYTHONS = [(line, (3, minor)) for line in LINES for minor in range(9, 14) if line.runs_on((3, minor))]


@pytest.mark.parametrize("line, python", PYTHONS, ids=[f"torch {line.name}, 3.{python[1]}" for line, python in PYTHONS])
def test_constraints_pin_every_requirement(line: Line, python: tuple[int, int]) -> None:
    pinned = pins(line, text(python))
    extras = [Requirement(requirement) for requirement in metadata.requires("fairchem-hdgnn") or []]
    asked = [r for r in extras if r.marker and any(r.marker.evaluate(environment(text(python), e)) for e in EXTRAS)]
    assert set(metadata.metadata("fairchem-hdgnn").get_all("Provides-Extra")) == set(EXTRAS)
    for requirement in [*listed(text(python)).values(), *asked]:
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement
    assert pinned["torch"] == line.torch
    assert pinned["fairchem-core"] == "1.10.0"


EXTRAS = ["qm9", "vesin"]


def test_one_version() -> None:
    version = metadata.version("fairchem-hdgnn")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


# The installer.


@pytest.mark.parametrize(
    "python, name, torch",
    [((3, 9), "", "2.7.1"), ((3, 10), "", "2.7.1"), ((3, 11), "", LINES[-1].torch), ((3, 11), "2.4", "2.4.1")],
)
def test_newest_torch_for_a_python(python: tuple[int, int], name: str, torch: str) -> None:
    assert find_line(python, name).torch == torch


@pytest.mark.parametrize("python, name", [((3, 8), ""), ((3, 13), "2.4"), ((3, 11), "2.3")])
def test_installer_names_the_tested_lines(python: tuple[int, int], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (*python, 1))
    monkeypatch.setenv("TORCH", name)
    with pytest.raises(SystemExit) as error:
        install.main()
    asked = f"torch {name} on Python {text(python)}" if name else f"Python {text(python)}"
    assert str(error.value).startswith(
        f"install: {asked} is not among the tested lines of torch: 2.4 (Python 3.9 to 3.12)"
    )
    assert str(error.value).endswith("choose another: make PYTHON=python3.11")


@pytest.mark.parametrize("tool", ["install", "docs_environment"])
def test_an_older_python_is_refused_in_one_line(tool: str) -> None:
    try:
        subprocess.run(["python3.8", "-c", ""], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no Python 3.8 on the PATH")
    command = ["python3.8", ROOT / f"tools/{tool}.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "choose another" in done.stderr or "name another" in done.stderr


INSTALLER = """
import os
from pathlib import Path
Path(".venv").mkdir(exist_ok=True)
asked = [f"{name}={os.environ[name]}" for name in ("TORCH", "CPU", "COMPILE") if name in os.environ]
Path("installed.txt").write_text(" ".join(asked))
"""


def test_make_installs_with_the_options_of_before(tmp_path: Path) -> None:
    """Unless there are others; and not again unless something changed."""
    for name in ("Makefile", "pyproject.toml", "requirements.txt", "tools/lines.py", "tools/install.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "tools/install.py").write_text(INSTALLER)
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}

    def installed(*options: str) -> str | None:
        """What a call of make installs; None: nothing."""
        (tmp_path / "installed.txt").unlink(missing_ok=True)
        command = ["make", "install", f"PYTHON={sys.executable}", *options]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
        return (tmp_path / "installed.txt").read_text() if (tmp_path / "installed.txt").exists() else None

    assert installed() == ""
    assert installed() is None
    assert installed("CPU=1") == "CPU=1"
    assert installed("CPU=1") is None
    assert installed("TORCH=2.7", "CPU=1") == "TORCH=2.7 CPU=1"
    assert installed("CPU=1", "TORCH=2.7") is None
    assert installed() is None
    (tmp_path / "requirements.txt").touch()
    os.utime(tmp_path / ".venv/.installed", (0, 0))
    assert installed() == "TORCH=2.7 CPU=1"
    assert installed("TORCH=2.7") == "TORCH=2.7"
    assert installed("COMPILE=1") == "COMPILE=1"


def test_failed_installation_is_repeated_with_the_options_of_before(tmp_path: Path) -> None:
    environment = install.Environment(tmp_path)
    install.outdate(environment)
    mark = tmp_path / ".installed"
    mark.write_text("TORCH=2.7\n")
    install.outdate(environment)
    assert mark.read_text() == "TORCH=2.7\n"
    assert mark.stat().st_mtime < (ROOT / "pyproject.toml").stat().st_mtime


@pytest.mark.parametrize("cuda", [True, False], ids=["over CUDA", "over none"])
def test_build_of_torch_without_cuda(cuda: bool) -> None:
    environment = Pip(wheels=True, works=cuda)
    wanted = install.build_of_torch(environment, cpu=True)
    assert wanted[:2] == ["--torch-backend", "cpu"]
    assert ("--reinstall-package" in wanted) == cuda
    assert install.build_of_torch(environment, cpu=False) == []


class Pip(install.Environment):
    """An environment in which ``pip install`` fails or succeeds as told, and scripts too."""

    def __init__(self, *, wheels: bool, works: bool) -> None:
        super().__init__(Path(sys.prefix))
        self.python = Path(sys.executable)
        self.calls: list[tuple[str, ...]] = []
        self._wheels, self._works = wheels, works

    def _pip(self, *arguments: str, quiet: bool = False) -> bool:
        self.calls.append(arguments)
        return self._wheels or "--only-binary=:all:" not in arguments

    def succeeds(self, script: str) -> bool:
        return self._works


@pytest.mark.parametrize("wheels, works", [(False, False), (True, False), (True, True)])
def test_standins_where_no_wheel_works(wheels: bool, works: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "pyg_wheels", lambda environment: [])
    environment = Pip(wheels=wheels, works=works)
    install.install_scatter(environment, LINES[0], compile_=False)
    tried, *rest = environment.calls
    assert "--only-binary=:all:" in tried, "nothing is compiled"
    assert set(install.SCATTER) <= set(tried)
    assert [set(install.STANDINS) <= set(call) for call in rest] == ([] if works else [True])


def test_compiles_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = Pip(wheels=False, works=False)
    install.install_scatter(environment, LINES[0], compile_=True)
    [call] = environment.calls
    assert {"--no-binary=:all:", *install.SCATTER} <= set(call)


def test_wheels_of_unreachable_index_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(address: str, timeout: float) -> None:
        asked.append((address, timeout))
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(install.urllib.request, "urlopen", refuse)
    assert install.pyg_wheels(Pip(wheels=False, works=False)) == []
    [(address, timeout)] = asked
    assert re.search(r"torch-2\.\d+\.0\+(cpu|cu\d+)\.html$", address)
    assert timeout <= 5


def test_download_is_announced_and_a_small_disk_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(install.shutil, "which", lambda name: None)
    install.announce(LINES[-1], cpu=False)
    printed = capsys.readouterr().out
    assert f"torch {LINES[-1].torch} with CUDA" in printed
    assert "Downloads 3.4 GB: about 5 min at 100 Mbit/s" in printed
    assert "`make install CPU=1` downloads 0.6 GB" in printed
    disk_usage = shutil.disk_usage(ROOT)._replace(free=5 * 10**9)
    monkeypatch.setattr(install.shutil, "disk_usage", lambda path: disk_usage)
    with pytest.raises(SystemExit, match=r"has 5.0 GB of free disk space; this needs about 10 GB"):
        install.announce(LINES[-1], cpu=False)
    install.announce(LINES[-1], cpu=True)


def test_uv_gets_the_indexes_that_pip_is_set_up_for() -> None:
    settings = """\
:env:.find-links='/a/wheels /b/wheels'
:env:.disable-pip-version-check='1'
global.index-url='https://mirror/simple'
global.extra-index-url='https://one/simple\\nhttps://two/simple'
install.trusted-host='mirror'
"""
    assert install.uv_settings(settings) == {
        "UV_FIND_LINKS": "/a/wheels,/b/wheels",
        "UV_DEFAULT_INDEX": "https://mirror/simple",
        "UV_INDEX": "https://one/simple https://two/simple",
        "UV_INSECURE_HOST": "mirror",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    assert install.uv_settings("") == {}


def test_failed_pip_names_the_remedy(tmp_path: Path) -> None:
    failing = install.Environment(tmp_path)
    failing.python = Path("false")
    with pytest.raises(SystemExit, match=r"uv pip install torch` failed, see above; run make again"):
        failing.pip("torch", pins=LINES[0].constraints)
