"""`fairchem-hdgnn check` and the checks before a training: every fault has its line, and a good config has none."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import torch
import yaml
from fairchem.core import _cli
from fairchem.core.common import distutils
from fairchem.core.common.flags import flags
from small_runs import TINY_HDGNN, arguments, model_of, set_keys, train, write_config, write_lmdb
from torch_geometric.data import Data

from fairchem_hdgnn import cli
from fairchem_hdgnn.checks import trainer as inspection
from fairchem_hdgnn.checks.files import checkpoint_bytes, disk_findings, same_file_findings
from fairchem_hdgnn.checks.keys import key_findings
from fairchem_hdgnn.checks.records import SAMPLE, Needs, record_findings, sample
from fairchem_hdgnn.checks.targets import target_findings
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host.fairchem1.config_files import read_config, splits_of
from fairchem_hdgnn.host.fairchem1.ranks import on_first_rank
from fairchem_hdgnn.host.fairchem1.trainer import Trainer
from fairchem_hdgnn.host.shipped import shipped_configs

GOOD: dict[str, Any] = {
    "trainer": "fairchem_hdgnn.Trainer",
    "model": TINY_HDGNN,
    "dataset": {"train": {"src": "train.lmdb"}},
    "outputs": {"energy": {"level": "system"}},
    "loss_functions": [{"energy": {"fn": "mae", "coefficient": 1}}],
    "evaluation_metrics": {"metrics": {"energy": ["mae"]}, "primary_metric": "energy_mae"},
    "optim": {"batch_size": 4, "max_epochs": 3, "lr_initial": 1e-3, "optimizer": "AdamW"},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """GOOD with another value at ``path``."""
    return set_keys(copy.deepcopy(GOOD), {path: value})


def test_good_keys_have_no_findings() -> None:
    assert not list(key_findings(GOOD))


SHIPPED = sorted(path for path in shipped_configs().rglob("*.yml") if not {"_base", "fairchem2"} & set(path.parts))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_keys_have_no_findings(path: Path) -> None:
    config = read_config(str(path))
    assert not list(key_findings(config))
    assert {settings["format"] for settings in splits_of(config).values()} == {"safe_lmdb"}


@pytest.mark.parametrize(
    ("path", "value", "fatal", "message"),
    [
        ("optm", {}, False, "optm: nothing reads this key; did you mean 'optim'?"),
        ("max_neighbors", 20, False, "max_neighbors: nothing reads this key here; it belongs in model"),
        ("optim.amp", True, False, "optim.amp: nothing reads this key here; it belongs at the top level"),
        ("dataset.train.accumulate", 2, False, "reads this key here; it belongs in optim"),
        ("outputs.energy.coefficient", 2, False, "it belongs in loss_functions"),
        ("evaluation_metrics.fn", "mae", False, "it belongs in loss_functions"),
        ("dataset.vall", {"src": "x"}, False, "dataset.vall: nothing reads this split; did you mean 'val'?"),
        ("dataset.validation", {"src": "x"}, False, "nothing reads this split; valid: relax, test, train, val"),
        ("task", "s2ef", True, "task: is 's2ef', not a mapping"),
        ("model", ..., True, "model: the section is missing, empty or"),
        ("optim", None, True, "optim: the section is missing, empty or"),
        ("outputs", ["energy"], True, "outputs: is not a mapping"),
        ("optim.max_epochs", ..., True, "optim.max_epochs: is missing; give a whole number of at least 1"),
        ("optim.batch_size", 0, True, "optim.batch_size: is 0; give a whole number of at least 1"),
        ("optim.warmup_steps", 0, True, "optim.warmup_steps: is 0; give a whole number of at least 1"),
        ("optim.batch_size", "8", True, "optim.batch_size: is '8'"),
        ("optim.lr_initial", "1e-4", True, "YAML reads 1e-4 as a string, write 1.0e-4"),
        ("optim.lr_initial", float("nan"), True, "optim.lr_initial: is nan"),
        ("optim.eval_every", 0.5, True, "optim.eval_every: is 0.5"),
        ("optim.optimizer", "AdmW", True, "torch has no 'AdmW'; did you mean 'AdamW'?"),
        ("optim.scheduler", "OneCycle", True, "did you mean 'OneCycleLR'?"),
        ("optim.precision", "bf16", True, "optim.precision: 'bf16' is unknown; did you mean 'bfloat16'?"),
        ("optim.lr_milestone", [1], False, "nothing reads this key; did you mean 'lr_milestones'?"),
        ("optim", {**GOOD["optim"], "scheduler": "OneCycleLR", "max_lr": 0.1, "batchsize": 8}, False,
         "optim.batchsize: nothing reads this key; did you mean 'batch_size'?"),
        ("optim", {**GOOD["optim"], "scheduler": "OneCycleLR", "maxlr": 0.1}, False, "did you mean 'max_lr'?"),
        ("dataset.train.frist_n", 3, False, "dataset.train.frist_n: nothing reads this key; did you mean 'first_n'?"),
        ("dataset.train.first_n", 3, False, "val and test inherit it; write train_split_settings: {first_n: 3}"),
        ("loss_functions", [{"energy": {"fn": "mae", "coefficient": 1, "final_coeficient": 0.1}}], False,
         "did you mean 'final_coefficient'?"),
        ("loss_functions", [{"enrgy": {"fn": "mae", "coefficient": 1}}], True, "did you mean 'energy'?"),
        ("loss_functions", [{"energy": {"fn": "mea", "coefficient": 1}}], True, "fairchem has no loss 'mea'"),
        ("loss_functions", [{"energy": {"fn": "mae"}}], True, "loss_functions.energy.coefficient: is missing"),
        ("loss_functions", ["energy"], True, "'energy' is not a loss"),
        ("evaluation_metrics.metrics", {"forces": ["mae"]}, True, "evaluation_metrics.metrics.forces: no such output"),
        ("evaluation_metrics.metrics", {"energy": ["maee"]}, True, "fairchem has no metric 'maee'"),
        ("evaluation_metrics.primary_metric", "energy_rmse", True, "takes the epoch with the largest 'energy_rmse'"),
        ("evaluation_metrics.primary_metric", "energ_mae", True, "is not computed; did you mean 'energy_mae'?"),
    ],
)  # fmt: skip
def test_keys(path: str, value: Any, fatal: bool, message: str) -> None:
    findings = [
        finding for finding in key_findings(changed(path, value)) if finding.fatal == fatal and message in str(finding)
    ]
    assert findings
    assert "\n" not in str(findings[0])


# Records.

NEEDS = Needs(cutoff=6.0, max_num_elements=90, use_pbc=True, otf_graph=True, targets={"energy": False})


def slab(sid: int = 7) -> Data:
    """Four atoms in a line, 2.5 Å apart, in a cubic cell of 10 Å."""
    return Data(
        pos=torch.tensor([[0.0, 0, 0], [2.5, 0, 0], [5.0, 0, 0], [7.5, 0, 0]]),
        atomic_numbers=torch.tensor([29.0, 29, 8, 1]),
        cell=10 * torch.eye(3)[None],
        natoms=4,
        tags=torch.tensor([0, 1, 2, 2]),
        fixed=torch.zeros(4),
        sid=sid,
        energy=-0.5,
    )


def without(name: str) -> Callable[[Data], None]:
    return lambda record: delattr(record, name)


def with_value(name: str, value: Any) -> Callable[[Data], None]:
    return lambda record: setattr(record, name, value)


def move(atom: int, *place: float) -> Callable[[Data], None]:
    return lambda record: record.pos.__setitem__(atom, torch.tensor(place))


def test_good_records_have_no_findings() -> None:
    assert not list(record_findings("train", [slab()] * 20, NEEDS, labelled=True))


def test_molecules_need_no_cell() -> None:
    record = slab()
    del record.cell
    molecules = Needs(cutoff=6.0, max_num_elements=90, use_pbc=False, otf_graph=True, targets={"energy": False})
    assert not list(record_findings("train", [record], molecules, labelled=True))


@pytest.mark.parametrize(
    ("spoil", "fatal", "message"),
    [
        (without("pos"), True, "records have no 'pos', which the trainer reads"),
        (without("fixed"), True, "records have no 'fixed'"),
        (without("cell"), True, "records have no 'cell'"),
        (without("energy"), True, "map it with dataset.key_mapping"),
        (with_value("natoms", 5), True, "'pos' is [4, 3], not a tensor of shape [5, 3]"),
        (with_value("cell", torch.eye(3)), True, "'cell' is [3, 3], not a tensor of shape [1, 3, 3]"),
        (with_value("pos", [1, 2]), True, "'pos' is list, not a tensor"),
        (with_value("energy", torch.zeros(3)), True, "'energy' has 3 numbers, but its level is system"),
        (with_value("atomic_numbers", torch.tensor([29, 29, 8, 95])), True, "atom 3 has atomic number 95"),
        (with_value("atomic_numbers", torch.tensor([29, 0, 8, 1])), True, "atom 1 has atomic number 0"),
        (move(2, 0.0, float("nan"), 0.0), True, "atom 2 is at [0.0, nan, 0.0]"),
        (move(2, 0.0, float("inf"), 0.0), True, "atom 2 is at [0.0, inf, 0.0]"),
        (with_value("cell", torch.zeros(1, 3, 3)), True, "its cell has no volume"),
        (with_value("cell", torch.ones(1, 3, 3)), True, "its cell has no volume"),
        (with_value("cell", torch.full((1, 3, 3), torch.nan)), True, "its cell has no volume"),
        (with_value("energy", float("nan")), True, "its 'energy' is not finite"),
        (move(1, 0.0, 0.0, 0.0), True, "atoms 0 and 1 coincide"),
        (move(1, 10.0, 0.0, 0.0), True, "atoms 0 and 1 coincide"),
    ],
)  # fmt: skip
def test_records(spoil: Callable[[Data], None], fatal: bool, message: str) -> None:
    records = [slab(sid) for sid in range(3)]
    spoil(records[1])
    findings = list(record_findings("train", records, NEEDS, labelled=True))
    matching = [finding for finding in findings if finding.fatal == fatal and message in str(finding)]
    assert matching, findings
    assert str(matching[0]).startswith("dataset.train, sid 1: ")
    assert "(1 of 3 records checked)" in str(matching[0])


def test_records_with_different_attributes() -> None:
    records = [slab(sid) for sid in range(3)]
    records[0].y_init = 0.5
    [finding] = record_findings("train", records, NEEDS, labelled=True)
    assert finding.fatal and str(finding) == (
        "dataset.train: 'y_init' is in 1 of 3 records checked, but the records of a batch need the same attributes; "
        "re-create the LMDB"
    )


def test_records_without_free_atoms() -> None:
    record = slab()
    record.fixed = torch.ones(4)
    outputs = {"energy": {"level": "system"}, "forces": {"level": "atom", "train_on_free_atoms": True}}
    needs = replace(NEEDS, on_free_atoms=Needs.of(None, outputs).on_free_atoms)
    [finding] = record_findings("train", [slab(), record], needs, labelled=True)
    assert not finding.fatal and "all atoms are fixed: it teaches nothing of 'forces'" in str(finding)
    assert not list(record_findings("train", [record], NEEDS, labelled=True))


def test_periodic_structures_of_a_model_without_boundaries() -> None:
    molecules = replace(NEEDS, use_pbc=False)
    [finding] = record_findings("train", [slab()], molecules, labelled=True)
    assert not finding.fatal and "is periodic, but model.use_pbc is false" in str(finding)
    record = slab()
    record.pbc = torch.zeros(1, 3, dtype=torch.bool)
    assert not list(record_findings("train", [record], molecules, labelled=True))


def test_isolated_atom_is_a_warning() -> None:
    record = slab()
    record.cell = 40 * torch.eye(3)[None]
    record.pos[3] = torch.tensor([20.0, 20.0, 20.0])
    [finding] = record_findings("val", [record], NEEDS, labelled=True)
    assert not finding.fatal
    assert "atom 3 has no neighbour within 6 Å" in str(finding)


def test_one_atom_sees_its_own_images() -> None:
    record = Data(
        pos=torch.zeros(1, 3), atomic_numbers=torch.tensor([29]), cell=3 * torch.eye(3)[None], natoms=1,
        fixed=torch.zeros(1), sid=1, energy=0.0,
    )  # fmt: skip
    assert not list(record_findings("train", [record], NEEDS, labelled=True))


def test_large_system_is_a_warning() -> None:
    grid = 2.5 * torch.cartesian_prod(*[torch.arange(8.0)] * 3)[:450]
    record = Data(
        pos=grid, atomic_numbers=torch.full((450,), 29), cell=20 * torch.eye(3)[None], natoms=450,
        fixed=torch.zeros(450), sid=1, energy=0.0,
    )  # fmt: skip
    [finding] = record_findings("train", [record], NEEDS, labelled=True)
    assert not finding.fatal
    assert "has 450 atoms" in str(finding)


def test_unlabelled_records_need_no_target() -> None:
    record = slab()
    del record.energy
    assert not list(record_findings("test", [record], NEEDS, labelled=False))


def test_record_that_cannot_be_read() -> None:
    class Broken(list):
        def __getitem__(self, index: int) -> Any:
            raise EOFError("Ran out of input")

    [finding] = record_findings("train", Broken([1]), NEEDS, labelled=True)
    assert (
        str(finding)
        == "dataset.train: record 0 cannot be read (EOFError('Ran out of input')): re-create or re-copy the file"
    )


def test_sample_has_both_ends_and_repeats_itself() -> None:
    indices = sample(460_328, SAMPLE)
    assert len(set(indices)) == SAMPLE
    assert indices[0] == 0 and indices[-1] == 460_327
    assert indices == sample(460_328, SAMPLE)


# Targets.


def labelled(mean: float, deviation: float) -> list[Data]:
    return [Data(energy=value) for value in np.random.default_rng(0).normal(mean, deviation, 300).tolist()]


@pytest.mark.parametrize("deviation", [{"stdev": 2.3}, {"rmsd": 2.3}, {"rmsd": 2.3, "stdev": 23.0}])
def test_right_statistics_have_no_finding(deviation: dict[str, float]) -> None:
    """Of both names fairchem reads ``rmsd``."""
    settings = {"normalizer": {"energy": {"mean": -1.5, **deviation}}}
    assert not list(target_findings(settings, labelled(-1.5, 2.3), {"energy": False}))


def test_statistics_of_forces_are_those_of_free_atoms() -> None:
    """Fixed atoms have forces of 0 in many data sets, and are not trained on."""
    random = np.random.default_rng(0)
    records = []
    for _ in range(30):
        fixed = torch.tensor([1.0, 1.0, 1.0, 0.0])
        forces = torch.from_numpy(random.normal(0.0, 0.8, (4, 3))) * (fixed == 0).unsqueeze(1)
        records.append(Data(pos=torch.zeros(4, 3), fixed=fixed, forces=forces))
    settings = {"normalizer": {"forces": {"mean": 0.0, "stdev": 0.8}}}
    assert not list(target_findings(settings, records, {"forces": True}, ["forces"]))
    assert list(target_findings(settings, records, {"forces": True}))


@pytest.mark.parametrize(
    ("normalizer", "fatal", "message"),
    [
        ({"energy": {"mean": 3.0, "stdev": 2.3}}, False, "mean 3 and standard deviation 2.3, but 200 training targets"),
        ({"energy": {"mean": -1.5, "stdev": 23.0}}, False, "set mean and stdev to those of the training set"),
        ({}, False, "no normalizer, but 200 training targets have mean -1.6"),
        ({"energy": {"mean": -1.5, "stdev": 0.0}}, True, "stdev: is 0.0; give a positive number"),
        ({"energy": {"mean": "-1.5", "stdev": 2.3}}, True, "mean: is '-1.5'; give a finite number"),
    ],
)
def test_wrong_statistics(normalizer: dict[str, Any], fatal: bool, message: str) -> None:
    findings = list(target_findings({"normalizer": normalizer}, labelled(-1.5, 2.3), {"energy": False}))
    assert [finding for finding in findings if finding.fatal == fatal and message in str(finding)], findings


# Files and disk.


def test_splits_inherit_from_train_as_in_fairchem() -> None:
    train_settings = {"src": "a", "format": "safe_lmdb", "key_mapping": {"y": "energy"}}
    expected = {"train": train_settings, "val": {**train_settings, "src": "b"}}
    assert splits_of({"dataset": {"train": train_settings, "val": {"src": "b"}, "test": None}}) == expected
    assert splits_of({"dataset": [train_settings, {"src": "b"}]}) == expected
    alone = {"src": "b", "use_train_settings": False}
    assert splits_of({"dataset": {"train": train_settings, "val": alone}})["val"] == alone


@pytest.mark.parametrize(("kind", "fatal"), [("lmdb", True), ("safe_lmdb", False)])
def test_two_splits_of_one_file(tmp_path: Path, kind: str, fatal: bool) -> None:
    path = write_lmdb(tmp_path / "data.lmdb", 2)
    splits = {"val": {"src": str(path), "format": kind}, "test": {"src": str(tmp_path), "format": kind}}
    [finding] = same_file_findings(splits)
    assert finding.fatal == fatal
    assert f"dataset.test.src: is {path.resolve()}, the same as dataset.val.src" in str(finding)


def test_disk() -> None:
    free = shutil.disk_usage(".").free
    assert not list(disk_findings(Path("absent/folder"), free // 10))
    [finding] = disk_findings(Path(), 2 * free)
    assert finding.fatal and "are free" in str(finding)
    [finding] = disk_findings(Path(), int(0.9 * free))
    assert not finding.fatal
    [finding] = disk_findings(Path(__file__) / "checkpoints", 1)
    assert finding.fatal and "is a file" in str(finding)


def test_checkpoints_take_what_was_foreseen(tmp_path: Path) -> None:
    config = write_config(tmp_path, max_epochs=1, checkpoint_every=6)
    train(config, "size")
    folder = tmp_path / "checkpoints" / "size"
    model = model_of(TINY_HDGNN)
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert checkpoint_bytes(model, yaml.safe_load(config.read_text())["optim"]) == 9 * weights
    # Names, shapes and the config come on top: small beside the weights of any but such tiny models.
    assert 4 * weights < (folder / "checkpoint.pt").stat().st_size < 4 * weights + 400_000


# The command, and the trainer.


def stock(command_line: list[str]) -> None:
    """fairchem's own command line."""
    _cli.main(*flags.get_parser().parse_known_args(command_line))


def check(*arguments: str) -> tuple[int, list[str]]:
    """Exit status and lines of ``fairchem-hdgnn check``."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = cli.main(["check", *arguments])
    return status, output.getvalue().splitlines()


def test_check_a_good_config(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    status, lines = check(
        str(config), "--set", "dataset.train.transforms.normalizer.energy={'mean': 3.4, 'stdev': 1.5}"
    )
    assert status == 0, lines
    assert lines == [f"{config}: 0 errors, 0 warnings"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.lmx=2", "error: model: HDGNN: unknown key 'lmx'; did you mean 'lmax'?"),
        ("model.lmax=-1", "error: model: HDGNN: 'lmax' must be a whole number from 0 to 10, not -1"),
        ("model.name=fairchem_hdgnn.HDGN", "did you mean 'fairchem_hdgnn.HDGNN'?"),
        ("model.max_num_elements=20", "raise model.max_num_elements, now 20"),
        ("dataset.train.src=absent.lmdb", "error: dataset.train: LMDB absent.lmdb does not exist"),
        ("dataset.train.format=safe_lmbd", "error: dataset.train: cannot be opened"),
        ("dataset.train.train_split_settings.first_n=1000", "Cannot take 1000 data points"),
        ("outputs.enrgy.level=system", "error: outputs.enrgy: the model predicts energy"),
        ("outputs.forces.level=atom", "set model.regress_forces: true"),
        ("optim.batch_size=-4", "error: optim.batch_size: is -4"),
    ],
)  # fmt: skip
def test_check_names_what_will_fail(tmp_path: Path, override: str, message: str) -> None:
    status, lines = check(str(write_config(tmp_path)), "--set", override)
    assert status == 1
    assert [line for line in lines if message in line], lines


def test_check_runs_nothing_that_is_in_a_record(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {tmp_path}/ran",)

    config = write_config(tmp_path)
    with (
        lmdb.open(str(tmp_path / "train" / "data.lmdb"), subdir=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"0", pickle.dumps(Data(pos=torch.zeros(1, 3), name=Runs())))
    status, lines = check(str(config))
    assert status == 1, lines
    assert [line for line in lines if "record 0 of" in line and "system" in line], lines
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("contents", "message"),
    [("model: [", "while parsing"), ("- 1", "'list'"), ("includes: [absent.yml]", "absent.yml"), ("", "is empty")],
)
def test_configs_that_are_none(tmp_path: Path, contents: str, message: str) -> None:
    path = tmp_path / "config.yml"
    path.write_text(contents)
    with pytest.raises(ConfigError, match=str(path)) as error:
        read_config(str(path))
    assert message in str(error.value)


@pytest.mark.parametrize("main", [lambda arguments: cli.main(["train", *arguments]), stock], ids=["ours", "stock"])
def test_a_launch_is_inspected_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, main: Callable) -> None:
    """Whoever launches it; and each file of records is opened once before the first step."""
    config = write_config(tmp_path, max_epochs=1)
    calls: list[str] = []

    def counted(name: str, function: Callable) -> Callable:
        def count(*args: Any, **options: Any) -> Any:
            calls.append(name)
            return function(*args, **options)

        return count

    for name in ("key_findings", "check_data_sets", "data_findings", "disk_findings", "try_steps"):
        monkeypatch.setattr(inspection, name, counted(name, getattr(inspection, name)))
    monkeypatch.setattr(Trainer, "_train_step", counted("step", Trainer._train_step))
    opened = lmdb.open
    monkeypatch.setattr(lmdb, "open", lambda path, **options: counted(Path(path).parent.name, opened)(path, **options))
    main(arguments(config, "once", "--dataset.train.format=safe_lmdb", "--dataset.val.format=safe_lmdb"))
    before = calls[: calls.index("step")]
    assert before == ["key_findings", "check_data_sets", "train", "val", "data_findings", "disk_findings", "try_steps"]
    assert calls.count("step") == len(calls) - len(before)


@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_looks_for_all(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    found = ConfigError("found by rank 0")

    def broadcast(outcome: list, src: int, device: torch.device) -> None:
        outcome[0] = found if rank else outcome[0]

    def look() -> None:
        assert rank == 0
        raise found

    monkeypatch.setattr(distutils, "is_master", lambda: rank == 0)
    monkeypatch.setattr(distutils, "broadcast_object_list", broadcast)
    with pytest.raises(ConfigError, match="found by rank 0"):
        on_first_rank(look, torch.device("cpu"))


def test_a_training_stops_before_its_first_step(tmp_path: Path) -> None:
    config = write_config(tmp_path, model={**TINY_HDGNN, "max_num_elements": 20})
    with pytest.raises(ConfigError, match=r"dataset\.train, sid 10\d\d: atom \d has atomic number"):
        train(config, "stopped")
    assert not list((tmp_path / "checkpoints").rglob("*.pt"))
