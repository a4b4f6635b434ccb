"""Several ranks: the same training as one, frames of their own, no parameter without gradient, and a rank that dies."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import preloaded
import pytest
import torch
from small_networks import clusters
from small_runs import ENVIRONMENT, PLUGIN, TINY_ESCN, TINY_HDGNN, arguments, load, train, write_config
from torch import Tensor, nn
from two_ranks import train_on_two_ranks

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.models.escn.config import ESCNConfig
from fairchem_hdgnn.models.escn.network import ESCNNetwork
from fairchem_hdgnn.models.hdgnn.config import HDGNNConfig
from fairchem_hdgnn.models.hdgnn.network import HDGNNNetwork

FIXED_HDGNN = {**TINY_HDGNN, "frames": "fixed"}
FIXED_ESCN = {**TINY_ESCN, "frames": "fixed"}
TWELVE_STEPS = {"max_epochs": 3, "eval_every": 12, "checkpoint_every": 12}
LONG = 8
"""Epochs of a run that is still under way a while after its first step."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ddp")


@pytest.fixture(scope="module")
def configs(folder: Path) -> dict[str, Path]:
    """A data set each: an LMDB can be written once only. All hold the same systems."""
    models = {"hdgnn": FIXED_HDGNN, "escn": FIXED_ESCN, "random": TINY_HDGNN}
    return {name: write_config(folder / name, model, **TWELVE_STEPS) for name, model in models.items()}


@pytest.fixture(scope="module")
def two_ranks(configs: dict[str, Path]) -> None:
    """Trainings with batches of 3 on each of two ranks: 4 steps an epoch."""
    runs = [("hdgnn", "ranks", 3), ("escn", "ranks", 3), ("random", "first", LONG), ("random", "second", LONG)]
    train_on_two_ranks(
        *(
            arguments(configs[name], run, "--optim.batch_size=3", f"--optim.max_epochs={epochs}")
            for name, run, epochs in runs
        )
    )


def weights(config: Path, run: str) -> dict[str, Tensor]:
    """By name, without the prefix of ``DistributedDataParallel``."""
    return {name.removeprefix("module."): value for name, value in load(config.parent, run)["state_dict"].items()}


@pytest.mark.parametrize("name", ["hdgnn", "escn"])
def test_two_ranks_equal_one_rank_with_twice_the_batch(configs: dict[str, Path], two_ranks: None, name: str) -> None:
    config = configs[name]
    train(config, "alone", "--optim.batch_size=6")
    alone, together = weights(config, "alone"), weights(config, "ranks")
    assert load(config.parent, "ranks")["step"] == 12
    assert alone.keys() == together.keys()
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value, rtol=0, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


def test_random_frames_are_reproducible_on_two_ranks(configs: dict[str, Path], two_ranks: None) -> None:
    """That the ranks' frames differ is tested where frames are."""
    first, second = weights(configs["random"], "first"), weights(configs["random"], "second")
    for key, value in first.items():
        assert torch.equal(second[key], value), key


# DistributedDataParallel, as fairchem builds it, wants a gradient for each parameter in each batch.

SMALL = {
    "lmax": 2,
    "lmax_metp": 1,
    "num_layers": 2,
    "sphere_channels": 3,
    "hidden_channels": 4,
    "edge_channels": 4,
    "cutoff": 6.0,
    "distance_resolution": 1.0,
    "num_sphere_samples": 8,
    "max_num_elements": 30,
    "readout_init": "random",
}
HDGNN_OPTIONS: dict[str, list[Any]] = {
    "num_resolutions": [2],
    "message": ["linear", "fully_tp", "unrestricted"],
    "tensor_product": ["fully_connected"],
    "attention": ["softmax", [1.0, 0.5, 0.5, 0.2]],
    "gate_inputs": ["branch", "branch_and_edge"],
    "full_degree_product": [True, False],
    "output_activation": [True, False],
    "mlp": ["separate"],
    "neural_input": ["rotated"],
    "extra_linear": [True],
    "layer_norm": ["centred", "uncentred", "off"],
    "invariant_branch": [False],
    "antipodal": ["off"],
    "shortcut": [False],
    "squeeze_excitation": [True, False],
    "readout_weight": [0.3],
    "regress_forces": [True],
    "frames": ["fixed", "seeded"],
    "activations": ["recompute"],
    "implementation": ["reference"],
    "num_layers": [1],
    "lmax": [0, 1],
    "mmax": [0],
}
BATCHES = [(5, 1, 2), (2,)]
"""Sizes of molecules. A pair has no far neighbours, a single atom no edges."""


def hdgnn_variants() -> Iterator[dict[str, Any]]:
    """Each preset, with each option by itself and with each pair of those that change which parameters there are."""
    single = [{key: value} for key, values in HDGNN_OPTIONS.items() for value in values]
    structural = ("num_resolutions", "message", "attention", "mlp", "invariant_branch", "neural_input", "extra_linear")
    chosen = [variant for variant in single if set(variant) <= set(structural)]
    pairs = [{**one, **other} for one, other in itertools.combinations(chosen, 2) if set(one) != set(other)]
    for preset, options in itertools.product(("paper", "authors"), [{}, *single, *pairs]):
        yield {"preset": preset, **options}


def parameters_without_gradient(network: nn.Module) -> list[str]:
    """Batches and the parameters that a training step on them leaves without gradient."""
    network.train()
    left_out = []
    for sizes in BATCHES:
        network.zero_grad(set_to_none=True)
        output = network(*clusters(sizes, dtype=torch.float32).arguments())
        sum(value.sum() for value in output.values()).backward()
        left_out += [f"{sizes}: {name}" for name, parameter in network.named_parameters() if parameter.grad is None]
    return left_out


def test_each_parameter_of_each_hdgnn_gets_a_gradient() -> None:
    count = 0
    for options in hdgnn_variants():
        keys = {**SMALL, "invariant_channels": 4, "near_neighbors": 2, **options}
        keys["lmax_metp"] = min(keys["lmax_metp"], keys["lmax"])
        try:
            config = HDGNNConfig.from_keys(keys, set())
        except ConfigError:
            continue
        count += 1
        assert not parameters_without_gradient(HDGNNNetwork(config)), options
    assert count > 100


@pytest.mark.parametrize("forces", [False, True])
@pytest.mark.parametrize("implementation", ["fast", "reference"])
@pytest.mark.parametrize("lmax, mmax", [(0, 0), (2, 0), (2, 1), (2, 2)])
def test_each_parameter_of_each_escn_gets_a_gradient(lmax: int, mmax: int, implementation: str, forces: bool) -> None:
    keys = {key: value for key, value in SMALL.items() if key != "lmax_metp"}
    keys |= {"lmax": lmax, "mmax": mmax, "implementation": implementation, "regress_forces": forces}
    assert not parameters_without_gradient(ESCNNetwork(ESCNConfig.from_keys(keys, set())))


# A rank that dies.


def ranks_of(parent: int) -> list[int]:
    """Process ids of the ranks that torch's elastic launcher started, in order."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture(scope="module")
def killed(configs: dict[str, Path]) -> list[str]:
    """What a training prints of which one rank is killed after the first checkpoint."""
    config = configs["random"]
    settings = ("--num-gpus=2", "--optim.batch_size=3", "--optim.checkpoint_every=1", "--optim.max_epochs=5000")
    checkpoint = config.parent / "checkpoints" / "killed" / "checkpoint.pt"
    printed = config.parent / "killed.log"
    command = [*PLUGIN, *arguments(config, "killed", *settings)]
    run = preloaded.start(command, ENVIRONMENT, config.parent, Path(os.devnull), printed)
    try:
        deadline = time.monotonic() + 120
        while not checkpoint.is_file():
            assert time.monotonic() < deadline
            assert run.is_alive(), printed.read_text()[-3000:]
            time.sleep(0.1)
        os.kill(ranks_of(run.pid)[1], signal.SIGKILL)
        run.join(timeout=60)
        assert run.exitcode == 2
    finally:
        run.kill()
    return printed.read_text().strip().splitlines()


def test_killed_rank_ends_the_run_with_a_message(killed: list[str]) -> None:
    assert killed[-1].startswith("fairchem-hdgnn train: error: rank 1 was killed by SIGKILL")
    assert "start again with the same --timestamp-id" in killed[-1]


@pytest.mark.heavy
def test_run_with_a_killed_rank_goes_on_exactly(configs: dict[str, Path], two_ranks: None, killed: list[str]) -> None:
    config = configs["random"]
    assert 0 < load(config.parent, "killed")["step"] < 4 * LONG
    train_on_two_ranks(arguments(config, "killed", "--optim.batch_size=3", f"--optim.max_epochs={LONG}"))
    whole = weights(config, "first")
    for key, value in weights(config, "killed").items():
        assert torch.equal(value, whole[key]), key
