"""Configs are found, merged and refused in the same way by every command that takes one."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairchem_hdgnn import cli
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host.fairchem1.config_files import read_config

COMMANDS = {
    "check": ["check", "{config}"],
    "cost": ["cost", "{config}"],
    "equivariance": ["equivariance", "{config}", "absent.lmdb", "--cpu"],
    "target-stats": ["target-stats", "absent.lmdb", "--config", "{config}"],
    "train": ["train", "--mode=train", "--config-yml={config}"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("absent.yml", "no file 'absent.yml'; shipped configs are hdgnn:oc20/..."),
        ("hdgnn:qm9/gp.yml", "no shipped config 'hdgnn:qm9/gp.yml'; did you mean 'hdgnn:qm9/gap.yml'?"),
        ("contradiction.yml", "contradiction.yml: its includes conflict in model.lmax"),
        ("twice.yml", "twice.yml: "),
    ],
)
def test_one_line(
    command: list[str],
    config: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    (tmp_path / "one.yml").write_text("model: {lmax: 1}")
    (tmp_path / "two.yml").write_text("model: {lmax: 2}")
    (tmp_path / "contradiction.yml").write_text("includes: [one.yml, two.yml]")
    (tmp_path / "twice.yml").write_text("model: {lmax: 1}\nmodel: {lmax: 2}")
    monkeypatch.chdir(tmp_path)
    assert cli.main([word.format(config=config) for word in command]) == 2
    printed = capsys.readouterr().err
    assert f"error: {message}" in printed and printed.count("\n") == 1


def test_includes_then_the_file_then_overrides(tmp_path: Path) -> None:
    (tmp_path / "base.yml").write_text("model: {lmax: 1, mmax: 1, name: hdgnn}\noptim: {max_epochs: 1}")
    path = tmp_path / "config.yml"
    path.write_text("includes: [base.yml]\nmodel: {lmax: 2, mmax: 2}")
    config = read_config(path, ["--model.lmax=3"], sections=("model", "optim"))
    assert config == {"model": {"lmax": 3, "mmax": 2, "name": "hdgnn"}, "optim": {"max_epochs": 1}}
    with pytest.raises(ConfigError, match=rf"^{path}: section 'dataset' is missing or empty$"):
        read_config(path, sections=("dataset",))
