"""`fairchem-hdgnn submit` without a Slurm: the scripts, sweeps, and what is refused."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fairchem_hdgnn import cli
from fairchem_hdgnn.cli import submit as submission
from fairchem_hdgnn.cli.train import check, configs, training_parser
from fairchem_hdgnn.errors import ConfigError, UserError
from fairchem_hdgnn.host.fairchem1.ranks import is_task_of_many, set_rank_environment
from fairchem_hdgnn.host.fairchem1.run_directories import slurm_run_id
from fairchem_hdgnn.host.sweeps import sweep

RECIPES = Path(__file__).parents[1] / "slurm"
CONFIG = """
model: {name: hdgnn}
dataset: {train: {format: ase_db}}
outputs: {energy: {level: system}}
loss_functions: [energy: {fn: mae, coefficient: 1}]
optim: {max_epochs: 1, lr_initial: 0.1, num_workers: 4}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yml"
    path.write_text(CONFIG)
    return path


def script(capsys: pytest.CaptureFixture, config: Path, *arguments: str) -> str:
    """What a dry run prints, once bash has agreed to it."""
    assert cli.main(["submit", "--dry-run", "--mode=train", f"--config-yml={config}", *arguments]) == 0
    text = capsys.readouterr().out
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    return text


def directives(text: str) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.MULTILINE))


def command(text: str) -> list[str]:
    """The arguments of the training inside the job."""
    return text.split("fairchem_hdgnn_command train", 1)[1].replace("\\\n", " ").split()


def test_srun_on_several_nodes(config: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ("--num-nodes=2", "--num-gpus", "4", "--identifier=big", "--optim.max_epochs=3", "--amp")
    text = script(capsys, config, *arguments, "--slurm-partition=gpu", "--sbatch=--constraint=h100")
    asked = directives(text)
    assert asked["nodes"] == "2"
    assert asked["ntasks-per-node"] == asked["gpus-per-node"] == "4"
    assert asked["cpus-per-task"] == "5", "data-loader workers and the rank itself"
    assert asked["partition"] == "gpu"
    assert asked["constraint"] == "h100"
    assert asked["signal"] == "USR1@300"
    assert asked["open-mode"] == "append"
    assert "requeue" in asked
    assert "--kill-on-bad-exit=1" in text
    inside = command(text)
    assert {"--mode=train", "--identifier=big", "--optim.max_epochs=3", "--amp"} <= set(inside)
    assert not [argument for argument in inside if re.match("--(num|slurm|via|dry|sbatch)", argument)]
    assert re.fullmatch(r"--timestamp-id=[\d-]+-\w{6}-big", inside[-1])


def test_one_node_and_cpu(config: Path, capsys: pytest.CaptureFixture) -> None:
    text = script(capsys, config, "--via=one-node", "--num-gpus=4", "--cpu", "--timestamp-id=again")
    asked = directives(text)
    assert asked["ntasks-per-node"] == "1"
    assert asked["cpus-per-task"] == "4"
    assert "gpus-per-node" not in asked
    assert command(text)[-3:] == ["--cpu", "--timestamp-id=again", "--num-gpus=4"]


def test_submitit_on_cpu_nodes(config: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """fairchem's own submission asks for GPUs whether or not ``--cpu`` is given."""
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "gpus-per-node" not in directives(script(capsys, config, "--via=submitit", "--num-gpus=2", "--cpu"))
    assert directives(script(capsys, config, "--via=submitit", "--num-gpus=2"))["gpus-per-node"] == "2"


@pytest.mark.parametrize(
    "flags, asked, warned",
    [
        (["--slurm-timeout=24"], ("24:00:00", "USR1@300"), False),
        (["--sbatch=--time=20"], ("20", "USR1@300"), False),
        (["--sbatch=--time=5:00"], ("5:00", "USR1@75"), False),
        (["--sbatch=--time=0-1:30:00"], ("0-1:30:00", "USR1@300"), False),
        (["--sbatch=--time=0:08:00"], ("0:08:00", "USR1@120"), False),
        (["--sbatch=--time=1"], ("1", "USR1@15"), True),
        (["--sbatch=--time=0"], ("0", "USR1@300"), False),
        (["--sbatch=--time=5", "--sbatch=--signal=USR1@300"], ("5", "USR1@300"), True),
        (["--sbatch=--time=6", "--sbatch=--signal=USR1@300"], ("6", "USR1@300"), False),
    ],
)
def test_signal_comes_well_within_the_limit(
    config: Path,
    flags: list[str],
    asked: tuple[str, str],
    warned: bool,
    capsys: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = script(capsys, config, *flags)
    assert (directives(text)["time"], directives(text)["signal"]) == asked
    assert text.count("--time=") == text.count("--signal=") == 1
    lines = [record.getMessage() for record in caplog.records if "Slurm may signal the job" in record.getMessage()]
    assert len(lines) == warned


def test_submitit_job_that_is_warned_at_once(
    config: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    script(capsys, config, "--via=submitit", "--sbatch=--time=2")
    assert "--time=2 with --signal=USR2@90" in caplog.text and "raise --time to 7 minutes" in caplog.text


def test_each_node_of_several_looks_at_what_it_needs(config: Path, capsys: pytest.CaptureFixture) -> None:
    several = script(capsys, config, "--num-nodes=2", "--run-dir=not/yet")
    assert f"{sys.executable} {config.parent} {config})" in several, "the folder of the run is yet to be made"
    assert "cannot access" not in script(capsys, config)


def test_submissions_get_run_ids_of_their_own(config: Path, capsys: pytest.CaptureFixture) -> None:
    assert command(script(capsys, config))[-1] != command(script(capsys, config))[-1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--via=one-node", "--num-nodes=2"], "--via one-node: --num-nodes must be 1"),
        (["--sweep-yml=sweep.yml"], "--sweep-yml: needs --via submitit"),
        (["--sbatch=gpu"], "--sbatch 'gpu': write it as --sbatch=--NAME[=VALUE]"),
        (["--optim.lr", "3"], "'--optim.lr': not a flag, nor an override"),
        (["--config-yml=absent.yml"], "no file 'absent.yml'"),
        (
            ["--slurm-partition=gpu\n#SBATCH --uid=0"],
            r"--slurm-partition 'gpu\n#SBATCH --uid=0': use only letters, digits",
        ),
        (["--slurm-account=a b"], "--slurm-account 'a b': use only letters, digits"),
        (["--identifier=mine/yours"], "--identifier 'mine/yours': use only letters, digits"),
        (["--timestamp-id=../other"], "--timestamp-id '../other': use only letters, digits"),
        (["--timestamp-id=.."], "--timestamp-id '..': use only letters, digits"),
        (["--logdir=logs\nmore"], r"--logdir 'logs\nmore': a path cannot contain line breaks"),
        (["--sbatch=--constraint=a\n#SBATCH -N 9"], "write it as --sbatch=--NAME[=VALUE], on one line"),
        (["--sbatch=--constraint h100"], "'--constraint h100': write it as --sbatch=--NAME[=VALUE]"),
        (["--sbatch=--array=0-3"], "--sbatch=--array: its tasks would share one run id"),
        (["--via=submitit", "--sbatch=--mem-per-cpu=4G"], "--sbatch=--mem-per-cpu: submitit sets --mem"),
        (["--via=submitit", "--sbatch=--output=my.log"], "--sbatch=--output: submitit sets the logs"),
        (
            ["--via=submitit", "--sweep-yml=sweep.yml", "--timestamp-id=a"],
            "--timestamp-id: all runs of --sweep-yml would share one folder",
        ),
        (["--model.lmaxx=2"], "model: HDGNN: unknown key 'lmaxx'; did you mean 'lmax'?"),
        (["--model.lmax=two"], "model: HDGNN: 'lmax' must be a whole number"),
        (["--model.name=hdgn"], "model.name: its model 'hdgn' is not registered"),
        (["--cpu", "--sbatch=--gpus-per-node=1"], "--sbatch=--gpus-per-node: a training with --cpu"),
        (["--num-nodes=0"], "--num-nodes 0: must be at least 1"),
        (["--slurm-timeout=0"], "--slurm-timeout 0: must be at least 1"),
    ],
)
def test_refusals(config: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["submit", "--dry-run", "--mode=train", f"--config-yml={config}", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_names_that_slurm_takes_are_taken(config: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["--slurm-partition=gpu,gpu_short", "--slurm-account=proj@dept", "--identifier=C=64_L-6.v2"]
    folder = config.parent / "logs of mine"
    printed = script(capsys, config, *flags, f"--logdir={folder}")
    assert "#SBATCH --partition=gpu,gpu_short" in printed and "#SBATCH --account=proj@dept" in printed
    assert f"#SBATCH --output='{folder}/slurm/%j.out'" in printed


def test_options_of_sbatch(config: Path, capsys: pytest.CaptureFixture) -> None:
    """Without a value, with spaces, and instead of the script's own lines."""
    flags = ["--exclusive", "--comment=my run", "--mem-per-cpu=4G", "--output=logs/%j.log"]
    printed = script(capsys, config, *(f"--sbatch={flag}" for flag in flags))
    for line in ("--exclusive", "--comment='my run'", "--mem-per-cpu=4G", "--output=logs/%j.log"):
        assert f"#SBATCH {line}\n" in printed
    assert "--mem=" not in printed and printed.count("--output=") == 1


@pytest.mark.parametrize(
    ("gres", "own"), [("gpu:a100:4", False), ("tmpdisk:100,gpu:4", False), ("gpu", False), ("tmpdisk:100", True)]
)
def test_gpus_asked_for_with_gres(gres: str, own: bool, config: Path, capsys: pytest.CaptureFixture) -> None:
    """They replace the script's own number of GPUs."""
    printed = script(capsys, config, f"--sbatch=--gres={gres}")
    assert f"#SBATCH --gres={gres}\n" in printed
    assert ("--gpus-per-node" in printed) == own


def test_options_of_sbatch_under_submitit(
    config: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    printed = script(capsys, config, "--via=submitit", "--sbatch=--exclusive", "--sbatch=--comment=my run")
    assert "#SBATCH --exclusive\n" in printed and "#SBATCH --comment='my run'\n" in printed


def test_printed_log_is_that_of_the_job(
    config: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(submission.Job, "submit", lambda job: "42")
    command = ["submit", "--mode=train", f"--config-yml={config}", "--sbatch=--output=own/%j.log"]
    assert cli.main(command) == 0
    assert f"log:         {config.parent / 'own' / '42.log'}\n" in capsys.readouterr().out


def test_no_slurm(config: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission.shutil, "which", lambda name: None)
    assert cli.main(["submit", "--mode=train", f"--config-yml={config}"]) == 2
    assert "sbatch: not found" in capsys.readouterr().err


# Sweeps.


def test_sweep_makes_every_combination(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yml"
    path.write_text("model: {lmax: [2, 3], num_layers: [4, 8]}\noptim: {lr_initial: [0.1]}")
    config: dict[str, Any] = {"model": {"name": "hdgnn", "lmax": 6}, "optim": {}}
    runs = dict(sweep(config, path))
    assert list(runs) == [f"lmax{lmax}-num_layers{layers}-lr_initial0.1" for lmax in (2, 3) for layers in (4, 8)]
    last = runs["lmax3-num_layers8-lr_initial0.1"]
    assert last == {"model": {"name": "hdgnn", "lmax": 3, "num_layers": 8}, "optim": {"lr_initial": 0.1}}
    assert config == {"model": {"name": "hdgnn", "lmax": 6}, "optim": {}}


@pytest.mark.parametrize(
    "text, message",
    [("model: {lmax: 3}", "'model.lmax' is not a list"), ("", "'' is not a list"), ("a: [1", "sweep.yml: ")],
)
def test_sweeps_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "sweep.yml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        list(sweep({}, path))


def runs_of_sweep(config: Path, text: str, *overrides: str) -> list[dict[str, Any]]:
    """The configs that would be submitted."""
    path = config.with_name("sweep.yml")
    path.write_text(text)
    command = ["--mode=train", f"--config-yml={config}", f"--sweep-yml={path}"]
    args, given = training_parser().parse_known_args([*command, *overrides])
    check(args, given)
    return configs(args, given)


@pytest.mark.parametrize(
    "text, message",
    [
        ("optim: {lr_inital: [0.1, 0.2]}", "optim.lr_inital: nothing reads this key; did you mean 'lr_initial'?"),
        ("model: {lmax: [2, two]}", "model: HDGNN: 'lmax' must be a whole number"),
        ("optim: {max_epochs: [1, 0]}", "optim.max_epochs: is 0"),
        ("dataset: {train: {format: [lmdb], src: [nowhere/a]}}", "dataset.train: LMDB nowhere/a does not exist"),
    ],
)
def test_each_run_of_a_sweep_is_checked(config: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        runs_of_sweep(config, text)


def test_configs_of_a_sweep(config: Path) -> None:
    """Paths make names for folders; numbers and models' names are read as in a config."""
    text = "dataset: {train: {src: [a b/c]}}\noptim: {lr_initial: [1e-3]}\nmodel: {name: [hdgnn, escn_so2]}"
    runs = runs_of_sweep(config, text, "--identifier=mine")
    assert [run["model"]["name"] for run in runs] == ["fairchem_hdgnn.HDGNN", "fairchem_hdgnn.ESCN"]
    assert runs[0]["optim"]["lr_initial"] == 0.001
    assert runs[0]["identifier"] == "mine-srca_b_c-lr_initial1e-3-namehdgnn"
    assert runs[0]["timestamp_id"].endswith(runs[0]["identifier"])


# Ranks that srun starts.


def as_task(monkeypatch: pytest.MonkeyPatch, **slurm: str) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


def test_ranks_come_from_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    as_task(monkeypatch, STEP_NUM_TASKS="8", PROCID="5", LOCALID="1", JOB_ID="77", STEP_ID="0", ARRAY_JOB_ID="")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID")
    monkeypatch.setenv("MASTER_ADDR", "first-node")
    assert is_task_of_many()
    assert slurm_run_id("x") == "job77.0-x"
    with monkeypatch.context() as environment:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT"):
            environment.setenv(name, "")
            environment.delenv(name)
        set_rank_environment()
        assert (os.environ["RANK"], os.environ["WORLD_SIZE"], os.environ["MASTER_ADDR"]) == ("5", "8", "first-node")
        assert 20000 <= int(os.environ["MASTER_PORT"]) < 32000
        assert not is_task_of_many(), "its children are no tasks of srun"


def test_ranks_of_other_launchers_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    as_task(monkeypatch, STEP_NUM_TASKS="8", PROCID="5")
    monkeypatch.setenv("RANK", "3")
    assert not is_task_of_many()


# Recipes.


@pytest.mark.parametrize("recipe", sorted(path.name for path in RECIPES.glob("*.s[hb]*")))
def test_recipe_is_sound(recipe: str) -> None:
    """Bash reads it, and each config that it names exists."""
    text = (RECIPES / recipe).read_text()
    subprocess.run(["bash", "-n", str(RECIPES / recipe)], check=True)
    configs = re.findall(r"--config-yml (?:hdgnn:|configs/)(\S+)", text)
    assert all((RECIPES.parent / "configs" / name).is_file() for name in configs)
    if recipe.endswith(".sbatch"):
        asked = directives(re.sub(r" +# .*", "", text))
        assert asked["signal"] == "USR1@300"
        assert asked["open-mode"] == "append"
        assert "requeue" in asked
        assert '--timestamp-id "job$SLURM_JOB_ID"' in text
    assert recipe in (RECIPES / "README.md").read_text()


def test_sweep_recipe_varies_what_it_says(tmp_path: Path) -> None:
    config = yaml.safe_load((RECIPES.parent / "configs" / "oc20" / "is2re" / "10k" / "hdgnn.yml").read_text())
    assert len(list(sweep(config, RECIPES / "sweep.yml"))) == 16
