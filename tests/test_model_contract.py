"""What must hold for every model, alone and as parts of a hydra, on batches as fairchem makes them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from fairchem_batches import batch_of
from model_contract import SUBJECTS, FramesOf, Subject, predict, set_frames
from small_networks import relative_error
from torch import Tensor, nn

fault = pytest.mark.fault
Outcome = Callable[[object], None]


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> Subject:
    return SUBJECTS[request.param]


@pytest.fixture(scope="module")
def model(subject: Subject) -> nn.Module:
    """In float64, with random weights."""
    return subject.build()


def structures() -> list[Atoms]:
    """Two crystals, a slab that is periodic in its plane, and a molecule; no two distances are the same."""
    slab = fcc111("Cu", (2, 2, 1), vacuum=4.0)
    add_adsorbate(slab, "O", 1.4, "fcc")
    slab.info.clear()
    slab.pbc = (True, True, False)
    made = [bulk("Cu", cubic=True), bulk("NaCl", "rocksalt", a=5.6), slab, molecule("H2O")]
    for seed, atoms in enumerate(made):
        atoms.rattle(0.1, seed=seed)
    return made


def check_equal(actual: dict[str, Tensor], expected: dict[str, Tensor], **tolerance: Any) -> None:
    """To rounding, if no tolerance is given."""
    assert set(actual) == set(expected) == {"energy", "forces"}
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, **(tolerance or {"rtol": 1e-9, "atol": 1e-9}), msg=name)


def test_order_of_atoms_does_not_matter(model: nn.Module) -> None:
    original = structures()
    orders = [np.random.default_rng(0).permutation(len(atoms)) for atoms in original]
    expected, actual = predict(model, *original), predict(model, *[a[order] for a, order in zip(original, orders)])
    firsts = np.cumsum([0, *(len(atoms) for atoms in original)])
    places = np.concatenate([first + order for first, order in zip(firsts, orders)])
    assert (places != np.arange(len(places))).any()
    check_equal(actual, {"energy": expected["energy"], "forces": expected["forces"][places]})


def test_atoms_may_stand_anywhere(model: nn.Module) -> None:
    """All atoms of a structure shifted together; each by whole cells of its own, far outside the cell too."""
    expected, moved = predict(model, *structures()), structures()
    for atoms in moved:
        atoms.positions += [0.5, -1.25, 30.0]
    check_equal(predict(model, *moved), expected)
    for seed, atoms in enumerate(moved):
        cells = np.random.default_rng(seed).integers(-3, 4, (len(atoms), 3)) * atoms.pbc
        atoms.positions += cells @ atoms.cell.array
    check_equal(predict(model, *moved), expected)


@pytest.mark.parametrize("repeats", [(2, 1, 1), (2, 2, 1)])
def test_supercell_has_the_energy_of_its_cells(model: nn.Module, repeats: tuple[int, int, int]) -> None:
    """And each copy of an atom its force, for ``max_neighbors`` leaves no neighbour out."""
    *cells, _ = structures()
    expected = predict(model, *cells)
    copies = int(np.prod(repeats))
    forces = expected["forces"].split([len(atoms) for atoms in cells])
    check_equal(
        predict(model, *[atoms * repeats for atoms in cells]),
        {"energy": copies * expected["energy"], "forces": torch.cat([part.repeat(copies, 1) for part in forces])},
    )


@fault("structure", "systems with and without edges in one batch")
def test_batch_is_its_structures(model: nn.Module, outcome: Outcome) -> None:
    apart = Atoms("OH", positions=[[0.0, 0, 0], [9.0, 9, 9]])
    several = [Atoms("Cu"), *structures(), apart]
    alone = [predict(model, atoms) for atoms in several]
    for order in (slice(None), slice(None, None, -1)):
        expected = {name: torch.cat([one[name] for one in alone[order]]) for name in ("energy", "forces")}
        check_equal(predict(model, *several[order]), expected)
    without_edges = [alone[0], alone[-1]]
    expected = {name: torch.cat([one[name] for one in without_edges]) for name in ("energy", "forces")}
    check_equal(predict(model, several[0], apart), expected)
    outcome("correct: each as it is alone")


@fault("structure", "no neighbours within the cutoff")
def test_atoms_without_neighbours_contribute_independently(model: nn.Module, outcome: Outcome) -> None:
    one, other = predict(model, Atoms("Cu")), predict(model, Atoms("O", positions=[[3.0, 0, 0]]))
    apart = predict(model, Atoms("CuO", positions=[[0.0, 0, 0], [10, 10, 10]]))
    assert one["energy"].isfinite().all() and one["energy"] != other["energy"]
    check_equal(
        apart, {"energy": one["energy"] + other["energy"], "forces": torch.cat([one["forces"], other["forces"]])}
    )
    outcome("correct: the energy is the sum over the lone atoms")


@fault("structure", "one atom, with or without periodic images")
def test_one_atom(model: nn.Module, outcome: Outcome) -> None:
    """In a cell smaller than the cutoff it sees its images, as each atom of a repeated cell sees the others."""
    crystal = Atoms("Cu", positions=[[0.3, 0.2, 0.1]], cell=[3.0, 3.1, 3.2], pbc=True)
    in_crystal, lone = predict(model, crystal), predict(model, Atoms("Cu"))
    assert relative_error(in_crystal["energy"], lone["energy"]) > 1e-3
    repeated = predict(model, crystal * (2, 1, 1))
    check_equal(repeated, {"energy": 2 * in_crystal["energy"], "forces": in_crystal["forces"].repeat(2, 1)})
    outcome("correct: energy per atom as in a repeated cell")


def loss(output: dict[str, Tensor]) -> Tensor:
    """A number that every output changes."""
    weights = torch.linspace(-1, 1, output["forces"].numel(), dtype=output["forces"].dtype)
    return output["energy"].square().sum() + (weights * output["forces"].flatten()).sum()


def test_gradients_reach_every_parameter(subject: Subject) -> None:
    model = subject.build().train()
    loss(model(batch_of(*structures()))).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, gradient in gradients.items():
        assert gradient is not None and gradient.isfinite().all(), name
        # The first layer's x has scalars only: what acts on higher degrees there sees zeros.
        assert gradient.any() or gradients[name.replace("layers.0.", "layers.1.")].any(), name


def test_training_without_edges(subject: Subject) -> None:
    """Gradients are finite; parameters that act on edges have none, or zeros."""
    model = subject.build().train()
    loss(model(batch_of(Atoms("Cu")))).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


def test_state_dict_goes_through_a_file(subject: Subject, model: nn.Module) -> None:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = subject.build(seed=1)
    expected = predict(model, *structures())
    assert relative_error(predict(other, *structures())["energy"], expected["energy"]) > 1e-3
    other.load_state_dict(torch.load(file, weights_only=True))
    check_equal(predict(other, *structures()), expected, rtol=0, atol=0)


def test_float32_agrees_with_float64(subject: Subject, model: nn.Module) -> None:
    single = predict(subject.build(torch.float32), *structures())
    assert {value.dtype for value in single.values()} == {torch.float32}
    check_equal(
        {name: value.double() for name, value in single.items()}, predict(model, *structures()), rtol=1e-4, atol=1e-5
    )


def molecules(rotation: Tensor) -> list[Atoms]:
    """Distorted molecules, turned."""
    made = [molecule("CH3OH") for _ in range(5)]
    for seed, atoms in enumerate(made):
        atoms.rattle(0.2, seed=seed)
        atoms.positions = atoms.positions @ rotation.T.numpy()
    return made


def errors(actual: dict[str, Tensor], expected: dict[str, Tensor], rotation: Tensor) -> tuple[float, float]:
    """Of energies, in units of their spread over structures, and of the forces that turn along, in units of theirs."""
    energy = (actual["energy"] - expected["energy"]).abs().mean() / expected["energy"].std()
    return float(energy), relative_error(actual["forces"], expected["forces"] @ rotation.T)


def test_rotations_turn_forces_and_leave_energies(subject: Subject) -> None:
    """Whether edge frames turn along or not."""
    model, still = subject.build(**subject.symmetric), torch.eye(3, dtype=torch.float64)
    expected = predict(model, *molecules(still))
    for rotation in subject.rotations:
        assert max(errors(predict(model, *molecules(rotation)), expected, rotation)) < 1e-3
    set_frames(model, FramesOf(still))
    expected = predict(model, *molecules(still))
    for rotation in subject.rotations:
        set_frames(model, FramesOf(rotation))
        assert max(errors(predict(model, *molecules(rotation)), expected, rotation)) < 1e-3
    set_frames(model, FramesOf(still, roll=1.0))
    assert max(errors(predict(model, *molecules(still)), expected, still)) < subject.roll_error
