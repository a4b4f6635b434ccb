"""Every way in which fairchem 1.10 comes to need the plugin's models, each from processes that were told nothing."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import preloaded
import pytest
import torch
import yaml
from small_runs import ENVIRONMENT, PLUGIN, STOCK, TINY_HDGNN, arguments, launch, load, write_config

MAIN = Path(__file__).parents[1] / "main.py"
SHORT, DOTTED = "hdgnn", "fairchem_hdgnn.HDGNN"
SMALLEST = {**TINY_HDGNN, "lmax": 1, "num_layers": 1}
SHORT_RUN = {"max_epochs": 1, "eval_every": 100, "checkpoint_every": 3}


def run_script(script: str, folder: Path) -> str:
    """Run a Python script in a fresh process and return what it printed."""
    done = preloaded.run([sys.executable, "-c", script], ENVIRONMENT, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def train(command: list[str], config: Path, run_id: str, *extra: str) -> dict:
    """Train with a command line and return the checkpoint that it leaves."""
    launch(command, config, run_id, *extra)
    return load(config.parent, run_id)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")


@pytest.fixture(scope="module")
def config(folder: Path) -> Path:
    """A run of a few steps with fairchem's own trainer."""
    return write_config(folder, SMALLEST, trainer="ocp", **SHORT_RUN)


@pytest.fixture(scope="module")
def trained(config: Path) -> Path:
    """The checkpoint of a stock run with the dotted name."""
    train(STOCK, config, "stock")
    return config.parent / "checkpoints" / "stock" / "checkpoint.pt"


@pytest.fixture(scope="module")
def hydra_config(config: Path) -> Path:
    """The same run as a hydra model, with a short name for its backbone and the dotted one for its head."""
    settings = yaml.safe_load(config.read_text())
    backbone = {key: value for key, value in settings["model"].items() if key != "name"}
    settings["model"] = {
        "name": "hydra",
        "backbone": {"model": "hdgnn_backbone", **backbone},
        "heads": {"energy": {"module": "fairchem_hdgnn.HDGNNEnergyHead"}},
    }
    settings["outputs"] = {"energy": {"property": "energy", "level": "system"}}
    path = config.with_name("hydra.yml")
    path.write_text(yaml.safe_dump(settings))
    return path


def renamed(checkpoint: Path, name: str) -> Path:
    """A copy of a checkpoint whose config has another model name."""
    contents = torch.load(checkpoint, weights_only=True)
    contents["config"]["model"]["name"] = name
    path = checkpoint.with_name(f"{name}.pt")
    torch.save(contents, path)
    return path


# fairchem's command line, unchanged.


def test_stock_dotted_name(trained: Path) -> None:
    checkpoint = torch.load(trained, weights_only=True)
    assert checkpoint["config"]["model"]["name"] == DOTTED
    assert checkpoint["step"] == 6


def test_stock_short_name(config: Path) -> None:
    assert train(STOCK, config, "short", f"--model.name={SHORT}")["config"]["model"]["name"] == SHORT


@pytest.mark.heavy
def test_stock_two_ranks_hydra(hydra_config: Path) -> None:
    checkpoint = train(STOCK, hydra_config, "ranks", "--num-gpus=2")
    assert checkpoint["step"] == 3  # 24 systems in batches of 4 on two ranks
    names = checkpoint["state_dict"]
    assert all(name.startswith("module.") for name in names)  # DistributedDataParallel's
    assert {name.removeprefix("module.").split(".")[0] for name in names} == {"backbone", "output_heads"}


# The plugin's command line; main.py is the same. It turns all names into dotted ones.


@pytest.mark.heavy
def test_main_two_ranks_hydra(hydra_config: Path) -> None:
    main = [sys.executable, str(MAIN)]
    checkpoint = train(main, hydra_config, "main", "--num-gpus=2", "--model.heads.energy.module=hdgnn_energy_head")
    model = checkpoint["config"]["model"]
    assert model["backbone"]["model"] == "fairchem_hdgnn.HDGNNBackbone"
    assert model["heads"]["energy"]["module"] == "fairchem_hdgnn.HDGNNEnergyHead"
    assert checkpoint["step"] == 3


# submitit: the worker unpickles fairchem's Runner and knows nothing about the process that submitted it.


def test_submitit_with_stock_runner(config: Path) -> None:
    script = f"""
import submitit
from fairchem.core._cli import Runner
from fairchem.core.common.distutils import setup_env_local
from fairchem.core.common.flags import flags
from fairchem.core.common.utils import build_config

setup_env_local()
# In a separate process, then in this one.
for executor, name in (("LocalExecutor", "{SHORT}"), ("DebugExecutor", "{DOTTED}")):
    arguments = {arguments(config, "")!r} + ["--model.name=" + name]
    config = build_config(*flags.get_parser().parse_known_args(arguments))
    config["timestamp_id"] = executor + "-" + name
    getattr(submitit, executor)("submitit").submit(Runner(), config).result()
"""
    run_script(script, config.parent)
    for run, name in (("LocalExecutor", SHORT), ("DebugExecutor", DOTTED)):
        assert load(config.parent, f"{run}-{name}")["config"]["model"]["name"] == name


# Checkpoints in a fresh process.

PREDICT = """
from ase.build import fcc111
from fairchem.core.common.relaxation.ase_utils import OCPCalculator

atoms = fcc111("Cu", (2, 2, 2), vacuum=5)
atoms.calc = OCPCalculator(checkpoint_path={path!r}, cpu=True, seed=0)
print(model, atoms.get_potential_energy())
"""
LOAD = """
from fairchem.core.common.utils import load_model_and_weights_from_checkpoint

model = type(load_model_and_weights_from_checkpoint({path!r})).__name__
"""


@pytest.mark.parametrize(
    "name, script",
    [(DOTTED, LOAD + PREDICT), (SHORT, "model = 'HDGNN'" + PREDICT), (SHORT, "import fairchem_hdgnn" + LOAD + PREDICT)],
    ids=["dotted", "short, calculator only", "short, imported"],
)
def test_checkpoint(trained: Path, name: str, script: str) -> None:
    """fairchem's plain loader sets up no imports, so for the short name the user has to import the plugin."""
    printed = run_script(script.format(path=str(renamed(trained, name))), trained.parent)
    model, energy = printed.splitlines()[-1].split()
    assert model == "HDGNN"
    assert math.isfinite(float(energy))


# A user's mistake is one line of our command, and the last line of stock fairchem's traceback.


def test_unknown_key(config: Path) -> None:
    done = launch(STOCK, config, "mistake", "--model.lmaks=2", check=False)
    assert done.returncode != 0
    last_line = done.stderr.strip().splitlines()[-1]
    assert last_line.endswith("rror: HDGNN: unknown key 'lmaks'; did you mean 'lmax'?")
    assert "Traceback" in done.stderr


@pytest.mark.heavy
def test_what_one_rank_finds_ends_both(config: Path) -> None:
    ours = ("--trainer=fairchem_hdgnn.Trainer", "--optim.batch_size=0")
    done = launch(PLUGIN, config, "mistake", *ours, "--num-gpus=2", check=False)
    assert done.returncode == 2
    last_line = done.stderr.strip().splitlines()[-1]
    assert last_line == "fairchem-hdgnn train: error: optim.batch_size: is 0; give a whole number of at least 1"
