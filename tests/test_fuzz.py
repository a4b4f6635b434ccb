"""Arbitrary configs, structures and arguments: an answer or one line, never a bare traceback."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fairchem.core.datasets import data_list_collater
from fairchem_batches import system
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from small_runs import TINY_ESCN, TINY_HDGNN, model_of, write_config

from fairchem_hdgnn import cli
from fairchem_hdgnn.checks.keys import key_findings
from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.models.escn.config import ESCNConfig
from fairchem_hdgnn.models.hdgnn.config import HDGNNConfig

fault = pytest.mark.fault
Outcome = Callable[[object], None]
relaxed = partial(
    settings,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.differing_executors],
)

NUMBERS = st.one_of(
    st.integers(-3, 12),
    st.sampled_from([10**9, -(10**9), 10**30, 0.5, 1e-300, 1e300, float("nan"), float("inf"), -0.0, True, False]),
)
SCALARS = st.one_of(
    NUMBERS, st.none(), st.text(max_size=8), st.sampled_from(["mae", "energy", "1e-4", "Adam", "fixed"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@fault("fuzz", "arbitrary values of a model's keys")
@pytest.mark.parametrize("kind", [HDGNNConfig, ESCNConfig])
@relaxed(max_examples=150)
@given(data=st.data())
def test_model_keys(kind: type, data: st.DataObject, outcome: Outcome) -> None:
    names = st.sampled_from([*kind.__dataclass_fields__, "lmx", ""])
    keys = data.draw(st.dictionaries(names, VALUES, min_size=1, max_size=4))
    try:
        kind.from_keys(keys)
    except ConfigError as error:
        assert "\n" not in str(error)
    outcome("accepted, or an error of one line")


def paths(tree: Any, prefix: tuple = ()) -> list[tuple]:
    """Ways to every value in a nested config."""
    found = [prefix] if prefix else []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        found += paths(value, (*prefix, key))
    return found


def with_value(config: dict[str, Any], path: tuple, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(config)
    part: Any = changed
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return changed


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("fuzz"))


@fault("fuzz", "arbitrary values anywhere in a config")
@relaxed(max_examples=200)
@given(data=st.data())
def test_config_sections(data: st.DataObject, config: Path, outcome: Outcome) -> None:
    good = yaml.safe_load(config.read_text())
    changed = with_value(good, data.draw(st.sampled_from(paths(good))), data.draw(VALUES))
    for finding in key_findings(changed):
        assert "\n" not in str(finding)
    outcome("findings of one line")


def command(*arguments: str) -> tuple[int, str]:
    """Exit status and all output of ``fairchem-hdgnn``; an exception other than SystemExit passes through."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            status = cli.main(arguments)
        except SystemExit as stop:
            status = stop.code
    return status, output.getvalue()


@fault("fuzz", "`fairchem-hdgnn check` on such configs, models built and data read")
@relaxed(max_examples=40)
@given(data=st.data())
def test_check(data: st.DataObject, config: Path, outcome: Outcome) -> None:
    good = yaml.safe_load(config.read_text())
    changed = with_value(good, data.draw(st.sampled_from(paths(good))), data.draw(VALUES))
    path = config.with_name("changed.yml")
    path.write_text(yaml.safe_dump(changed))
    status, output = command("check", str(path))
    assert status in (0, 1, 2), output
    assert "Traceback" not in output
    outcome("exit status 0, 1 or 2; no traceback")


WORDS = st.one_of(
    st.sampled_from(
        [
            "--checkpoint", "--data", "--splits", "--out", "--cpu", "--num-gpus", "--batch-size", "--set", "lmax=3",
            "--mode=train", "--mode", "--config-yml", "--config-yml=hdgnn:", "--optim.lr_initial=x", "--from", "-1",
            "0", "=", "fairchem-escn", "absent", "/dev/null", "{folder}", "{config}", "{data}", "--seed", "--a=b=c",
        ]
    ),
    st.text(max_size=6),
)  # fmt: skip
COMMANDS = ["check", "evaluate", "predict", "make-submission", "check-submission", "convert", "evaluate-qm9", "inspect",
            "target-stats", "make-lmdb", "train", "cost", "nonsense"]  # fmt: skip


@fault("fuzz", "arbitrary arguments of the commands")
@relaxed(max_examples=150)
@given(name=st.sampled_from(COMMANDS), words=st.lists(WORDS, max_size=6))
@example(name="check", words=["/dev/null"])
@example(name="check", words=["{folder}"])
@example(name="check", words=["{data}"])
@example(name="predict", words=["--checkpoint", "{folder}", "--data", "{folder}", "--out", "/dev/null"])
@example(name="evaluate", words=["--checkpoint", "/dev/null", "--data", "/dev/null"])
@example(name="check-submission", words=["{data}"])
@example(name="inspect", words=["{config}"])
@example(name="target-stats", words=["{config}"])
def test_arguments(
    name: str, words: list[str], config: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    monkeypatch.chdir(config.parent)
    places = {"folder": config.parent, "config": config, "data": config.parent / "train" / "data.lmdb"}
    if name == "train" and "{config}" in words:
        return  # A training that starts is another test's.
    arguments = [word.format(**places) if word in ("{folder}", "{config}", "{data}") else word for word in words]
    status, output = command(name, *arguments)
    assert status in (0, 1, 2), output
    assert "Traceback" not in output
    outcome("exit status 0, 1 or 2; no traceback")


# Structures.

EXTREMES = st.sampled_from([0.0, -0.0, 1e-30, -1e-7, 3.3, 10.0, 1e4, 1e8, 1e30, float("inf"), float("nan")])
COORDINATES = st.one_of(st.floats(-10, 10, width=32), EXTREMES)
MODELS = {
    "HDGNN": model_of(TINY_HDGNN, frames="fixed"),
    "ESCN": model_of(TINY_ESCN, frames="fixed", regress_forces=True),
}


@fault("fuzz", "arbitrary atoms, positions and cells")
@pytest.mark.parametrize("name", MODELS)
@relaxed(max_examples=150)
@given(
    atoms=st.lists(st.tuples(st.integers(-1, 120), st.tuples(*[COORDINATES] * 3)), max_size=4),
    cell=st.lists(COORDINATES, min_size=9, max_size=9) | st.just([9.0, 0, 0, 0, 9, 0, 0, 0, 9]),
    periodic=st.booleans(),
)
def test_structures(name: str, atoms: list, cell: list[float], periodic: bool, outcome: Outcome) -> None:
    model = MODELS[name]
    model.use_pbc = periodic
    pos = [list(position) for _, position in atoms]
    structure = system(pos, [number for number, _ in atoms], torch.tensor(cell).reshape(3, 3))
    try:
        with torch.no_grad():
            output = model(data_list_collater([structure], otf_graph=True))
    except DataError as error:
        assert "system 7" in str(error)
        assert "\n" not in str(error)
    else:
        assert all(torch.isfinite(value).all() for value in output.values())
    outcome("a finite answer, or an error that names the system")
