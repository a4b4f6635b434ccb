"""fairchem's own eSCN, from its wheel alone if fairchem is not installed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import tempfile
import types
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from fairchem_hdgnn.models.escn.network import ESCNNetwork
from fairchem_hdgnn.models.nn.heads import SphereReadout
from gpu_stages.bench import Arguments, Bench, moved, redraw, within

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "",
    ".core",
    ".core.common",
    ".core.models",
    ".core.models.escn",
    ".core.models.scn",
    ".core.modules",
)
"""Packages on the way to eSCN; their ``__init__`` files would import all of fairchem, lmdb and ase."""


def load(carry: Path) -> None:
    """Make ``fairchem.core.models.escn.escn`` and ``fairchem.core.common.utils`` importable.

    Raises:
        FileNotFoundError: fairchem is not installed and its wheel is not in ``carry``.
    """
    if "fairchem" in sys.modules or importlib.util.find_spec("fairchem") is not None:
        return
    wheels = sorted(carry.glob("fairchem_core-*.whl"))
    if not wheels:
        raise FileNotFoundError(f"fairchem is not installed, and {carry} has no wheel of it: run `make gpu-bundle`")
    folder = Path(tempfile.mkdtemp(prefix="fairchem-"))
    with zipfile.ZipFile(wheels[-1]) as wheel:
        wheel.extractall(folder)
    for name in PACKAGES:
        package = types.ModuleType(f"fairchem{name}")
        package.__path__ = [str(folder.joinpath("fairchem", *name.split(".")[1:]))]
        sys.modules[package.__name__] = package
    if importlib.util.find_spec("torch_scatter") is None:
        sys.path.append(str(ROOT / "packaging/torch-scatter"))


def fairchem_escn(bench: Bench, arguments: Arguments, num_layers: int) -> tuple[nn.Module, Any]:
    """fairchem's eSCN (L = 6, M = 2, C = 128, H = 256) and a batch that makes it use these edges."""
    load(bench.carry)
    escn = importlib.import_module("fairchem.core.models.escn.escn")
    base = importlib.import_module("fairchem.core.models.base")
    numbers, edge_index, edge_vec, batch, systems = moved(arguments, bench.device)
    sizes = {"lmax_list": [6], "mmax_list": [2], "sphere_channels": 128, "hidden_channels": 256}
    if bench.tiny:
        sizes = {"lmax_list": [3], "mmax_list": [2], "sphere_channels": 8, "hidden_channels": 16}
    torch.manual_seed(0)
    with quiet():
        model = escn.eSCN(
            use_pbc=True, regress_forces=False, otf_graph=True, num_layers=num_layers, cutoff=8.0,
            basis_width_scalar=2.0, **sizes,
        ).to(bench.device)  # fmt: skip
    graph = base.GraphData(
        edge_index=edge_index,
        edge_distance=edge_vec.norm(dim=-1),
        edge_distance_vec=edge_vec,
        cell_offsets=torch.zeros_like(edge_vec),
        offset_distances=torch.zeros_like(edge_vec),
        neighbors=torch.bincount(batch[edge_index[1]], minlength=systems),
        batch_full=batch,
        atomic_numbers_full=numbers,
        node_offset=0,
    )
    model.generate_graph = lambda data: graph
    natoms = torch.bincount(batch, minlength=systems).tolist()
    records = [
        Data(atomic_numbers=part, pos=torch.zeros(len(part), 3, device=bench.device), natoms=len(part))
        for part in numbers.split(natoms)
    ]
    return model, Batch.from_data_list(records)


def same_weights(bench: Bench, model: Any, data: Any, arguments: Arguments, frames: Tensor) -> dict[str, Any]:
    """Relative error of our eSCN's energies with fairchem's weights and the same edge frames, float32."""
    convert = importlib.import_module("fairchem_hdgnn.convert.fairchem_escn")
    sizes = {
        "lmax_list": [model.lmax_list[0]],
        "mmax_list": [model.mmax_list[0]],
        "sphere_channels": model.sphere_channels,
        "hidden_channels": model.hidden_channels,
    }
    keys = convert.escn_config({**sizes, "num_layers": model.num_layers, "cutoff": 8.0, "basis_width_scalar": 2.0})
    keys["regress_forces"] = False
    graph_keys = ("use_pbc", "use_pbc_single", "otf_graph", "max_neighbors")
    network = ESCNNetwork({key: value for key, value in keys.items() if key not in graph_keys})
    redraw(model)
    theirs = convert.plain_names({name: tensor.cpu() for name, tensor in model.state_dict().items()})
    for readout in network.modules():
        if isinstance(readout, SphereReadout):
            readout.use_points(theirs["sphere_points"])
    network.load_state_dict(convert.convert_weights(theirs, network.config, network.state_dict()))
    network.to(bench.device)
    on_device = frames.to(bench.device, torch.float32)
    drawn, model._init_edge_rot_mat = model._init_edge_rot_mat, lambda *_: on_device
    with torch.no_grad():
        expected = model(data)["energy"].flatten().double()
        got = network(*moved(arguments, bench.device), on_device)["energy"].double()
    model._init_edge_rot_mat = drawn
    error = float((got - expected).norm() / expected.norm())
    return {"error": error, "ok": within(1e-4, error)}


def quiet() -> contextlib.AbstractContextManager[object]:
    """fairchem reports the sizes of each model."""
    return contextlib.redirect_stdout(None)
