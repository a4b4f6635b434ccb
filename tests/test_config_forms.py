"""Configs as people write them: numbers with exponents, paths, and the layouts that fairchem had before 2024."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from fairchem.core import _cli
from fairchem.core.common import distutils
from fairchem.core.common.flags import flags
from small_runs import TINY_ESCN, TINY_HDGNN, arguments, load, train, write_config

from fairchem_hdgnn import cli
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host.fairchem1.config_files import read_config
from fairchem_hdgnn.host.fairchem1.config_forms import prepared, present_layout, with_numbers

fault = pytest.mark.fault


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-2", 0.01), ("99E-2", 0.99), ("-1.5e3", -1500.0), (".5e1", 5.0), ("+2e0", 2), ("1e4", 10_000)],
)
def test_numbers_with_exponents(text: str, number: float) -> None:
    read = with_numbers({"a": [{"b": text}]})["a"][0]["b"]
    assert read == number and type(read) is type(number)


@pytest.mark.parametrize("text", ["1x0e", "1e", "e5", "1e5x", "16x0e + 8x1o", "0x1e5", "1_0e2", "", "1.e"])
def test_other_texts_stay(text: str) -> None:
    assert with_numbers([text]) == [text]


def test_a_run_may_be_called_like_a_number() -> None:
    config = prepared({"timestamp_id": "1e-4", "identifier": "2e3", "optim": {"lr_initial": "1e-4"}})
    assert (config["timestamp_id"], config["identifier"]) == ("1e-4", "2e3")
    assert config["optim"]["lr_initial"] == 1e-4


def test_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    split = {"src": "$SCRATCH/train", "transforms": {"normalizer": {"file": "~/n.pt"}}, "key_mapping": {"y": "$E"}}
    dataset = prepared({"dataset": {"train": split, "val": {"src": ["${SCRATCH}/a", "b"]}, "test": None}})["dataset"]
    assert dataset["train"]["src"] == f"{tmp_path}/train"
    assert dataset["train"]["transforms"]["normalizer"]["file"] == f"{tmp_path}/home/n.pt"
    assert dataset["train"]["key_mapping"] == {"y": "$E"}
    assert dataset["val"]["src"] == [f"{tmp_path}/a", "b"] and dataset["test"] is None


def test_a_variable_that_is_not_set() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.val\.src: \$NOT_SET/x: the environment variable NOT_SET is not"):
        prepared({"dataset": {"val": {"src": "$NOT_SET/x"}}})


def old_config(folder: Path, trainer: str, *, attributes: bool, model: dict[str, Any] = TINY_HDGNN) -> Path:
    """A config of 2022: data sets in a list, a task that says what is learnt, perhaps ``model_attributes``."""
    path = write_config(folder, model, trainer, max_epochs=1)
    config = yaml.safe_load(path.read_text())
    sources = [config["dataset"][split]["src"] for split in ("train", "val")]
    for section in ("outputs", "loss_functions", "evaluation_metrics"):
        del config[section]
    config["task"] = {"dataset": "single_point_lmdb", "type": "regression", "metric": "mae", "labels": ["energy"]}
    config["dataset"] = [
        {"src": sources[0], "normalize_labels": True, "target_mean": 3.4, "target_std": 1.5},
        {"src": sources[1]},
    ]
    if attributes:
        keys = config["model"]
        config["model"] = keys.pop("name")
        config["model_attributes"] = keys
    path.write_text(yaml.safe_dump(config))
    return path


def test_old_configs_train_as_under_fairchem(tmp_path: Path) -> None:
    """The same config, by fairchem's own command line and trainer and by ours: the same settings, the same training."""
    config = old_config(tmp_path / "stock", "energy", attributes=False, model=TINY_ESCN)
    distutils.setup_env_local()
    _cli.main(*flags.get_parser().parse_known_args(arguments(config, "stock")))
    ours = old_config(tmp_path / "ours", "energy", attributes=True, model=TINY_ESCN)
    assert cli.main(["train", *arguments(ours, "ours")]) == 0
    one, other = load(config.parent, "stock"), load(ours.parent, "ours")
    for section in ("outputs", "loss_functions", "model"):
        assert one["config"][section] == other["config"][section]
    assert one["config"]["evaluation_metrics"]["metrics"] == other["config"]["evaluation_metrics"]["metrics"]
    assert one["config"]["dataset"]["transforms"] == other["config"]["dataset"]["transforms"]
    assert str(one["state_dict"]) == str(other["state_dict"])


@pytest.mark.parametrize("attributes", [False, True])
def test_old_configs_are_named_as_such(tmp_path: Path, attributes: bool) -> None:
    config = old_config(tmp_path, "fairchem_hdgnn.Trainer", attributes=attributes)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert cli.main(["check", str(config)]) == 0
    assert "warning: task.dataset: is the format before 2024 (single_point_lmdb)" in output.getvalue()
    train(config if not attributes else rewritten(config), "done")
    assert load(tmp_path, "done")["step"] == 6


def rewritten(config: Path) -> Path:
    """The config as ``prepared``: fairchem's own command line does not know ``model_attributes``."""
    config.write_text(yaml.safe_dump(read_config(config)))
    return config


def test_an_old_task_that_fairchem_cannot_convert() -> None:
    config = {"task": {"dataset": "qm9"}, "model": {"name": "x"}, "dataset": [{"src": "a"}], "optim": {}}
    with pytest.raises(ConfigError, match=r"task\.dataset: has the format before 2024, but fairchem cannot convert"):
        present_layout(config)


def test_present_configs_stay_as_they_are() -> None:
    config = read_config("hdgnn:oc20/is2re/all/hdgnn.yml")
    assert present_layout(config) is config
    assert prepared(config) == config
