"""What `fairchem-hdgnn cost` predicts from small runs, against the real size and torch's own counter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_runs import write_lmdb
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fairchem_hdgnn import ESCN, HDGNN, cli
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host.cost import GPUS, measure_cost, predict_cost, random_graph
from fairchem_hdgnn.host.counting import Operation, WorkCounter
from fairchem_hdgnn.host.fairchem1.cost_report import OC20, report
from fairchem_hdgnn.host.precision import Precision
from fairchem_hdgnn.models.ops import packed_matrix

PAGE = Path(__file__).parents[1] / "docs/cluster.md"
ATOMS, NEIGHBORS, LAYERS = 48, 16, 4
COMMON = {"lmax": 2, "sphere_channels": 16, "hidden_channels": 32, "edge_channels": 16, "num_sphere_samples": 16}
MODELS: dict[str, tuple[type, dict[str, Any]]] = {
    "hdgnn, paper": (HDGNN, {**COMMON, "invariant_channels": 16}),
    "hdgnn, authors": (HDGNN, {**COMMON, "invariant_channels": 16, "preset": "authors"}),
    "hdgnn, reference": (HDGNN, {**COMMON, "invariant_channels": 16, "implementation": "reference"}),
    "escn": (ESCN, {**COMMON, "regress_forces": False}),
    "escn with forces": (ESCN, {**COMMON, "regress_forces": True}),
}


def network(name: str, num_layers: int) -> nn.Module:
    model, keys = MODELS[name]
    return model(**keys, num_layers=num_layers).network


@pytest.mark.parametrize("name", MODELS)
def test_prediction_agrees_with_the_real_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    args = (GPUS["v100"], Precision.FLOAT32)
    predicted = predict_cost(lambda layers: network(name, layers), LAYERS, NEIGHBORS, *args).at(ATOMS)
    whole, graph = network(name, LAYERS), random_graph(ATOMS, NEIGHBORS)
    measured = measure_cost(whole, graph, *args)
    assert predicted.parameters == sum(parameter.numel() for parameter in whole.parameters())
    for quantity in ("forward_flops", "training_flops", "traffic", "activation_bytes", "seconds"):
        assert getattr(predicted, quantity) == pytest.approx(getattr(measured, quantity), rel=0.05), quantity

    # torch's counter does not know the products that oneDNN makes.
    monkeypatch.setattr(packed_matrix, "can_pack", lambda dtype: False)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        whole(*graph)
    assert predicted.forward_flops == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_training_flops_of_plain_equations_agree_with_torch() -> None:
    """Its counter can follow a backward pass that is not written by hand."""
    whole, graph = network("hdgnn, reference", 2), random_graph(ATOMS, NEIGHBORS)
    measured = measure_cost(whole, graph, GPUS["v100"], Precision.FLOAT32)
    with FlopCounterMode(display=False) as counter:
        whole(*graph)["energy"].sum().backward()
    assert measured.training_flops == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_counter_counts() -> None:
    a, b, total = torch.randn(6, 5, requires_grad=True), torch.randn(5, 7), torch.randn(6, 7)
    with WorkCounter() as counter:
        product = a @ b
        assert counter.flops == 2 * 6 * 5 * 7
        assert counter.traffic == counter.live_bytes + 4 * (a.numel() + b.numel())
        assert counter.live_bytes == 4 * 6 * 7
        product.t()
        assert len(counter.operations) == 1, "a view moves nothing"
        total.addmm_(a.detach(), b)
        assert counter.flops == 2 * 2 * 6 * 5 * 7
        del product
        assert counter.live_bytes == 0, "what addmm_ returned was there before"
        before = counter.traffic
        torch.zeros(1000, 3).index_add_(0, torch.tensor([7]), torch.ones(1, 3))
        assert counter.traffic - before < 2.1 * 4 * 3000, "only the zeros, and one row"


@pytest.mark.parametrize("name", ["hdgnn, authors", "escn"])
def test_networks_are_counted_in_tf32(name: str) -> None:
    model, graph = network(name, 2), random_graph(ATOMS, NEIGHBORS)
    for precision in (Precision.TF32, Precision.FLOAT32):
        with WorkCounter() as counter:
            with precision.autocast(torch.device("cpu")):
                energy = model(*graph)["energy"]
            energy.sum().backward()
        in_tf32 = sum(operation.flops for operation in counter.operations if operation.tf32)
        assert (0.3 * counter.flops < in_tf32 < counter.flops) if precision is Precision.TF32 else in_tf32 == 0


def test_time_is_bound_by_arithmetic_or_memory() -> None:
    gpu = GPUS["a100"]
    arithmetic, memory = Operation(10**12, 8, torch.float32), Operation(0, 10**12, torch.float32)
    assert gpu.seconds([arithmetic]) == pytest.approx(1 / 19.5)
    assert gpu.seconds([memory]) == pytest.approx(1 / 2.039)
    assert gpu.seconds([arithmetic, memory]) == pytest.approx(1 / 19.5 + 1 / 2.039)
    assert gpu.seconds([Operation(10**12, 8, torch.bfloat16)]) == pytest.approx(1 / 312)
    assert gpu.seconds([Operation(10**12, 8, torch.float32, tf32=True)]) == pytest.approx(1 / 156)
    assert GPUS["v100"].seconds([Operation(10**12, 8, torch.float32, tf32=True)]) == pytest.approx(1 / 15.7)
    with pytest.raises(ConfigError, match="V100 has no bfloat16"):
        GPUS["v100"].seconds([Operation(1, 1, torch.bfloat16)])


def write(folder: Path, precision: str = "float32", accumulate: int = 1, **model: Any) -> Path:
    keys = {**COMMON, "name": "escn_so2", "num_layers": 2, "max_neighbors": NEIGHBORS, **model}
    path = folder / "config.yml"
    optim = {"batch_size": 4, "accumulate": accumulate, "precision": precision}
    path.write_text(yaml.safe_dump({"model": keys, "optim": optim}))
    return path


def test_report_scales_as_it_should(tmp_path: Path) -> None:
    one = report(write(tmp_path), GPUS["h100"], 1)
    eight = report(write(tmp_path), GPUS["h100"], 8)
    assert one.name == "fairchem_hdgnn.ESCN"
    assert one.hours(1000) == pytest.approx(8 * eight.hours(1000))
    assert one.batch.training_flops == pytest.approx(4 * one.structure.training_flops, rel=0.02)
    assert one.hours(4) * 3600 == pytest.approx(one.step_seconds)
    four = report(write(tmp_path, accumulate=4), GPUS["h100"], 2)
    assert four.effective_batch_size == 4 * 4 * 2
    assert four.memory_bytes == one.memory_bytes
    assert four.step_seconds - 4 * one.batch.seconds == pytest.approx(one.step_seconds - one.batch.seconds)
    assert four.hours(32) * 3600 == pytest.approx(four.step_seconds)
    assert report(write(tmp_path, precision="bfloat16"), GPUS["h100"], 1).step_seconds < one.step_seconds
    assert report(write(tmp_path, precision="tf32"), GPUS["h100"], 1).step_seconds <= one.step_seconds


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["cost", str(write(tmp_path)), "--gpu", "h100", "--gpus", "4"]) == 0
    printed = capsys.readouterr().out
    for text in (
        "MFLOP forward",
        "GFLOP per training step",
        "GB activations per structure",
        "4 structures x 1 accumulated x 4 GPUs = 16",
        "4 x H100 (float32)",
    ):
        assert text in printed
    assert cli.main(["cost", str(write(tmp_path, name="schnet"))]) == 2
    assert "model.name: 'schnet' has no cost estimate" in capsys.readouterr().err
    assert cli.main(["cost", str(write(tmp_path)), "--gpus", "0"]) == 2
    assert "--gpus 0: must be at least 1" in capsys.readouterr().err
    assert cli.main(["cost", str(tmp_path / "absent.yml")]) == 2


def test_own_data(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Number and mean size of the structures, and the time of all epochs; no data: OC20's."""
    path = write(tmp_path)
    config = yaml.safe_load(path.read_text())
    config["dataset"] = {"train": {"src": str(tmp_path / "data.lmdb")}}
    config["optim"]["max_epochs"] = 50
    path.write_text(yaml.safe_dump(config))
    assert report(path, GPUS["h100"], 1).data_sets == OC20
    write_lmdb(tmp_path / "data.lmdb", 24)
    (data,) = report(path, GPUS["h100"], 1).data_sets
    atoms = [int(record.natoms) for record in Records(tmp_path / "data.lmdb")]
    assert (data.structures, data.atoms) == (24, pytest.approx(sum(atoms) / 24))
    assert cli.main(["cost", str(path), "--gpu", "h200"]) == 0
    printed = capsys.readouterr().out
    assert f"{data.atoms:.0f} atoms (average of dataset.train)" in printed
    assert "for 24 structures on 1 x H200" in printed and "50 epochs" in printed
    assert "start of kernels, which is not counted" in printed
    config["dataset"]["train"]["train_split_settings"] = {"first_n": 10}
    path.write_text(yaml.safe_dump(config))
    (data,) = report(path, GPUS["h100"], 1).data_sets
    assert data.structures == 10


@pytest.mark.heavy
def test_page_shows_what_it_prints(capsys: pytest.CaptureFixture) -> None:
    command, *lines = PAGE.read_text().split("$ fairchem-hdgnn cost ")[1].split("```")[0].strip().splitlines()
    assert cli.main(["cost", *command.split()]) == 0
    printed = capsys.readouterr().out.strip().splitlines()
    number = re.compile(r"\d[\d,]*\.?\d*")
    assert len(printed) == len(lines)
    for line, expected in zip(printed, lines):
        assert number.sub("", line) == number.sub("", expected)
        found, wanted = ([float(each.replace(",", "")) for each in number.findall(text)] for text in (line, expected))
        assert found == pytest.approx(wanted, rel=0.03), expected
