"""Where training starts: an untrained model answers with the mean that the trainer's normaliser holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import add_adsorbate, fcc111, molecule
from fairchem.core.common.utils import load_config
from fairchem_batches import batch_of
from model_contract import hydra
from small_networks import SMALL, clusters
from small_runs import TINY_ESCN, TINY_HDGNN, model_of, train, write_config
from torch import Tensor

from fairchem_hdgnn import calculator
from fairchem_hdgnn.models.hdgnn.network import HDGNNNetwork

CONFIGS = Path(__file__).parents[1] / "configs"
SHIPPED = sorted(path for path in CONFIGS.rglob("*.yml") if not {"_base", "fairchem2"} & set(path.parts))
NARROW = {"num_layers": 1, "sphere_channels": 8, "hidden_channels": 8, "edge_channels": 8}
MODELS = {"hdgnn": TINY_HDGNN, "escn": TINY_ESCN}
ZERO = {"readout_init": "zero", "regress_forces": True}


def structures() -> list[Any]:
    """A slab with an adsorbate, and a molecule."""
    slab = fcc111("Pt", (2, 2, 3), vacuum=8.0, periodic=True)
    add_adsorbate(slab, molecule("CO"), 1.9, "ontop")
    gas = molecule("CH3CH2OH")
    gas.set_cell([12.0, 12.0, 12.0])
    return [slab, gas]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_shipped_configs_start_at_the_mean(path: Path) -> None:
    """Every output is the normaliser's zero, however large the structure; extensive targets of QM9 too."""
    config, *_ = load_config(path)
    torch.manual_seed(0)
    model = model_of({**config["model"], **NARROW, "lmax": 2, "use_pbc": False, "otf_graph": True})
    with torch.no_grad():
        output = model(batch_of(*structures()))
    assert output
    for name, value in output.items():
        assert value.abs().max() == 0, name


@pytest.mark.parametrize("name", MODELS)
def test_hydra_starts_at_the_mean(name: str) -> None:
    keys = {**MODELS[name], **ZERO}
    model = hydra(keys.pop("name"), keys).eval()
    with torch.no_grad():
        output = model(batch_of(*structures()))
    assert {key: float(value.abs().max()) for key, value in output.items()} == {"energy": 0, "forces": 0}


@pytest.mark.parametrize("name", MODELS)
def test_trainer_starts_at_the_mean(name: str, tmp_path: Path) -> None:
    """In eV, after steps too short to matter: the training mean for each structure."""
    config = write_config(
        tmp_path, {**MODELS[name], "readout_init": "zero"}, lr_initial=1e-9, max_epochs=1, eval_every=6
    )
    train(config, "run")
    energies = []
    for atoms in structures():
        atoms.calc = calculator(tmp_path / "checkpoints/run/checkpoint.pt", cpu=True)
        energies.append(atoms.get_potential_energy())
    mean, spread = 0.5, 2.0
    np.testing.assert_allclose(energies, mean, atol=1e-4 * spread)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_all_weights_learn_after_the_first_step(weight: float) -> None:
    """A start at zero hides all weights but the last layer's from the first step, and from no other."""
    torch.manual_seed(0)
    model = HDGNNNetwork({**SMALL, "regress_forces": True, "readout_weight": weight})
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    graph = clusters(dtype=torch.float32)
    for step in range(2):
        optimizer.zero_grad()
        output = model(*graph.arguments())
        sum((value - 1).square().sum() for value in output.values()).backward()
        without = {name for name, p in model.named_parameters() if not has_gradient(p.grad)}
        last = {"energy_head.sphere.readout.third", "energy_head.invariant.second", "force_head.readout.third"}
        if step == 0:
            assert without == {name for name, _ in model.named_parameters() if name.rsplit(".", 1)[0] not in last}
        optimizer.step()
    assert not without


def has_gradient(gradient: Tensor | None) -> bool:
    return gradient is not None and bool((gradient != 0).any())


@pytest.mark.parametrize("name", MODELS)
def test_random_is_pytorchs_own_start(name: str) -> None:
    """And the choice leaves all other weights alone."""
    states = []
    for start in ("zero", "random"):
        torch.manual_seed(0)
        states.append(model_of(MODELS[name], readout_init=start, regress_forces=True).state_dict())
    zero, random = states
    differ = {key for key in zero if not torch.equal(zero[key], random[key])}
    assert differ == {key for key in zero if ".third." in key and "readout" in key}
    assert all((random[key] != 0).all() for key in differ)
