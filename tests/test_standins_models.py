"""fairchem's own models give the same numbers with the stand-ins in packaging/ as with torch-scatter and torch-sparse.

Each side runs this file in a process of its own: the same seeds, so the same structures and weights.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_scatter
from fairchem.core.models import base
from fairchem_escn import cast, default_dtype, redraw, systems
from torch_geometric.data import Batch, Data
from torch_geometric.nn import TransformerConv
from torch_geometric.nn.models.dimenet import triplets
from torch_geometric.transforms import ToSparseTensor
from torch_geometric.utils import scatter, segment, softmax

STANDINS = [Path(__file__).parents[1] / "packaging" / name for name in ("torch-scatter", "torch-sparse")]

GEMNET: dict[str, Any] = {
    "num_spherical": 3,
    "num_radial": 4,
    "num_blocks": 1,
    "emb_size_atom": 8,
    "emb_size_edge": 8,
    "emb_size_rbf": 4,
    "emb_size_cbf": 4,
    "num_before_skip": 1,
    "num_after_skip": 1,
    "num_concat": 1,
    "num_atom": 1,
    "cutoff": 4.0,
    "max_neighbors": 12,
    "rbf": {"name": "gaussian"},
    "envelope": {"name": "polynomial", "exponent": 5},
    "cbf": {"name": "spherical_harmonics"},
    "otf_graph": True,
}
GEMNET_T = {**GEMNET, "emb_size_trip": 6, "emb_size_bil_trip": 6}
GEMNET_OC = {
    **GEMNET,
    **dict.fromkeys(["emb_size_trip_in", "emb_size_trip_out", "emb_size_quad_in", "emb_size_quad_out"], 4),
    **dict.fromkeys(["emb_size_aint_in", "emb_size_aint_out", "emb_size_sbf"], 4),
    **dict.fromkeys(["quad_interaction", "atom_edge_interaction", "edge_atom_interaction", "atom_interaction"], True),
    "num_output_afteratom": 1,
    "sbf": {"name": "legendre_outer"},
    "max_neighbors_aint": 30,
    "qint_tags": [0, 1, 2],
}
SPHERICAL: dict[str, Any] = {
    "lmax_list": [2],
    "mmax_list": [1],
    "num_layers": 2,
    "sphere_channels": 4,
    "edge_channels": 5,
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "schnet": (
        "schnet.SchNetWrap",
        {"hidden_channels": 8, "num_filters": 8, "num_interactions": 2, "cutoff": 4.0, "otf_graph": True},
    ),
    "painn": (
        "painn.painn.PaiNN",
        {"hidden_channels": 8, "num_layers": 2, "num_rbf": 8, "cutoff": 4.0, "max_neighbors": 12},
    ),
    "painn, forces by gradient": (
        "painn.painn.PaiNN",
        {"hidden_channels": 8, "num_layers": 2, "num_rbf": 8, "cutoff": 4.0, "direct_forces": False},
    ),
    "escn": (
        "escn.escn.eSCN",
        {**SPHERICAL, "hidden_channels": 6, "num_sphere_samples": 16, "cutoff": 4.0, "otf_graph": True},
    ),
    "equiformer_v2": (
        "equiformer_v2.equiformer_v2_deprecated.EquiformerV2",
        {
            **SPHERICAL,
            **dict.fromkeys(["attn_hidden_channels", "attn_alpha_channels", "attn_value_channels"], 4),
            "num_heads": 2,
            "ffn_hidden_channels": 6,
            "num_distance_basis": 16,
            "max_radius": 4.0,
            "alpha_drop": 0.0,
            "drop_path_rate": 0.0,
        },
    ),
    "dimenetplusplus": (
        "dimenet_plus_plus.DimeNetPlusPlusWrap",
        {
            **{"hidden_channels": 8, "num_blocks": 1, "int_emb_size": 4, "basis_emb_size": 4, "out_emb_channels": 8},
            **{"num_spherical": 3, "num_radial": 4, "cutoff": 4.0, "otf_graph": True},
        },
    ),
    "gemnet_t": ("gemnet.gemnet.GemNetT", GEMNET_T),
    "gemnet_oc": ("gemnet_oc.gemnet_oc.GemNetOC", GEMNET_OC),
}
"""Class below fairchem.core.models, and arguments of a small network."""


TOLERANCE = 1e-12
"""Of the largest number, in float64: edges between the same two atoms may be summed in another order."""


@pytest.fixture(scope="module")
def both_sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """All numbers with the real packages, and with the stand-ins."""
    for name in ("torch-scatter", "torch-sparse"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            pytest.skip(f"the real {name} is not installed: nothing to compare with")
        if "standin" in version:
            pytest.skip(f"{name} {version} is installed, not the real package: nothing to compare with")
    folder = tmp_path_factory.mktemp("numbers")
    real, standin = (run(folder / f"{side}.npz", path) for side, path in (("real", []), ("standin", STANDINS)))
    assert ["standin" in str(side["version"]) for side in (real, standin)] == [False, True]
    return real, standin


def run(numbers: Path, path: list[Path]) -> dict[str, np.ndarray]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, "-W", "ignore", __file__, str(numbers)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(numbers) as stored:
        return dict(stored)


@pytest.mark.slow
@pytest.mark.parametrize("model", [*MODELS, "torch_geometric"])
def test_numbers_are_the_real_packages(model, both_sides):
    real, standin = both_sides
    names = [name for name in real if name.startswith(f"{model}/")]
    assert names == [name for name in standin if name.startswith(f"{model}/")]
    assert names
    for name in names:
        assert real[name].shape == standin[name].shape, name
        assert np.abs(real[name]).max() > 0, name
        assert np.abs(real[name] - standin[name]).max() <= TOLERANCE * np.abs(real[name]).max(), name


def write_numbers(path: str) -> None:
    """Energies, forces and gradients of the parameters of every model, under ``<model>/<name>``."""
    find_edges = base.radius_graph_pbc

    def find_edges_in_float32(data: Any, *args: Any, **kwargs: Any) -> Any:
        with default_dtype(torch.float32):
            return find_edges(cast(data, torch.float32), *args, **kwargs)

    # fairchem finds edges in single precision only, and casts to it here and there. All else then runs in double.
    base.radius_graph_pbc = find_edges_in_float32
    torch.Tensor.float = torch.Tensor.double
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    numbers: dict[str, Any] = {"version": torch_scatter.__version__}
    for model_name, (place, arguments) in MODELS.items():
        module, _, name = place.rpartition(".")
        torch.manual_seed(0)
        model = getattr(importlib.import_module(f"fairchem.core.models.{module}"), name)(**arguments)
        redraw(model, torch.Generator().manual_seed(0))
        batch = systems([7, 4, 9])
        batch.tags = torch.arange(batch.pos.size(0)) % 3
        batch.fixed = torch.zeros(batch.pos.size(0))
        outputs = model.train()(batch)
        sum(value.sin().sum() for value in outputs.values()).backward()
        numbers.update({f"{model_name}/{key}": value.detach() for key, value in outputs.items()})
        gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
        numbers[f"{model_name}/gradients"] = torch.cat(gradients)
    numbers.update({f"torch_geometric/{key}": value.detach() for key, value in geometric_numbers().items()})
    np.savez(path, **numbers)


def geometric_numbers() -> dict[str, torch.Tensor]:
    """What torch_geometric makes of sparse matrices: batches, messages, triplets; and of pointers: softmax."""
    torch.manual_seed(0)
    graphs = []
    for size in (4, 6, 5):
        edge_index = (torch.rand(size, size) < 0.6).nonzero().T
        graph = Data(x=torch.randn(size, 3), edge_index=edge_index, edge_attr=torch.randn(edge_index.size(1), 2))
        graphs.append(ToSparseTensor(attr="edge_attr", remove_edge_index=False)(graph))
    batch = Batch.from_data_list(graphs).clone().to("cpu", torch.float64)
    last = batch.get_example(2)
    conv = TransformerConv(3, 4, edge_dim=2)
    ptr = torch.tensor([0, 3, 3, 9, 15])
    x = batch.x.requires_grad_()
    messages = conv(x, batch.adj_t)
    weights = softmax(x.T, ptr=ptr, dim=1)
    reduced = {reduce: segment(x, ptr, reduce) for reduce in ("sum", "mean", "min", "max")}
    largest = scatter(x, batch.batch, reduce="max")
    everything = [messages, weights, largest, *reduced.values()]
    (gradient,) = torch.autograd.grad(sum(value.sin().sum() for value in everything), x)
    return {
        "batch": torch.cat([part.flatten() for part in batch.adj_t.coo()]),
        "sizes": torch.tensor(batch.adj_t.sizes()),
        "example": torch.cat([part.flatten() for part in last.adj_t.coo()]),
        "triplets": torch.cat(triplets(batch.edge_index, batch.num_nodes)),
        "messages": messages,
        "softmax": weights,
        **reduced,
        "gradient": gradient,
    }


if __name__ == "__main__":
    write_numbers(sys.argv[1])
