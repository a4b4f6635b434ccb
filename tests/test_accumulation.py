"""Several batches make the optimiser step of one batch with all their structures, on one rank and on two."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import torch
import yaml
from fairchem.core.modules.loss import DDPLoss
from small_runs import TINY_ESCN, TINY_HDGNN, arguments, load, losses, train, write_config
from torch import Tensor
from torch_geometric.data import Batch
from two_ranks import interrupted_at, train_on_two_ranks

from fairchem_hdgnn import cli
from fairchem_hdgnn.checks.batch_size import batch_size_findings
from fairchem_hdgnn.checks.keys import OURS
from fairchem_hdgnn.errors import ConfigError, TrainingError
from fairchem_hdgnn.host.fairchem1.accumulation import grouped, means_over, num_steps, use_step_losses
from fairchem_hdgnn.host.fairchem1.trainer import Trainer

MODELS = {
    "hdgnn": {**TINY_HDGNN, "frames": "fixed", "regress_forces": True},
    "escn": {**TINY_ESCN, "frames": "fixed", "regress_forces": True},
}
ONE_STEP = ("--optim.max_epochs=1", "--optim.clip_grad_norm=1000")
TOLERANCE = 1e-6
"""Of a gradient in float32, relative to its largest entry."""


def write_forces_config(folder: Path, model: Mapping[str, Any] = MODELS["hdgnn"], **optim: Any) -> Path:
    """24 systems with forces, of whose atoms 0 to 3 are fixed; learnt with energies."""
    path = write_config(folder, model, **optim)
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        with (
            lmdb.open(str(folder / split / "data.lmdb"), subdir=False, map_size=1 << 26) as environment,
            environment.begin(write=True) as transaction,
        ):
            for index in range(pickle.loads(transaction.get(b"length"))):
                record = pickle.loads(transaction.get(f"{index}".encode()))
                record.fixed[: rng.integers(4)] = 1
                record.force = torch.tensor(rng.normal(size=(record.natoms, 3)), dtype=torch.float32)
                transaction.put(f"{index}".encode(), pickle.dumps(record))
    # What load balancing goes by: where a few systems count as large, ranks take unequal numbers of systems.
    np.savez(folder / "train" / "metadata.npz", natoms=np.where(np.arange(24) % 7 == 0, 60, 6))
    config = yaml.safe_load(path.read_text())
    for split in config["dataset"].values():
        split["key_mapping"]["force"] = "forces"
    config["outputs"]["forces"] = {"level": "atom", "train_on_free_atoms": True, "eval_on_free_atoms": True}
    config["loss_functions"].append({"forces": {"fn": "l2mae", "coefficient": 3, "final_coefficient": 1}})
    config["evaluation_metrics"]["metrics"]["forces"] = ["mae", "cosine_similarity"]
    path.write_text(yaml.safe_dump(config))
    return path


def gradient(config: Path, run: str) -> Tensor:
    """Of all weights in the run's first step: AdamW's first moment is a tenth of it."""
    moments = load(config.parent, run)["optimizer"]["state"]
    assert all(moment["step"] == 1 for moment in moments.values())
    return torch.cat([10 * moments[index]["exp_avg"].flatten() for index in sorted(moments)])


def deviation(values: Tensor, exact: Tensor) -> float:
    return float((values - exact).abs().max() / exact.abs().max())


def weights(config: Path, run: str) -> dict[str, Tensor]:
    return {name.removeprefix("module."): value for name, value in load(config.parent, run)["state_dict"].items()}


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write_forces_config(tmp_path_factory.mktemp(name), model) for name, model in MODELS.items()}


@pytest.fixture(scope="module", params=MODELS)
def config(request: pytest.FixtureRequest, configs: dict[str, Path]) -> Path:
    return configs[request.param]


@pytest.fixture(scope="module")
def exact(config: Path) -> Tensor:
    """The gradient of one batch with all structures."""
    train(config, "one-batch", *ONE_STEP, "--optim.batch_size=24")
    return gradient(config, "one-batch")


@pytest.mark.parametrize(("batch_size", "accumulate"), [(5, 5), (7, 9)])
def test_gradient_is_that_of_one_batch(config: Path, exact: Tensor, batch_size: int, accumulate: int) -> None:
    """With a smaller last batch, and with fewer batches in the epoch than a step may have."""
    run = f"{batch_size}x{accumulate}"
    train(config, run, *ONE_STEP, f"--optim.batch_size={batch_size}", f"--optim.accumulate={accumulate}")
    assert load(config.parent, run)["step"] == 1
    assert deviation(gradient(config, run), exact) < TOLERANCE


@pytest.fixture(scope="module")
def two_ranks(configs: dict[str, Path]) -> None:
    """12 structures on each rank: batches of 5, 5 and 2, in which ranks have unequal numbers of structures."""
    uneven = ("--optim.batch_size=5", "--optim.load_balancing=atoms")
    steps = [
        arguments(config, "ranks-one-step", *uneven, *ONE_STEP, "--optim.accumulate=4") for config in configs.values()
    ]
    whole, parts = (
        arguments(configs["hdgnn"], run, *uneven, "--optim.accumulate=2") for run in ("ranks", "ranks-parts")
    )
    train_on_two_ranks(*steps, whole, interrupted_at(3, 1, parts), parts)


def test_gradient_of_two_ranks_is_that_of_one_batch(config: Path, exact: Tensor, two_ranks: None) -> None:
    assert load(config.parent, "ranks-one-step")["step"] == 1
    assert deviation(gradient(config, "ranks-one-step"), exact) < TOLERANCE


@pytest.mark.parametrize("run", ["many", "ranks"])
def test_training_is_that_of_large_batches(configs: dict[str, Path], two_ranks: None, run: str) -> None:
    """Three epochs, each with a step of 20 structures and one of the 4 that are left: EMA, warm-up, logs, losses."""
    config = configs["hdgnn"]
    if run == "many":
        train(config, "large", "--optim.batch_size=20")
        train(config, "many", "--optim.batch_size=4", "--optim.accumulate=5")
    one, other = load(config.parent, "large"), load(config.parent, run)
    assert one["step"] == other["step"] == 6 and one["epoch"] == other["epoch"] == 3
    assert one["scheduler"] == other["scheduler"]
    after = weights(config, run)
    for key, value in weights(config, "large").items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=2e-5)
    for value, expected in zip(other["ema"]["shadow_params"], one["ema"]["shadow_params"]):
        torch.testing.assert_close(value, expected, rtol=0, atol=2e-5)
    # Rank 0 logs its own part of losses and metrics of training.
    tags = ["train/lr", "val/forces_mae", *(["train/loss", "train/forces_mae"] if run == "many" else [])]
    for tag in tags:
        logged = losses(config.parent, run, tag)
        assert logged == pytest.approx(losses(config.parent, "large", tag), rel=1e-4), tag
    assert sorted(losses(config.parent, run)) == [1, 2, 3, 4, 5, 6]


def test_a_signal_to_one_rank_stops_both_between_two_batches(configs: dict[str, Path], two_ranks: None) -> None:
    """And the run goes on as the one that was not interrupted, to the last bit."""
    config = configs["hdgnn"]
    assert losses(config.parent, "ranks-parts") == losses(config.parent, "ranks")
    parts = weights(config, "ranks-parts")
    for key, value in weights(config, "ranks").items():
        assert torch.equal(parts[key], value), key


def test_the_accumulated_gradient_is_clipped(config: Path, exact: Tensor) -> None:
    train(config, "clipped", *ONE_STEP, "--optim.clip_grad_norm=0.01", "--optim.batch_size=5", "--optim.accumulate=5")
    assert deviation(gradient(config, "clipped"), 0.01 * exact / exact.norm()) < 1e-5
    assert losses(config.parent, "clipped", "train/grad_norm") == {1: pytest.approx(float(exact.norm()), rel=1e-5)}


def test_gradient_in_bfloat16_differs_by_its_rounding(config: Path, exact: Tensor) -> None:
    train(config, "bfloat16", *ONE_STEP, "--optim.precision=bfloat16", "--optim.batch_size=5", "--optim.accumulate=5")
    assert 1e-5 < deviation(gradient(config, "bfloat16"), exact) < 0.05


# Loss scaling, as with --amp, which is for CUDA only: here with torch's scaler for the CPU, and float32 networks.

scaled = pytest.mark.filterwarnings("ignore:.*Disabling:UserWarning")


def scale_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    load_task = Trainer.load_task

    def with_scaler(self: Trainer) -> None:
        load_task(self)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    monkeypatch.setattr(Trainer, "load_task", with_scaler)


@scaled
def test_gradient_of_scaled_losses(config: Path, exact: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    scale_losses(monkeypatch)
    train(config, "scaled", *ONE_STEP, "--optim.batch_size=5", "--optim.accumulate=5")
    assert deviation(gradient(config, "scaled"), exact) < TOLERANCE
    assert losses(config.parent, "scaled", "train/grad_norm")[1] == pytest.approx(float(exact.norm()), rel=1e-5)


@scaled
def test_one_overflow_skips_the_step_and_lowers_the_scale_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_config(tmp_path, max_epochs=1, batch_size=4, accumulate=3, eval_every=100)
    scale_losses(monkeypatch)
    seen, forward = [], Trainer._forward

    def overflow(self: Trainer, batch: Batch) -> dict[str, Tensor]:
        predictions = forward(self, batch)
        if self.step > 0 and self.model.training:
            seen.append(self.step)
            if len(seen) in (1, 2):
                predictions["energy"].register_hook(lambda gradient: gradient * float("inf"))
        return predictions

    monkeypatch.setattr(Trainer, "_forward", overflow)
    train(config, "overflow")
    assert seen == [1, 1, 1, 2, 2, 2]
    checkpoint = load(tmp_path, "overflow")
    assert checkpoint["amp"]["scale"] == 512
    assert {int(state["step"]) for state in checkpoint["optimizer"]["state"].values()} == {1}


# Parts.


def test_the_last_step_takes_what_is_left() -> None:
    batches = [Batch() for _ in range(7)]
    assert [len(group) for group in grouped(batches, 3)] == [3, 3, 1]
    assert [len(group) for group in grouped(batches, 9)] == [7]
    assert [num_steps(7, 3), num_steps(6, 3), num_steps(2, 5), num_steps(4, 1)] == [3, 2, 1, 4]


@pytest.mark.parametrize(("fn", "reduction"), [("mae", None), ("mse", "mean"), ("l2mae", "mean"), ("l2mae", "sum")])
@pytest.mark.parametrize(("level", "free"), [("system", False), ("atom", False), ("atom", True)])
def test_parts_of_a_mean_make_the_mean(fn: str, reduction: str | None, level: str, free: bool) -> None:
    """Also where a batch has no free atom."""
    batches = []
    for fixed in ([0.0, 1, 0, 0, 1], [1.0, 1], [0.0, 0, 0]):
        natoms = torch.tensor([1, len(fixed) - 1])
        batches.append(Batch(natoms=natoms, fixed=torch.tensor(fixed)))
    outputs = {"target": {"level": level, "train_on_free_atoms": free}}
    functions: list = [("target", {"coefficient": 1, "fn": DDPLoss(fn, reduction)})]
    use_step_losses(functions, [{"target": {"fn": fn, "reduction": reduction}}])
    rows = [
        len(batch.natoms) if level == "system" else int((batch.fixed == 0).sum()) if free else len(batch.fixed)
        for batch in batches
    ]
    predictions, targets = torch.randn(2, sum(rows), 3).double()
    natoms = torch.ones(1)
    loss = functions[0][1]["fn"]
    with means_over(batches, functions, outputs, torch.device("cpu")):
        parts = [loss(*part, natoms) for part in zip(predictions.split(rows), targets.split(rows))]
    torch.testing.assert_close(sum(parts), DDPLoss(fn, reduction)(predictions, targets, natoms))
    # Outside of a step a batch is by itself, as in evaluations.
    torch.testing.assert_close(
        loss(predictions[:2], targets[:2], natoms), DDPLoss(fn, reduction)(predictions[:2], targets[:2], natoms)
    )


def test_a_nan_is_traced_to_its_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_config(tmp_path, accumulate=3)
    sids: list[list[int]] = []
    forward = Trainer._forward

    def spoiled(self: Trainer, batch: Batch) -> dict[str, Tensor]:
        predictions = forward(self, batch)
        if self.step == 2:
            sids.append(batch.sid.tolist())
            predictions["energy"] = predictions["energy"] * (float("nan") if len(sids) == 2 else 1.0)
        return predictions

    monkeypatch.setattr(Trainer, "_forward", spoiled)
    with pytest.raises(TrainingError, match=r"step 2: prediction of 'energy' is not finite for sid ([\d, ]+);") as stop:
        train(config, "nan")
    assert len(sids) == 2
    assert ", ".join(map(str, sids[1])) in str(stop.value)
    assert load(tmp_path, "nan")["step"] == 1


def test_draws_differ_between_the_batches_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of random frames and of noisy nodes."""
    config = write_config(tmp_path, accumulate=3, max_epochs=1)
    drawn, frames, forward = [], [], Trainer._forward

    def recorded(self: Trainer, batch: Batch) -> dict[str, Tensor]:
        if self.step > 0 and self.model.training:
            drawn.append(torch.random.get_rng_state().numpy().tobytes())
            frames.extend(module.step for name, module in self.model.named_modules() if hasattr(module, "average"))
        return forward(self, batch)

    monkeypatch.setattr(Trainer, "_forward", recorded)
    train(config, "draws")
    assert len(set(drawn)) == len(drawn) == 6
    assert sorted(set(frames)) == [1, 2, 3, 4, 5, 6]


def test_another_accumulation_is_told_when_resuming(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = write_config(tmp_path, max_epochs=1)
    train(config, "changed")
    with caplog.at_level(logging.WARNING):
        train(config, "changed", "--optim.max_epochs=4", "--optim.accumulate=3")
    assert "not exactly: optim.accumulate 1 -> 3; steps per epoch 6 -> 2; 1 epochs count as 3." in caplog.text


# What a config is meant for.


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "ranks", "message"),
    [
        (7, 1, 8, None),
        (7, 2, 4, None),
        (7, 8, 1, None),
        (7, 1, 1, "is 56, but batch_size 7 x accumulate 1 x 1 rank gives 7; set optim.accumulate: 8"),
        (7, 8, 2, "is 56, but batch_size 7 x accumulate 8 x 2 ranks gives 112; set optim.accumulate: 4"),
        (7, 1, 3, "gives 21; optim.accumulate: 3 comes closest with 63; another batch_size may match exactly"),
        (7, 1, 16, "gives 112; optim.accumulate: 1 comes closest with 112; another batch_size may match exactly"),
    ],
)
def test_another_batch_than_meant(batch_size: int, accumulate: int, ranks: int, message: str | None) -> None:
    optim = {"max_epochs": 1, "lr_initial": 0.1, "batch_size": batch_size, "accumulate": accumulate}
    optim["effective_batch_size"] = 56
    found = [str(finding) for finding in batch_size_findings({"trainer": OURS, "optim": optim}, ranks)]
    assert len(found) == (message is not None)
    assert all(line.startswith("optim.effective_batch_size: ") and line.endswith(message) for line in found)
    del optim["effective_batch_size"]
    assert not [*batch_size_findings({"trainer": OURS, "optim": optim}, ranks)]


def test_fairchems_trainer_does_not_accumulate() -> None:
    optim = {"max_epochs": 1, "lr_initial": 0.1, "batch_size": 7, "accumulate": 8, "effective_batch_size": 56}
    unread, other = batch_size_findings({"trainer": "ocp", "optim": optim}, 1)
    assert str(unread) == "optim.accumulate: fairchem's own trainer ignores it; set trainer: fairchem_hdgnn.Trainer"
    assert "batch_size 7 x accumulate 1 x 1 rank gives 7" in other.problem


def test_check_knows_the_number_of_gpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(write_config(tmp_path, effective_batch_size=32))
    assert cli.main(["check", config]) == 0
    assert "set optim.accumulate: 8" in capsys.readouterr().out
    assert cli.main(["check", config, "--num-nodes", "2", "--num-gpus", "2", "--set", "optim.accumulate=2"]) == 0
    assert "accumulate" not in capsys.readouterr().out
    assert cli.main(["check", config, "--num-gpus", "0"]) == 2


def test_a_training_tells_that_the_batch_is_another(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        train(write_config(tmp_path, max_epochs=1, effective_batch_size=8), "told")
    assert "optim.effective_batch_size: is 8, but batch_size 4 x accumulate 1 x 1 rank gives 4" in caplog.text


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "two"])
def test_an_accumulation_that_cannot_be(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError) as error:
        train(write_config(tmp_path), "wrong", f"--optim.accumulate={value}")
    shown = f"'{value}'" if value == "two" else value
    assert str(error.value) == f"optim.accumulate: is {shown}; give a whole number of at least 1"
