"""The doctor finds what is broken, says what to do, and exits accordingly."""

from __future__ import annotations

import importlib
import inspect
from importlib import metadata
from pathlib import Path

import pytest
import torch
from fairchem.core.common.relaxation import OptimizableBatch
from packaging.requirements import Requirement

from fairchem_hdgnn import cli
from fairchem_hdgnn.checks import installation
from fairchem_hdgnn.checks.installation import (
    Line,
    State,
    _distribution,
    _package,
    _plugin,
    _relaxations,
    _scatter,
    _why_no_short_name,
    report,
)
from fairchem_hdgnn.cli import doctor
from fairchem_hdgnn.host.which import installed_host


def test_this_installation_is_whole(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for subject in (
        "Python",
        "fairchem-core",
        "scipy",
        "torch-scatter",
        "torch-sparse",
        "name: fairchem_hdgnn.HDGNN",
        "name: hdgnn",
    ):
        assert any(subject in line and " ok " in line for line in lines), subject
    assert any("GPU" in line for line in lines)


def test_brackets_in_a_finding_are_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    lines = [Line("lmdb", State.BROKEN, "import fails: [/usr/lib/libc.so] in /home/[old]", "reinstall it")]
    monkeypatch.setattr(doctor, "report", lambda: lines)
    assert cli.main(["doctor"]) == 1
    assert "[/usr/lib/libc.so] in /home/[old]" in capsys.readouterr().out


def version_of(monkeypatch: pytest.MonkeyPatch, name: str, version: str | None) -> None:
    """Let a package seem to be installed in this version, or not at all."""
    real = metadata.version

    def pretended(asked: str) -> str:
        if asked != name:
            return real(asked)
        if version is None:
            raise metadata.PackageNotFoundError(asked)
        return version

    monkeypatch.setattr(metadata, "version", pretended)


@pytest.mark.parametrize(
    "fairchem, installed, detail, remedy",
    [
        ("2.24.0", ["fairchem-hdgnn"],
         "installed as fairchem-hdgnn, but with fairchem-core 2.24.0 it must be fairchem2-hdgnn",
         "pip uninstall fairchem-hdgnn; in a clone: pip install ./packaging/fairchem2"),
        ("1.10.0", ["fairchem-hdgnn", "hdgnn-networks"],
         "installed as fairchem-hdgnn and hdgnn-networks, but with fairchem-core 1.10.0 it must be fairchem-hdgnn",
         "pip uninstall fairchem-hdgnn hdgnn-networks; in a clone: pip install --no-deps ."),
        (None, [], "installed as nothing, but with no fairchem-core it must be hdgnn-networks",
         "in a clone: pip install ./packaging/networks"),
    ],
)  # fmt: skip
def test_wrong_distribution(
    fairchem: str | None, installed: list[str], detail: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretended(name: str) -> str:
        if name == "fairchem-core" and fairchem is not None:
            return fairchem
        if name in installed:
            return "0.1.0"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", pretended)
    assert _distribution(installed_host()) == Line("this package", State.BROKEN, detail, remedy)


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    version_of(monkeypatch, "fairchem-core", None)
    finding = _package(Requirement("fairchem-core==1.10.*"))
    assert finding == Line(
        "fairchem-core", State.BROKEN, "not installed", 'pip install --no-deps "fairchem-core==1.10.*"'
    )


def test_requirements_of_this_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of another, nor of an extra; a remedy is without the marker, which a shell would take apart."""
    marked = ["lmdb>=99; python_version > '3'", "rich>=99; python_version < '3'", "scipy>=99; extra == 'more'"]
    monkeypatch.setattr(metadata, "requires", lambda name: marked)
    found = {finding.subject: finding for finding in report()}
    assert found["lmdb"].state is State.BROKEN
    assert found["lmdb"].remedy == 'pip install "lmdb>=99"'
    assert not {"rich", "scipy"} & set(found)


@pytest.mark.parametrize("clone", [True, False], ids=["from a clone", "from a wheel"])
def test_missing_scatter(clone: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A clone has the stand-in at hand; without one, PyG has wheels for this torch."""
    version_of(monkeypatch, "torch-scatter", None)
    if not clone:
        monkeypatch.setattr(installation, "__file__", str(tmp_path / "site" / "fairchem_hdgnn" / "a" / "b.py"))
    finding = _scatter("torch-scatter")
    assert finding.state is State.BROKEN
    assert finding.detail == "not installed, but fairchem-core imports it"
    minor = ".".join(torch.__version__.split(".")[:2])
    expected = (
        "packaging/torch-scatter"
        if clone
        else f"--only-binary=:all: torch-scatter -f https://data.pyg.org/whl/torch-{minor}.0+"
    )
    assert expected in finding.remedy


def test_standin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    version_of(monkeypatch, "torch-scatter", "2.1.2+standin")
    finding = _scatter("torch-scatter")
    assert finding.state is State.OK
    assert finding.detail == "2.1.2+standin, this project's stand-in in plain torch"
    version_of(monkeypatch, "torch-sparse", "0.6.18")
    assert _scatter("torch-sparse").detail == "0.6.18"


def test_scipy_that_lost_sph_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "1.17.0")
    finding = _package(Requirement("scipy<1.17"))
    assert finding.state is State.BROKEN
    assert finding.detail == "1.17.0, needed: <1.17"
    assert finding.remedy == 'pip install "scipy<1.17"'


def test_extension_built_for_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise OSError(f"{name}/_scatter_cuda.so: undefined symbol: _ZN5torch3jit17parseSchemaOrNameE")

    monkeypatch.setattr(importlib, "import_module", fail)
    version_of(monkeypatch, "torch-sparse", "0.6.18")
    finding = _scatter("torch-sparse")
    assert finding.state is State.BROKEN
    assert "but import fails: OSError: torch_sparse/_scatter_cuda.so: undefined symbol" in finding.detail
    assert "--force-reinstall" in finding.remedy


def test_nothing_is_asked_of_a_broken_fairchem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_package", lambda requirement: Line(requirement.name, State.BROKEN, ""))
    monkeypatch.setattr(installation, "_plugin", lambda: pytest.fail("probed a fairchem that cannot be imported"))
    assert any(finding.state is State.BROKEN for finding in report())


@pytest.mark.parametrize(
    "include, detail, remedy",
    [
        (None, "are installed in different places", "pip install --force-reinstall"),
        ("another\n", "belongs to another plugin", "add a line 'hdgnn' to it"),
        ("another\nhdgnn\n", "importing it failed", "import fairchem_hdgnn"),
    ],
)
def test_reasons_for_no_short_name(tmp_path: Path, include: str | None, detail: str, remedy: str) -> None:
    path = tmp_path / ".include"
    if include is not None:
        path.write_text(include)
    found_detail, found_remedy = _why_no_short_name(path)
    assert detail in found_detail
    assert str(path) in found_detail
    assert remedy in found_remedy


@pytest.mark.parametrize("lacking", [[], ["get_x", "ndofs"]])
def test_pairs_of_versions_that_cannot_relax(lacking: list[str]) -> None:
    found = _relaxations(lacking)
    assert found.state is (State.NOTE if lacking else State.OK)
    if lacking:
        versions = [metadata.version(name) for name in ("fairchem-core", "ase")]
        assert "fairchem-core {} lacks get_x, ndofs, which ASE {} requires".format(*versions) in found.detail
        assert "train --mode run-relaxations" in found.remedy and '"ase<3.26"' in found.remedy


def test_doctor_looks_at_the_class_itself() -> None:
    (line,) = [line for line in _plugin() if line.subject == "run-relaxations"]
    assert (line.state is State.NOTE) == inspect.isabstract(OptimizableBatch)


def test_exit_status_and_remedies(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    found = [
        Line("GPU", State.NOTE, "none"),
        Line("scipy", State.BROKEN, "1.17.0", 'pip install "scipy<1.17"'),
    ]
    monkeypatch.setattr(doctor, "report", lambda: iter(found))
    assert cli.main(["doctor"]) == 1
    assert 'scipy: pip install "scipy<1.17"' in capsys.readouterr().out
    monkeypatch.setattr(doctor, "report", lambda: iter(found[:1]))
    assert cli.main(["doctor"]) == 0
