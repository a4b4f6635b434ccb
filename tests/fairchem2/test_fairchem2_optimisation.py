"""Learning rates and weight decay under fairchem-core 2 are 1.10's."""

from __future__ import annotations

import math
from functools import partial

import hydra
import pytest
import torch
from fairchem.core.units.mlip_unit.mlip_unit import _get_optimizer_wd
from fc2_data import tiny_network
from fc2_data_configs import IS2RE, composed
from torch.optim.lr_scheduler import LRScheduler

from fairchem_hdgnn.host.fairchem2 import schedules


def rates(make: partial[LRScheduler], steps: int, lr: float = 0.1) -> list[float]:
    """Learning rate of each step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler, found = make(optimizer, n_iters_per_epoch=10), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_milestones() -> None:
    make = partial(schedules.milestones, warmup_steps=4, warmup_factor=0.2, lr_milestones=[8, 12], lr_gamma=0.3)
    expected = [0.1 * (0.2 + 0.8 * step / 4) for step in range(4)] + [0.1] * 4 + [0.03] * 4 + [0.009] * 4
    assert rates(make, 16) == pytest.approx(expected)


def test_milestones_without_warm_up() -> None:
    make = partial(schedules.milestones, warmup_steps=0, warmup_factor=0.2, lr_milestones=[2], lr_gamma=0.3)
    assert rates(make, 4) == pytest.approx([0.1] * 2 + [0.03] * 2)


def test_one_cycle() -> None:
    """Up by half a cosine, then down to nothing; one step more than there are is allowed."""
    found = rates(partial(schedules.one_cycle, max_lr=0.1, epochs=2, pct_start=0.25), 20)
    top = 0.25 * 21 - 1
    for step, rate in enumerate(found):
        start, end, share = (0.004, 0.1, step / top) if step <= top else (0.1, 4e-7, (step - top) / (20 - top))
        assert rate == pytest.approx(end + (start - end) * (1 + math.cos(math.pi * share)) / 2)


def test_one_cycle_with_a_single_rising_step() -> None:
    """Where torch divides by zero."""
    found = rates(partial(schedules.one_cycle, max_lr=0.1, epochs=2, pct_start=1 / 21), 20)
    assert found[0] == pytest.approx(0.004) and found[1] == pytest.approx(0.1, rel=0.01)


def test_shipped_schedule_runs_through_a_training() -> None:
    unit = composed(IS2RE / "10k" / "hdgnn.yml")["runner"]["train_eval_unit"]
    make = hydra.utils.instantiate(unit["cosine_lr_scheduler_fn"])
    found = rates(make, 12500, lr=4e-4)
    assert found[0] == pytest.approx(8e-5)
    assert found[6249] == pytest.approx(4e-4)
    assert found[6250] == pytest.approx(1.2e-4)
    assert found[-1] == pytest.approx(4e-4 * 0.3**4)


def test_weight_decay_leaves_biases_and_embeddings_alone() -> None:
    unit = composed(IS2RE / "demo" / "hdgnn.yml", *tiny_network())["runner"]["train_eval_unit"]
    model = hydra.utils.instantiate(unit["model"])
    optimizer = _get_optimizer_wd(hydra.utils.instantiate(unit["optimizer_fn"]), model)
    groups = {group["weight_decay"]: {id(entry) for entry in group["params"]} for group in optimizer.param_groups}
    assert set(groups) == {0, 0.01}
    for name, parameter in model.named_parameters():
        assert id(parameter) in groups[0 if "bias" in name or "embedding" in name else 0.01], name
    for part in ("bias", "embedding"):
        assert any(part in name for name, _ in model.named_parameters())
