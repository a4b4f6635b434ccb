"""What holds for every test: one thread (pytest-xdist runs several at once), one seed, a record of faults tried."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from annotations import begin_test
from faults import Recorder, clean
from jaxtyping import install_import_hook

# Each generation of fairchem-core has an environment and tests of its own.
FAIRCHEM_2 = version("fairchem-core").startswith("2.")
collect_ignore = [] if FAIRCHEM_2 else ["fairchem2"]

# The hook below compiles anew whatever modules of the package import, although Python has it in its cache.
for name in ("beartype", "e3nn.o3", "fairchem.core.units.mlip_unit" if FAIRCHEM_2 else "fairchem.core.trainers"):
    importlib.import_module(name)


def modules_with_shapes() -> list[str]:
    """Modules whose annotations have shapes; those of the others are the type checker's alone."""
    root = Path(find_spec("fairchem_hdgnn").origin).parent
    files = [file for file in root.rglob("*.py") if file.stem != "__init__" and "jaxtyping" in file.read_text()]
    return [".".join([root.name, *file.relative_to(root).with_suffix("").parts]) for file in files]


# Before the package is imported: its shapes are checked at each test's first calls. Python 3.9 cannot evaluate X | Y.
if sys.version_info >= (3, 10):
    install_import_hook(modules_with_shapes(), "annotations.check")

# Each training in a process of its own would otherwise compile the whole package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell without job control lets what it starts in the background ignore Ctrl-C, which tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)
# Else a warning, which is an error here, fails whichever test happens to cause it first.
torch.set_warn_always(True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Before the fixtures, whichever their scope."""
    begin_test()


@pytest.fixture(autouse=True)
def _seeds() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-reliability", action="store_true", help="write what came of the faults into docs/")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--write-reliability") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder())


@pytest.fixture
def outcome(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Callable[[object], None]:
    """Tells docs/reliability.md what came of the fault that the test's mark ``fault`` names."""

    def record(text: object) -> None:
        # Longer names first: another one may begin alike.
        folders = sorted(map(str, request.getfixturevalue("tmp_path_factory").getbasetemp().iterdir()), key=len)
        places = [*reversed(folders), str(Path(__file__).parent)]
        for mark in request.node.iter_markers("fault"):
            record_property("fault", [*mark.args, clean(str(text), places)])

    return record
