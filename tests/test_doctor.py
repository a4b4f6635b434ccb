"""The doctor finds what is broken, says what to do, and exits accordingly."""

from __future__ import annotations

import importlib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from fairchem_hdgnn import cli
from fairchem_hdgnn.commands import doctor
from fairchem_hdgnn.integration import environment
from fairchem_hdgnn.integration.environment import Finding, State, _package, _why_no_short_name, findings


def test_this_installation_is_whole(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for subject in ("Python", "fairchem-core", "scipy", "torch-scatter", "name: fairchem_hdgnn.HDGNN", "name: hdgnn"):
        assert any(subject in line and " ok " in line for line in lines), subject
    assert any("GPU" in line for line in lines)


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "torch-scatter":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    finding = _package(Requirement("torch-scatter"))
    assert finding.state is State.BROKEN
    assert finding.detail == "not installed"
    assert "--no-build-isolation" in finding.remedy
    assert "torch-2.4.0+cu" in finding.remedy or "torch-2.4.0+cpu" in finding.remedy


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
    finding = _package(Requirement("torch-sparse"))
    assert finding.state is State.BROKEN
    assert "but import fails: OSError: torch_sparse/_scatter_cuda.so: undefined symbol" in finding.detail
    assert "--force-reinstall" in finding.remedy


def test_nothing_is_asked_of_a_broken_fairchem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_package", lambda requirement: Finding(requirement.name, State.BROKEN, ""))
    monkeypatch.setattr(environment, "_plugin", lambda: pytest.fail("probed a fairchem that cannot be imported"))
    assert any(finding.state is State.BROKEN for finding in findings())


@pytest.mark.parametrize(
    "include, detail, remedy",
    [
        (None, "fairchem is installed elsewhere", "pip install --force-reinstall"),
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


def test_exit_status_and_remedies(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    found = [
        Finding("GPU", State.NOTE, "none"),
        Finding("scipy", State.BROKEN, "1.17.0", 'pip install "scipy<1.17"'),
    ]
    monkeypatch.setattr(doctor, "findings", lambda: iter(found))
    assert cli.main(["doctor"]) == 1
    assert 'scipy: pip install "scipy<1.17"' in capsys.readouterr().out
    monkeypatch.setattr(doctor, "findings", lambda: iter(found[:1]))
    assert cli.main(["doctor"]) == 0
