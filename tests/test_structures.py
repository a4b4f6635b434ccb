"""Structures at the edge of what has a graph: the right answer, or an error that names system and atom."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fairchem.core.datasets import data_list_collater
from fairchem_batches import system
from small_runs import TINY_ESCN, TINY_HDGNN, model_of
from torch_geometric.data import Batch, Data

from fairchem_hdgnn import ESCN, HDGNN
from fairchem_hdgnn.errors import DataError, TrainingError
from fairchem_hdgnn.host.stop_conditions import explained_out_of_memory

fault = pytest.mark.fault
Outcome = Callable[[object], None]


@pytest.fixture(params=[TINY_HDGNN, TINY_ESCN], ids=["HDGNN", "ESCN"])
def model(request: pytest.FixtureRequest) -> HDGNN | ESCN:
    """Random weights, forces too."""
    return model_of(request.param, frames="fixed", regress_forces=True)


def batch(*systems: Data) -> Batch:
    return data_list_collater(list(systems), otf_graph=True)


def dimer(sid: int = 1) -> Data:
    return system([[0.0, 0.0, 0.0], [2.5, 0.0, 0.0]], [29, 8], sid=sid)


NAN, INF = float("nan"), float("inf")

REFUSED = [
    ("a position that is nan", system([[0, 0, 0], [0, NAN, 0]], [29, 8]), True,
     "system 7, atom 1 has a position that is not finite: [0.0, nan, 0.0]"),
    ("a position that is infinite", system([[INF, 0, 0], [2, 0, 0]], [29, 8]), True, "system 7, atom 0 has a position"),
    ("atomic number 0", system([[0, 0, 0], [2.0, 0, 0]], [29, 0]), True, "system 7, atom 1 has atomic number 0"),
    ("a negative atomic number", system([[0, 0, 0], [2.0, 0, 0]], [-3, 8]), True, "atom 0 has atomic number -3"),
    ("an atomic number above the model's", system([[0, 0, 0], [2.0, 0, 0]], [29, 117]), True,
     "system 7, atom 1 has atomic number 117; the model supports 1 to 89 (raise 'max_num_elements')"),
    ("two atoms on one place (zero-length edge)", system([[1.0, 1, 1], [1, 1, 1], [4, 4, 4]], [29, 8, 1]), True,
     "system 7: atoms 0 and 1 coincide; remove one"),
    ("two atoms of a molecule on one place", system([[1.0, 1, 1], [4, 4, 4], [1, 1, 1]], [29, 8, 1]), False,
     "system 7: atoms 0 and 2 coincide; remove one"),
    ("an atom on another one's periodic image", system([[0.0, 3, 3], [2, 2, 2], [10, 3, 13]], [29, 8, 1]), True,
     "system 7: atoms 0 and 2 coincide; remove one"),
    ("a cell of zeros", system([[0.0, 0, 0], [2, 0, 0]], [29, 8], 0.0), True, "system 7 has a cell without volume"),
    ("a flat cell", system([[0.0, 0, 0], [2, 0, 0]], [29, 8], torch.ones(3, 3)), True, "has a cell without volume"),
    ("a cell that is nan", system([[0.0, 0, 0], [2, 0, 0]], [29, 8], NAN), True, "system 7 has a cell without volume"),
    ("a system without atoms", system([], []), True, "system 7 has no atoms; remove it"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("structure", "periodic", "message"),
    [pytest.param(*rest, marks=fault("structure", what), id=what) for what, *rest in REFUSED],
)
def test_refused(model: HDGNN | ESCN, structure: Data, periodic: bool, message: str, outcome: Outcome) -> None:
    model.use_pbc = periodic
    for position in (0, 1):
        systems = [dimer()]
        systems.insert(position, structure)
        with pytest.raises(DataError) as error:
            model(batch(*systems))
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    outcome(f"error: {error.value}")


def test_structures_without_an_id_are_named_by_their_formula(model: HDGNN | ESCN) -> None:
    """As those of the calculator."""
    data = batch(dimer(), system([[0, 0, 0], [0, NAN, 0]], [29, 8]))
    del data.sid
    with pytest.raises(DataError, match="system CuO, atom 1 has a position"):
        model(data)


@pytest.mark.parametrize(("number", "known"), [(89, True), (90, False)])
def test_largest_atomic_number(model: HDGNN | ESCN, number: int, known: bool) -> None:
    """``max_num_elements`` is 90: embeddings have rows 0 to 89."""
    data = batch(dimer(), system([[0.0, 0, 0], [2.5, 0, 0]], [29, number]))
    if known:
        assert torch.isfinite(model(data)["energy"]).all()
    else:
        with pytest.raises(DataError, match=f"system 7, atom 1 has atomic number {number}; the model supports 1 to 89"):
            model(data)


def test_neighbours_across_the_boundary_are_no_collision(model: HDGNN | ESCN) -> None:
    near = system([[0.02, 3.0, 3.0], [9.6, 3.0, 3.0]], [29, 8])
    assert torch.isfinite(model(batch(near))["energy"]).all()


# Memory.


@fault("memory", "a batch larger than the GPU's memory")
def test_gpu_out_of_memory_names_batch_and_switches(
    model: HDGNN | ESCN, monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    def forward(*arguments: object, **keywords: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(model.network, "forward", forward)
    data = batch(dimer(), system([[0.0, 0, 0], [2, 0, 0], [0, 2, 0]], [8, 8, 8], sid=42))
    with pytest.raises(TrainingError) as error, explained_out_of_memory(data, model):
        model(data)
    expected = "a batch of 2 structures with 5 atoms, at most 40 edges (largest: sid 42, 3 atoms)"
    assert expected in str(error.value)
    for key in (
        "optim.batch_size (with a larger optim.accumulate",
        "optim.precision: bfloat16",
        "model.activations: recompute",
    ):
        assert key in str(error.value)
    outcome(f"error: {error.value}")


@fault("memory", "a batch larger than the machine's memory")
def test_cpu_out_of_memory_names_batch(model: HDGNN | ESCN, outcome: Outcome) -> None:
    with pytest.raises(TrainingError) as error, explained_out_of_memory(batch(dimer()), model, "--batch-size"):
        torch.empty(2**60, dtype=torch.uint8)
    assert "1 structures with 2 atoms, at most 16 edges" in str(error.value)
    outcome(f"error: {error.value}")


def test_other_errors_pass(model: HDGNN | ESCN) -> None:
    with pytest.raises(RuntimeError, match="a bug"), explained_out_of_memory(batch(dimer()), model):
        raise RuntimeError("a bug")
