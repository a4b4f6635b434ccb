"""A step is tried before a training and by ``check``: what would end the run is one line; no trace is left."""

from __future__ import annotations

import contextlib
import copy
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.db
import numpy as np
import pytest
import small_runs
import torch
import yaml
from ase.calculators.singlepoint import SinglePointCalculator
from small_runs import TINY_ESCN, TINY_HDGNN, load, set_keys, train, write_config
from tqdm import tqdm

from fairchem_hdgnn import cli
from fairchem_hdgnn.checks import trainer as checked
from fairchem_hdgnn.data.lmdb import write_lmdb
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.errors import UserError

fault = pytest.mark.fault
Outcome = Callable[[object], None]


def changed(config: Path, changes: dict[str, Any]) -> Path:
    """The config with other values by dotted key, and ``safe_lmdb``, which several runs may share."""
    formats = {f"dataset.{split}.format": "safe_lmdb" for split in ("train", "val")}
    config.write_text(yaml.safe_dump(set_keys(yaml.safe_load(config.read_text()), {**formats, **changes})))
    return config


def check(config: Path) -> tuple[int, list[str]]:
    """Exit status and lines of ``fairchem-hdgnn check``, without those of the wrong normaliser and short averages."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = cli.main(["check", str(config), "--run-dir", str(config.parent)])
    expected = ("warning: dataset.train.transforms.normalizer", "warning: optim.ema_decay")
    return status, [line for line in output.getvalue().splitlines() if not line.startswith(expected)]


def fails(name: str, message: str, **changes: Any) -> Any:
    """A config that ends a training, what is said of it, and its row in docs/reliability.md."""
    return pytest.param(
        {path.replace("__", "."): value for path, value in changes.items()},
        message,
        id=name,
        marks=fault("configuration", name),
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        fails("milestones in epochs", "lr_milestones in steps not epochs", optim__lr_milestones=[5, 8]),
        fails("warm-up in epochs", "warmup_steps instead of warmup_epochs", optim__warmup_epochs=2),
        fails("no milestones", "optim: the key 'lr_milestones' is missing", optim__lr_milestones=...),
        fails("scheduler without its argument", "'T_max'", optim__scheduler="CosineAnnealingLR"),
        fails("scheduler LambdaLR by name", "remove optim.scheduler", optim__scheduler="LambdaLR"),
        fails("misspelt optimizer_params", "'wieght_decay'", optim__optimizer_params={"wieght_decay": 0.1}),
        fails("learning rate twice", "multiple values for keyword", optim__optimizer_params={"lr": 0.1}),
        fails("optimiser with a closure", "'closure'", optim__optimizer="LBFGS", optim__optimizer_params={}),
        fails("no logger", "but this machine has no API key for it", logger=...),
        fails("wandb without a key", "run `wandb login`", logger="wandb"),
        fails("misspelt logger", "did you mean 'tensorboard'?", logger="tensorbord"),
        fails("misspelt trainer", "did you mean 'fairchem_hdgnn.Trainer'?", trainer="fairchem_hdgnn.Trianer"),
        fails("output without a loss", "turn off outputs without one", model__regress_forces=True),
        fails("no num_workers", "'num_workers' is missing", optim__num_workers=...),
        fails("no metric to rank by", "primary_metric: missing", evaluation_metrics__primary_metric=...),
        fails("metric of vectors for energies", "evaluation_metrics", evaluation_metrics__metrics={
            "energy": ["mae", "cosine_similarity", "forcesx_mae"]}),
    ],
)  # fmt: skip
def test_what_ends_a_training_is_found_by_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str, outcome: Outcome
) -> None:
    for variable in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    config = changed(write_config(tmp_path, max_epochs=1), changes)
    status, lines = check(config)
    [line] = [line for line in lines if line.startswith("error: ")]
    assert status == 1 and message in line
    outcome(line)
    if "trainer" in changes:
        return
    with pytest.raises(UserError) as error:
        train(config, "stopped")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not list((tmp_path / "checkpoints").rglob("checkpoint.pt"))


@pytest.mark.parametrize(
    "changes",
    [
        {"optim.optimizer_params": {"weight_decay": "1e-2", "eps": "1e-7"}, "optim.clip_grad_norm": "1e2"},
        {"optim.ema_decay": "99e-2", "optim.lr_initial": "1E-3"},
        {"optim.ema_decay": 1},
        {"optim.scheduler": None},
        {"optim.scheduler": "CosineAnnealingLR", "optim.T_max": "1e3"},
        {"optim.scheduler": "ReduceLROnPlateau", "optim.factor": "5e-1"},
    ],
    ids=str,
)
def test_numbers_and_schedules_as_people_write_them(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = changed(write_config(tmp_path, max_epochs=1), changes)
    assert check(config) == (0, [f"{config}: 0 errors, 2 warnings"])
    train(config, "done")
    stored = load(tmp_path, "done")["config"]["optim"]
    assert "1e" not in str([value for value in stored.values() if isinstance(value, str)])


def with_label(kind: Callable[[float], Any]) -> Callable[..., Any]:
    system = small_runs._system

    def make(rng: np.random.Generator, size: int, sid: int) -> Any:
        record = system(rng, size, sid)
        record.y_relaxed = kind(record.y_relaxed)
        return record

    return make


@pytest.mark.parametrize("kind", [np.array, np.float64, np.float32, lambda value: torch.tensor([[value]]).double()])
def test_labels_of_any_type_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Callable) -> None:
    monkeypatch.setattr(small_runs, "_system", with_label(kind))
    config = changed(write_config(tmp_path, max_epochs=1), {})
    status, lines = check(config)
    assert status == 0, lines
    train(config, "done")


def test_positions_in_float64_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = small_runs._system

    def exact(*args: Any, **keys: Any) -> Any:
        record = system(*args, **keys)
        record.pos, record.cell = record.pos.double(), record.cell.double()
        return record

    monkeypatch.setattr(small_runs, "_system", exact)
    config = changed(write_config(tmp_path, max_epochs=1), {})
    assert check(config)[0] == 0
    train(config, "done")


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("y_relaxed", "low", "'energy' is str, not a number"),
        ("natoms", np.int64(5), "'natoms' is int64"),
        ("pos", "nowhere", "'pos' is str, not a tensor"),
        ("pbc", "all", "record 0: TypeError"),
    ],
)
def test_records_that_no_step_can_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attribute: str, value: Any, message: str
) -> None:
    system = small_runs._system

    def spoilt(*args: Any, **keys: Any) -> Any:
        record = system(*args, **keys)
        setattr(record, attribute, value)
        return record

    monkeypatch.setattr(small_runs, "_system", spoilt)
    status, lines = check(changed(write_config(tmp_path), {}))
    errors = [line for line in lines if line.startswith("error: dataset.train")]
    assert status == 1 and message in errors[0], lines


@pytest.mark.parametrize("trainer", ["ocp", "energy"])
def test_trainers_of_fairchem_are_tried_too(tmp_path: Path, trainer: str) -> None:
    config = changed(write_config(tmp_path, TINY_ESCN, trainer), {})
    assert check(config)[0] == 0
    status, lines = check(changed(config, {"optim.scheduler": "CosineAnnealingLR"}))
    assert status == 1 and "'T_max'" in lines[0]


def test_splits_inherit_their_format_in_a_trial(tmp_path: Path) -> None:
    """A validation set without ``format`` is read as the training set is, here from an ASE database."""
    config = changed(write_config(tmp_path, max_epochs=1), {})
    settings = yaml.safe_load(config.read_text())
    for split in settings["dataset"]:
        with ase.db.connect(tmp_path / f"{split}.db") as database:
            for distance in np.linspace(1.7, 2.3, 24):
                atoms = ase.Atoms("CuO", [[0, 0, 0], [0, 0, distance]], cell=[6, 6, 6], pbc=True)
                atoms.calc = SinglePointCalculator(atoms, energy=distance)
                database.write(atoms)
        settings["dataset"][split] = {"src": str(tmp_path / f"{split}.db")}
    settings["dataset"]["train"] |= {"format": "ase_db", "a2g_args": {"r_energy": True}}
    config.write_text(yaml.safe_dump(settings))
    status, lines = check(config)
    assert status == 0, lines
    assert cli.main(["train", *small_runs.arguments(config, "done")]) == 0


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_a_trial_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str) -> None:
    """Weights, averages, optimiser and schedule of a run, and of one that goes on, are those of a run without it."""
    parameters = {"momentum": 0.9} if optimizer == "SGD" else {"weight_decay": 0.01}
    config = write_config(tmp_path, max_epochs=1, optimizer=optimizer, optimizer_params=parameters, lr_initial=1e-4)
    changed(config, {})
    tried: list[int] = []
    trial = checked.try_steps

    def count(trainer: Any) -> None:
        tried.append(trainer.step)
        before = copy.deepcopy(trainer.optimizer.state_dict())
        random = torch.random.get_rng_state()
        trial(trainer)
        assert str(before) == str(trainer.optimizer.state_dict())
        assert torch.equal(random, torch.random.get_rng_state())

    monkeypatch.setattr(checked, "try_steps", count)
    train(config, "with")
    train(config, "with", "--optim.max_epochs=2")
    assert tried == [0, 6]
    monkeypatch.setattr(checked, "try_steps", lambda trainer: None)
    train(config, "without")
    train(config, "without", "--optim.max_epochs=2")
    one, other = (load(tmp_path, run_id) for run_id in ("with", "without"))
    for part in ("state_dict", "optimizer", "ema", "scheduler", "step", "best_val_metric", "running_metrics"):
        assert str(one[part]) == str(other[part]), part
    for name, weight in one["state_dict"].items():
        assert torch.equal(weight, other["state_dict"][name]), name


def test_a_completed_run_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A one-cycle schedule has no step left to try."""
    schedule = {"scheduler": "OneCycleLR", "max_lr": 1e-3, "total_steps": 6}
    config = changed(write_config(tmp_path, max_epochs=1, **schedule), {})
    train(config, "complete")
    caplog.clear()
    train(config, "complete")
    assert "This run is complete: its checkpoint is at step 6 of 6" in caplog.text
    assert load(tmp_path, "complete")["step"] == 6


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("tags", "dataset.train.transforms.noisy_nodes: AttributeError: "),
        (
            "pos_relaxed",
            "no 'displacement', which the trainer reads (16 of 16 records checked); noisy_nodes ",
        ),
    ],
)
def test_noisy_nodes_say_what_records_lack(tmp_path: Path, missing: str, message: str) -> None:
    noise = {"probability": 0.5, "standard_deviation": 0.1}
    changes = {
        "dataset.train.transforms.noisy_nodes": noise,
        "dataset.val.transforms": {"noisy_nodes": noise},
        "outputs.displacement": {"level": "atom"},
        "model.regress_forces": True,
        "model.vector_name": "displacement",
        "loss_functions": [{name: {"fn": "l2mae", "coefficient": 1}} for name in ("energy", "displacement")],
    }
    config = changed(write_config(tmp_path), changes)
    path = tmp_path / "train"
    records = list(Records(path))
    (path / "data.lmdb").unlink()
    for record in records:
        del record[missing]
    write_lmdb(path, records)
    status, lines = check(config)
    assert status == 1 and len(lines) == 2, "one error, and the count"
    assert message in lines[0] and "pos_relaxed" in lines[0]


def test_a_trial_sees_a_model_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of somebody else, whose forward pass does not fit the records."""

    def forward(self: Any, data: Any) -> Any:
        raise IndexError("index out\nof range")

    config = changed(write_config(tmp_path, TINY_HDGNN), {})
    monkeypatch.setattr("fairchem_hdgnn.HDGNN.forward", forward)
    status, lines = check(config)
    assert status == 1
    assert lines[0] == ("error: model, outputs: IndexError: index out of range; the model cannot predict these records")


def test_small_records_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed(write_config(tmp_path), {})
    sizes: list[list[int]] = []
    forward = checked.trainer.Trainer._forward

    def noted(self: Any, batch: Any) -> Any:
        sizes.append(batch.natoms.tolist())
        return forward(self, batch)

    monkeypatch.setattr(checked.trainer.Trainer, "_forward", noted)
    assert check(config)[0] == 0
    assert [len(batch) for batch in sizes] == [2, 1]
    assert max(sizes[0]) <= 5, "OC20-like systems of 4 to 9 atoms; 16 were looked at"


def test_no_lock_of_a_bar_outlives_its_rank(tmp_path: Path) -> None:
    """Else Python complains of a killed rank's semaphores after our line."""
    train(changed(write_config(tmp_path, max_epochs=1), {}), "done")
    assert isinstance(tqdm.get_lock(), type(threading.RLock()))


def test_check_looks_at_records_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer that it tries would look, too."""
    config = changed(write_config(tmp_path), {})
    monkeypatch.delattr(checked, "data_findings")
    monkeypatch.delattr(checked, "key_findings")
    assert check(config)[0] == 0


def test_unknown_keys_of_the_command_line_are_no_findings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """``mode`` and ``print_every`` are no misspelt sections."""
    config = changed(write_config(tmp_path, max_epochs=1), {})
    cli.main(["train", *small_runs.arguments(config, "quiet")])
    assert "did you mean" not in caplog.text
