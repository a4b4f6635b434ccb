"""The command that measures a GPU, rehearsed on the CPU: every stage on real data, small networks."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "examples/demo/structures/relaxed.npz"
STAGES = (
    "ceilings", "parity", "networks", "profile", "memory", "training", "kernels", "triton_parity", "triton_networks",
    "triton_profile", "graphs",
)  # fmt: skip

# A Python without fairchem and what it needs, as on a machine that has torch, torch-geometric and e3nn only.
BARE = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        absent = {"fairchem", "torch_sparse", "lmdb", "ase", "pydantic"}
        if not any("torch-scatter" in folder for folder in sys.path):
            absent.add("torch_scatter")
        if name.split(".")[0] in absent and path is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
import importlib.util
found = importlib.util.find_spec
def find_spec(name, package=None):
    try:
        return found(name, package)
    except ModuleNotFoundError:
        return None
importlib.util.find_spec = find_spec
sys.meta_path.insert(0, Absent())
"""


@pytest.fixture(scope="module", autouse=True)
def benchmarks_on_path() -> Any:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def carry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a few hundred real molecules and the demonstration's slabs, with fairchem as installed here."""
    pytest.importorskip("qm9pack", reason="QM9 comes with the package qm9pack")
    folder = tmp_path_factory.mktemp("carry")
    sys.path.insert(0, str(ROOT / "tools"))
    bundle = importlib.import_module("gpu_bundle")
    sources = importlib.import_module("fairchem_hdgnn.data.qm9_sources")
    molecules = importlib.import_module("fairchem_hdgnn.data.qm9_molecules")
    some = itertools.islice(sources.read_source("qm9pack")[1], 600)
    bundle.write_qm9(molecules.collect(some), folder / "qm9_gap.npz")
    with np.load(DEMO) as arrays:
        ptr = np.concatenate([[0], np.cumsum(arrays["natoms"], dtype=np.int64)])
        same = {name: arrays[name] for name in ("numbers", "pos", "cell", "split")}
        for name in ("hea_adsorption.npz", "oc20_s2ef.npz"):
            np.savez(folder / name, ptr=ptr, y=arrays["y_relaxed"], **same)
    installed = Path(importlib.import_module("fairchem.core").__file__).parents[1]
    with zipfile.ZipFile(folder / "fairchem_core-1.10.0-py3-none-any.whl", "w") as wheel:
        for path in installed.rglob("*"):
            if path.suffix in (".py", ".pt"):
                wheel.write(path, path.relative_to(installed.parent))
    return folder


def rehearse(carry: Path, out: Path, *options: str, first: str = "") -> dict[str, Any]:
    """Run the command in a process of its own, which ``first`` prepares, and read what it wrote."""
    script = f"{first}\nimport runpy, sys\nsys.argv[0] = {str(ROOT / 'benchmarks/gpu.py')!r}\n"
    script += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-W", "ignore", "-c", script, "--device", "cpu", "--tiny"]
    done = subprocess.run(
        [*command, "--carry", str(carry), "--out", str(out), *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {"printed": done.stdout, **json.loads((out / "gpu.json").read_text())}


@pytest.fixture
def rehearse_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs the command in this process, and returns its stages."""
    gpu = importlib.import_module("gpu")

    def rehearsed(*options: str) -> dict[str, Any]:
        arguments = ["gpu.py", "--device", "cpu", "--tiny", "--out", str(tmp_path), *options]
        monkeypatch.setattr(sys, "argv", arguments)
        gpu.main()
        return json.loads((tmp_path / "gpu.json").read_text())["stages"]

    return rehearsed


@pytest.fixture(scope="module")
def everything(carry: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """All stages, as on a bare machine: what is there to fail there fails here."""
    out = tmp_path_factory.mktemp("everything")
    return out, rehearse(carry, out, "--everything", first=BARE)


def test_rehearsal_without_fairchem(everything):
    out, report = everything
    assert tuple(report["stages"]) == STAGES
    assert not [stage for stage in report["stages"].values() if "error" in stage], report["printed"]
    results = {name: stage["result"] for name, stage in report["stages"].items()}

    errors = {(row["network"], row["implementation"], row["precision"]): row for row in results["parity"]["networks"]}
    assert len(errors) == 5 * 2 * 3
    for (_, _, precision), row in errors.items():
        assert max(row["energy"], row["gradient"]) < {"float32": 1e-5, "tf32": 1e-5, "bfloat16": 3e-2}[precision]
    assert len(results["parity"]["wigner_d"]) == 4 and all(row["ok"] for row in results["parity"]["wigner_d"])
    assert all(row["ok"] for row in results["parity"]["metp_under_roll"])
    assert all(row["equal"] for row in results["parity"]["same_step_twice"])

    rows = results["networks"]
    assert {row["network"] for row in rows} == {"authors", "two resolutions", "escn", "fairchem escn"}
    assert all(row["step_ms"] > 0 and row["step_tflop"] > 0 for row in rows), rows
    shared = [row["energy_error_of_ours"] for row in rows if "energy_error_of_ours" in row]
    assert shared and all(found["error"] < 1e-5 and found["ok"] for found in shared)

    assert len(results["kernels"]) == 6 * 2 and all(row["ok"] and row["both_ms"] > 0 for row in results["kernels"])
    assert all("need a GPU" in results[name]["skipped"] for name in STAGES if name.startswith("triton"))
    assert len(results["graphs"]) == 2 * 3 and not any(row["captured"] for row in results["graphs"])
    assert all(row["ok"] and row["edges"] > 2 * 8 * 6 for row in results["graphs"]), results["graphs"]
    assert 0 < results["profile"]["busy_share"] <= 1
    assert results["memory"]["batches"] == "OC20 frames"
    training = results["training"]
    assert training["train_size"] > 400 and len(training["curve"]) >= 2 and np.isfinite(training["test_mae"]["test"])
    assert json.loads((out / "qm9.json").read_text())["test_mae"] == training["test_mae"]
    assert "training" in report["printed"] and "fairchem escn" in report["printed"]


def test_replay_of_another_batch_is_checked(rehearse_here, monkeypatch):
    graphs = importlib.import_module("gpu_stages.graphs")

    def keep_the_first(self: Any, batch: Any) -> Any:
        self.replay()
        return self.results

    monkeypatch.setattr(graphs.RepeatedStep, "__call__", keep_the_first)
    rows = rehearse_here("--stages", "graphs")["graphs"]["result"]
    assert not any(row["ok"] for row in rows)
    assert all(max(row["errors_of_energies_and_gradient"][0]) < 1e-5 for row in rows if row["precision"] == "float32")


def test_padding_refuses_what_does_not_fit():
    bench, graphs = importlib.import_module("gpu_stages.bench"), importlib.import_module("gpu_stages.graphs")
    arguments = bench.random_graph(2, 4, neighbors=3)
    frames = bench.frames_of(arguments)
    for sizes in ((7, 24), (8, 23), (8, 25)):
        with pytest.raises(ValueError, match="8 atoms and 24 edges do not fit"):
            graphs.pad(arguments, frames, *sizes)
    same, _ = graphs.pad(arguments, frames, 8, 24)
    assert torch.equal(same[1], arguments[1]) and same[4] == 3
    longer, longer_frames = graphs.pad(arguments, frames, 10, 29)
    assert torch.bincount(longer[1][1]).tolist() == [3] * 8 + [3, 2]
    turned = longer_frames[24:] @ longer[2][24:].unsqueeze(2)
    assert torch.equal(turned.squeeze(2), torch.tensor([[0.0, 1.0, 0.0]]).double().expand(5, 3))


@pytest.mark.heavy
@pytest.mark.skipif(torch.__version__ < "2.6", reason="older torch compiles each layer anew")
def test_rehearsal_of_compiling(rehearse_here, tmp_path, monkeypatch):
    """Of the plain equations; its own result, beside the others on the page."""
    compiled, report = importlib.import_module("gpu_stages.compiled"), importlib.import_module("gpu_report")
    monkeypatch.setattr(compiled, "depth", lambda bench: 1)
    monkeypatch.setattr(compiled, "MODES", ("float32",))
    stages = rehearse_here("--stages", "compiled")
    rows = stages["compiled"]["result"]
    assert [row["network"] for row in rows] == ["authors", "escn"]
    assert all(row["ok"] and row["compile_s"] > 1 for row in rows), rows
    measured = json.loads((tmp_path / "gpu.json").read_text())
    measured["tiny"], measured["machine"]["device"] = False, "NVIDIA H200"
    (tmp_path / "gpu.json").write_text(json.dumps(measured))
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    report.keep(tmp_path / "gpu.json")
    (stored,) = report.stored_reports()
    assert (tmp_path / f"gpu_h200_{measured['machine']['date']}_compiled.json").exists()
    page = report.page_part([stored])
    assert "--stages compiled" in page and "| authors | 1 | float32 |" in page and "Without a result" not in page
    assert report.table_of([stored]) == "[]\n"


def test_rehearsal_on_alloys(carry, rehearse_here):
    stages = rehearse_here("--carry", str(carry), "--stages", "training", "--train", "hea")
    result = stages["training"]["result"]
    assert set(result["test_mae"]) == {"val_id", "val_ood_ads", "val_ood_cat", "val_ood_both"}
    assert all(0 < mae < 20_000 for mae in result["test_mae"].values())


def test_stops_when_its_time_is_spent(carry, rehearse_here):
    stages = rehearse_here("--carry", str(carry), "--stages", "networks", "memory", "--budget", "0")
    assert stages["networks"]["result"]
    assert all(row["skipped"] == "no time was left" for row in stages["networks"]["result"])
    assert set(stages["memory"]["result"]) == {"batches", "edges"}


def test_failed_stage_costs_only_itself(rehearse_here, monkeypatch, capsys):
    gpu = importlib.import_module("gpu")

    def fails(bench: Any) -> None:
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setitem(gpu.STAGES, "parity", gpu.Stage(fails, 0.2))
    stages = rehearse_here("--stages", "parity", "ceilings")
    assert stages["parity"]["error"] == "RuntimeError: out of memory"
    assert stages["ceilings"]["result"]["copy_tb_per_s"] > 0
    assert "RuntimeError: out of memory" in capsys.readouterr().out


def test_gpu_that_fails_costs_only_what_follows(rehearse_here, monkeypatch):
    """After an illegal access every call fails; what was measured is in the file."""
    bench = importlib.import_module("gpu_stages.bench")

    def illegal(self: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(bench.Bench, "free", illegal)
    stages = rehearse_here("--stages", "ceilings", "profile")
    assert "illegal memory access" in stages["ceilings"]["error"] and "error" in stages["profile"]
    assert stages["ceilings"]["result"]["copy_tb_per_s"] > 0


def test_gradients_that_are_not_numbers_miss_their_gate(monkeypatch):
    parity = importlib.import_module("gpu_stages.parity")
    bench = importlib.import_module("gpu_stages.bench")
    page = importlib.import_module("gpu_stages.page")
    found = parity.energies_and_gradients

    def damaged(network: Any, *arguments: Any) -> Any:
        energies, gradients = found(network, *arguments)
        if next(network.parameters()).dtype is torch.float32:
            gradients[3].fill_(torch.nan)
        return energies, gradients

    monkeypatch.setattr(parity, "energies_and_gradients", damaged)
    here = bench.Bench(torch.device("cpu"), True, Path(), Path(), np.inf, np.inf, "qm9")
    rows = parity.networks(here, ("fast",))
    assert rows and not any(row["ok"] for row in rows)
    report = {"stages": {"parity": {"result": {"networks": rows}}}}
    assert (
        "0 of 15 gates passed. Largest relative error of energies or gradient: nan in float32"
        in page.parity_part(report, "parity")[0]
    )


def test_says_what_is_missing(tmp_path):
    report = rehearse(tmp_path / "empty", tmp_path, "--stages", "training", "memory", first=BARE)
    assert "make gpu-bundle" in report["stages"]["training"]["result"]["skipped"]
    assert report["stages"]["memory"]["result"]["batches"].startswith("random boxes")


def test_edges_are_those_of_the_models(carry):
    """Of atoms that stand outside of their cells, too."""
    slabs = importlib.import_module("gpu_stages.slabs")
    graph = importlib.import_module("fairchem_hdgnn.host.graph")
    data = importlib.import_module("torch_geometric.data")
    structures = slabs.Slabs(carry / "hea_adsorption.npz", torch.device("cpu"), cutoff=5.0, max_neighbors=12)
    rows = torch.tensor([3, 500, 41])
    numbers, edge_index, edge_vec, batch, systems = structures.batch(rows, 5.0)
    mixin = graph.PlainGraphMixin()
    mixin.adopt(graph.GraphSettings(max_neighbors=12), 5.0, 90, False)
    records = []
    with np.load(carry / "hea_adsorption.npz") as arrays:
        for row in rows.tolist():
            atoms = slice(arrays["ptr"][row], arrays["ptr"][row + 1])
            pos, cell = torch.from_numpy(arrays["pos"][atoms]), torch.from_numpy(arrays["cell"][row])
            atomic_numbers = torch.from_numpy(arrays["numbers"][atoms].astype(np.int64))
            moved = pos + cell[0] - 2 * cell[1]
            records.append(data.Data(atomic_numbers=atomic_numbers, pos=moved, cell=cell[None], natoms=len(pos)))
    expected = mixin.plain_graph(data.Batch.from_data_list(records))
    assert torch.equal(numbers, expected.atomic_numbers) and torch.equal(batch, expected.batch) and systems == 3

    def lengths(index: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        per_atom = [vectors.norm(dim=-1)[index[1] == atom].sort().values for atom in range(len(numbers))]
        return torch.cat(per_atom)

    torch.testing.assert_close(
        lengths(edge_index, edge_vec), lengths(expected.edge_index, expected.edge_vec), atol=1e-4, rtol=0
    )


def test_page_is_made_from_the_stored_results():
    report = importlib.import_module("gpu_report")
    text = report.PAGE.read_text()
    assert text == report.replaced(text, report.page_part(report.stored_reports()))


def test_page_of_a_result(everything, tmp_path, monkeypatch):
    """A rehearsal is refused; the same numbers, said to be measured, fill every part of the page."""
    report = importlib.import_module("gpu_report")
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    monkeypatch.setattr(report, "PAGE", page)
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "TABLE", tmp_path / "proven.json")
    report.RESULTS.mkdir()
    out, _ = everything
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", str(out / "gpu.json"), str(out / "qm9.json")])
    with pytest.raises(SystemExit, match="is a rehearsal"):
        report.main()
    measured = json.loads((out / "gpu.json").read_text())
    file = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", str(file), str(out / "qm9.json")])
    measured["tiny"], measured["machine"]["device"] = False, "NVIDIA H100 80GB HBM3"
    file.write_text(json.dumps(measured))
    report.main()
    assert [path.name for path in report.RESULTS.iterdir()] == [
        f"gpu_h100-80gb-hbm3_{measured['machine']['date']}.json"
    ]
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    for part in ("### NVIDIA H100", "| authors | 2 | bfloat16 |", "gates passed", "launches", "OC20 frames", "meV"):
        assert part in text, text
    assert "Without a result" not in text and "Cut short" not in text
    del measured["stages"]["ceilings"], measured["stages"]["memory"]
    measured["stages"]["networks"]["unfinished"] = True
    measured["stages"]["kernels"]["result"][0]["ok"] = False
    file.write_text(json.dumps(measured))
    report.main()
    partial = page.read_text()
    for part in ("Without a result: ceilings; memory.", "Cut short: networks.", "- misses its gate: kernels"):
        assert part in partial, partial
    columns = {line.count("|") for line in text.splitlines() if line.startswith("| fairchem escn")}
    assert columns == {11}
