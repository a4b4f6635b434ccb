"""Under fairchem-core 2: names, commands and the doctor know which generation is here."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from fairchem.core.common.registry import registry

import fairchem_hdgnn
from fairchem_hdgnn import cli
from fairchem_hdgnn.host.which import Host, installed_host, installed_version

NAMES = ["HDGNNBackbone", "HDGNNEnergyHead", "HDGNNForceHead", "ESCNBackbone", "ESCNEnergyHead", "ESCNForceHead"]


def test_which() -> None:
    assert installed_host() is Host.FAIRCHEM_2
    assert (installed_version() or "").startswith("2.")
    assert importlib.util.find_spec("fairchem.core.trainers") is None, "fairchem-core 1.10 is mixed in"


@pytest.mark.parametrize("name", NAMES)
def test_fairchem_finds_models_by_dotted_name(name: str) -> None:
    assert registry.get_model_class(f"fairchem_hdgnn.{name}").__module__ == "fairchem_hdgnn.host.fairchem2.models"


@pytest.mark.parametrize("name", ["Trainer", "SafeLmdbDataset"])
def test_names_of_the_other_host_say_so(name: str) -> None:
    with pytest.raises(ImportError, match=rf"fairchem_hdgnn.{name} needs fairchem-core 1.10, and fairchem-core 2\."):
        getattr(fairchem_hdgnn, name)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        fairchem_hdgnn.nonsense  # noqa: B018


def test_public_names() -> None:
    names: dict[str, object] = {}
    exec("from fairchem_hdgnn import *", names)
    assert set(fairchem_hdgnn.__all__) <= set(names) and {*NAMES, "calculator", "OC20Dataset"} <= set(names)


def test_import_is_light() -> None:
    """Nothing of fairchem is imported before a name is asked for."""
    script = "import sys, fairchem_hdgnn; print(any(name.split('.')[0] == 'fairchem' for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("command", ["train", "submit", "check", "recipe", "cost", "target-stats"])
def test_commands_of_the_other_host_say_so(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "config.yml"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fairchem-hdgnn {command}: error: `fairchem-hdgnn {command}` needs fairchem-core 1.10, and")
    assert ("fairchem -c CONFIG" in line) == (command in ("train", "submit"))


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    status = cli.main(["doctor"])
    printed = capsys.readouterr().out
    assert "fairchem2-hdgnn" in printed, "installed by make install HOST=2"
    assert status == 0, printed
    assert str(Path(fairchem_hdgnn.__file__).parent) in printed.replace("\n", "").replace(" ", "")
    assert "torch-scatter" not in printed
