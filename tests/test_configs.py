"""Every shipped config: fairchem can read it, its model can be built, and its header says what is true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fairchem.core.common.registry import registry
from fairchem.core.common.utils import load_config

CONFIGS = Path(__file__).parents[1] / "configs"
SHIPPED = sorted(
    path for path in CONFIGS.rglob("*.yml") if path.parent.name != "_base" and CONFIGS / "fairchem2" not in path.parents
)
OC20 = [path for path in SHIPPED if CONFIGS / "oc20" in path.parents]
HDGNN_OC20 = [path for path in OC20 if "hdgnn" in path.stem or path.parent.name == "ablations"]


def name_of(path: Path) -> str:
    return path.relative_to(CONFIGS).as_posix()


def read(path: Path) -> dict[str, Any]:
    config, _, duplicates = load_config(path)
    assert not duplicates
    return config


def leaves(config: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every value with the keys that lead to it."""
    if not isinstance(config, dict):
        yield keys, repr(config)
        return
    for key, value in config.items():
        yield from leaves(value, (*keys, str(key)))


def header(path: Path) -> str:
    """The comment at the top, as one paragraph."""
    lines = path.read_text().splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line.lstrip("# ") for line in lines[:end])


def num_parameters(config: dict[str, Any]) -> int:
    keys = dict(config["model"])
    model = registry.get_model_class(keys.pop("name"))(**keys)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_reads_and_builds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read(path)
    assert config["trainer"] == "fairchem_hdgnn.Trainer"
    assert config["logger"] == "tensorboard"
    assert config["model"]["name"].startswith("fairchem_hdgnn.")
    for split in ("train", "val"):
        assert config["dataset"][split]["format"] == "safe_lmdb"
    assert config["task"]["prediction_dtype"] == "float32"
    assert all(output["prediction_dtype"] == "float32" for output in config["outputs"].values() if output)
    # Weights of a hundred million parameters need not be random here.
    for initialiser in ("uniform_", "normal_", "kaiming_uniform_", "xavier_uniform_"):
        monkeypatch.setattr(torch.nn.init, initialiser, lambda tensor, *_, **__: tensor)
    stated = re.search(r"^Parameters\s+([\d,]+)", header(path), re.MULTILINE)
    count = num_parameters(config)
    if stated or path in OC20:
        assert stated, f"{name_of(path)}: no line 'Parameters' in the header; there are {count:,}"
        assert int(stated[1].replace(",", "")) == count


@pytest.mark.parametrize("path", OC20, ids=name_of)
def test_header_states_what_a_run_needs(path: Path) -> None:
    assert read(path)["optim"]["load_balancing"] == "atoms"
    lines = header(path)
    for topic in ("Effective batch", "Parameters", "Target", "Expected"):
        assert re.search(rf"^{topic}\s", lines, re.MULTILINE), f"{name_of(path)}: nothing on '{topic}'"


@pytest.mark.parametrize("path", OC20, ids=name_of)
def test_header_says_how_to_keep_the_batch(path: Path) -> None:
    """Where that needs several GPUs."""
    optim, lines = read(path)["optim"], header(path)
    stated = re.search(r"^Effective batch\s+(\d+)(?: = (\d+) systems per GPU x (\d+) GPUs)?", lines, re.MULTILINE)
    assert stated is not None
    if stated[2]:
        effective, batch_size, gpus = map(int, stated.groups())
        assert effective == batch_size * gpus == optim["effective_batch_size"]
        assert batch_size == optim["batch_size"]
    for on in re.finditer(r"On one GPU it stays (\d+) with --optim\.accumulate=(\d+), (.*)$", lines, re.MULTILINE):
        others = {int(gpus): int(count) for gpus, count in re.findall(r"on (\d+)(?: GPUs)? with (\d+)", on[3])}
        assert [*others] == [2, 4, 8]
        for gpus, accumulate in {1: int(on[2]), **others}.items():
            assert gpus * accumulate * optim["batch_size"] == int(on[1]) == optim["effective_batch_size"]
    assert ("--optim.accumulate" in lines) == (path.parent.name in ("all", "2M"))


@pytest.mark.parametrize("path", HDGNN_OC20, ids=name_of)
def test_main_sizes_are_one_line_each(path: Path) -> None:
    """In the file or the nearest that it includes, none of them in a base, with the paper's letter."""
    model = read(path)["model"]
    for key, symbol in {"lmax": "L", "lmax_metp": "L'", "num_layers": "K", "sphere_channels": "C"}.items():
        file = path
        while key not in yaml.safe_load(file.read_text())["model"]:
            file = file.parent / yaml.safe_load(file.read_text())["includes"][0]
        assert file.resolve() in SHIPPED
        assert re.search(rf"^  {key}: {model[key]}\s+# {symbol}$", file.read_text(), re.MULTILINE)


def test_nothing_is_said_twice() -> None:
    """No config holds a value that it includes anyway."""
    for path in CONFIGS.rglob("*.yml"):
        own = yaml.safe_load(path.read_text())
        for include in own.pop("includes", []):
            repeated = set(leaves(own)) & set(leaves(read((path.parent / include).resolve())))
            assert not repeated, f"{name_of(path)} repeats {repeated} of {include}"


def test_paper_sizes() -> None:
    """Appendix D of the HDGNN paper: L = 6, L' = 2, K = 16, C = 128; the ablations K = 8, C = 64."""
    full = read(CONFIGS / "oc20/is2re/all/hdgnn.yml")["model"]
    baseline = read(CONFIGS / "oc20/is2re/all/hdgnn_ablation_baseline.yml")["model"]
    sizes = ("lmax", "lmax_metp", "num_layers", "sphere_channels")
    assert [full[size] for size in sizes] == [6, 2, 16, 128]
    assert [baseline[size] for size in ("lmax", "num_layers", "sphere_channels")] == [6, 8, 64]


def test_demo_statistics_are_those_of_the_data_maker() -> None:
    """The demonstration's normalizer is stated in its header too."""
    path = CONFIGS / "oc20/is2re/demo/hdgnn.yml"
    normalizer = read(path)["dataset"]["train"]["transforms"]["normalizer"]["energy"]
    stated = re.search(r"mean (\S+), standard deviation (\S+) over", header(path))
    assert stated is not None
    assert [float(number) for number in stated.groups()] == [normalizer["mean"], normalizer["stdev"]]
