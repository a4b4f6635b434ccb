"""What `import fairchem_hdgnn` does to somebody else's program: it registers with fairchem and changes nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from small_runs import ENVIRONMENT

ROOT = Path(__file__).parents[1]

SCRIPT = """
import logging, sys, warnings
from fairchem.core import _cli
from fairchem.core.common.registry import registry
from fairchem.core.modules import transforms
import fairchem.core.trainers, e3nn.o3  # third parties, with what they change

def state():
    root = logging.getLogger()
    return {
        "excepthook": sys.excepthook,
        "logging": (root.filters[:], root.handlers[:], root.level, logging.root.manager.disable),
        "warnings": warnings.filters[:],
        "transforms": vars(transforms).copy(),
        "command line": vars(_cli).copy(),
    }

before = state()
import fairchem_hdgnn
after = state()
print([name for name in before if before[name] != after[name]], flush=True)
print("hdgnn" in registry.mapping["model_name_mapping"], flush=True)

from fairchem_hdgnn.errors import ConfigError

def users_own_function():
    raise ConfigError("mine")

users_own_function()
"""


def test_import_registers_and_changes_nothing() -> None:
    """Nor does an error of ours lose its traceback in a script."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["[]", "True"]
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "in users_own_function" in done.stderr
    assert done.stderr.splitlines()[-1] == "fairchem_hdgnn.errors.ConfigError: mine"


def test_check_prints_its_findings_alone(tmp_path: Path) -> None:
    """No warning of what fairchem imports for it."""
    command = [sys.executable, "-m", "fairchem_hdgnn.cli", "check", str(ROOT / "configs/qm9/mu.yml")]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert "3 errors" in done.stdout
    assert "Warning" not in done.stderr
