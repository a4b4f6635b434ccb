"""What keys may hold: words of messages, hints, and one line for each wrong value."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host.graph import GraphSettings
from fairchem_hdgnn.host.noisy_nodes import NoisyNodes
from fairchem_hdgnn.host.sections import Loss, Normalizer, Optim, RelaxOpt, Split, Task
from fairchem_hdgnn.hyperparameters import Keys, from_keys
from fairchem_hdgnn.models.escn.config import ESCNConfig
from fairchem_hdgnn.models.hdgnn.config import HDGNNConfig
from fairchem_hdgnn.models.hdgnn.options import Antipode, Attention, Message
from fairchem_hdgnn.schema import faults, keys_of

KINDS = [HDGNNConfig, ESCNConfig, GraphSettings, NoisyNodes, Split, Normalizer, Loss, Optim, Task, RelaxOpt]


@pytest.mark.parametrize(
    ("kind", "key", "value", "message"),
    [
        (HDGNNConfig, "lmax", 11, "'lmax' must be a whole number from 0 to 10, not 11"),
        (HDGNNConfig, "lmax", True, "'lmax' must be a whole number from 0 to 10, not True"),
        (HDGNNConfig, "num_layers", 2.0, "'num_layers' must be a whole number from 1 to 1000, not 2.0"),
        (HDGNNConfig, "cutoff", 0, "'cutoff' must be a positive number, not 0"),
        (HDGNNConfig, "cutoff", float("inf"), "'cutoff' must be a positive number, not inf"),
        (HDGNNConfig, "cutoff", "1e1", "not '1e1'; YAML reads 1e1 as a string, write 1.0e1"),
        (HDGNNConfig, "energy_scale", "x", "'energy_scale' must be a finite number, not 'x'"),
        (HDGNNConfig, "shortcut", 1, "'shortcut' must be true or false, not 1"),
        (HDGNNConfig, "message", "linar", "fully_tp or unrestricted, not 'linar'; did you mean 'linear'?"),
        (HDGNNConfig, "attention", [1, 2, 3], "must be sigmoid, softmax or a list of 4 numbers, not [1, 2, 3]"),
        (HDGNNConfig, "attention", [1, 2, 3, float("nan")], "a list of 4 numbers, not [1, 2, 3, nan]"),
        (HDGNNConfig, "lmx", 1, "unknown key 'lmx'; did you mean 'lmax'?"),
        (HDGNNConfig, "mmax", 7, "'mmax' is 7, but no order can exceed 'lmax' = 6"),
        (ESCNConfig, "resolution", 15, "'resolution' must be even"),
        (GraphSettings, "output_name", "", "'output_name' must be a non-empty string, not ''"),
        (GraphSettings, "max_neighbors", 0, "'max_neighbors' must be a whole number of at least 1, not 0"),
    ],
)  # fmt: skip
def test_wrong_value(kind: type, key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_keys(kind, {key: value}, "OWNER")
    assert str(error.value).startswith("OWNER: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_right_values_become_what_the_network_compares() -> None:
    keys = {"message": "linear", "antipodal": False, "attention": [0, 0, 0, 1], "cutoff": 5, "lmax_metp": None}
    config = HDGNNConfig.from_keys(keys)
    assert config.message is Message.LINEAR and config.antipodal is Antipode.OFF
    assert config.attention == (0.0, 0.0, 0.0, 1.0) and isinstance(config.cutoff, float)
    assert config.lmax_metp == 2 and HDGNNConfig().attention is Attention.SIGMOID
    assert HDGNNConfig.from_keys(vars(config)) == config == dataclasses.replace(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("eval_every", 0), ("eval_every", None), ("checkpoint_every", 0), ("warmup_steps", -1), ("ema_decay", 1.5),
        ("accumulate", 0), ("accumulate", -1), ("accumulate", 1.5), ("accumulate", "two"), ("accumulate", None),
        ("effective_batch_size", 0), ("clip_grad_norm", 0), ("lr_milestones", [100.5]), ("lr_milestones", 5),
        ("load_balancing", "neighbors"),
    ],
)  # fmt: skip
def test_values_with_which_training_would_end_in_a_traceback(key: str, value: Any) -> None:
    [fault] = faults(Optim, {"max_epochs": 1, "lr_initial": 0.1, key: value})
    assert fault.key.name == key


def test_values_that_optim_may_hold() -> None:
    keys = {"max_epochs": 1, "lr_initial": 1, "checkpoint_every": -1, "clip_grad_norm": None, "ema_decay": None}
    keys |= {"lr_milestones": [100, 200], "load_balancing": False, "optimizer_params": {"amsgrad": True}, "max_lr": "x"}
    assert not faults(Optim, keys)
    assert [fault.key.name for fault in faults(Optim, {})] == ["max_epochs", "lr_initial"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_key_says_what_it_may_be_and_does(kind: type[Keys]) -> None:
    assert [*keys_of(kind)] == [field.name for field in dataclasses.fields(kind)]
    assert all(key.allowed and key.meaning for key in keys_of(kind).values())
