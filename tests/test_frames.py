"""Edge frames: exact for every direction, uniform in roll, and reproducible where they should be."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from small_networks import clusters, network
from torch import nn

from fairchem_hdgnn.models.seeds import record_seed, step_seed
from fairchem_hdgnn.models.so3.frame_source import FrameSource, set_draw, set_step
from fairchem_hdgnn.models.so3.frames import FrameMode, edge_frames, random_roll, seeded_roll
from fairchem_hdgnn.models.so3.wigner import wigner_d

AXES = torch.cat([torch.eye(3), -torch.eye(3)]).double()
TILTED = (AXES[:, None] + 1e-5 * AXES[None]).flatten(0, 1)
Y = torch.tensor([0.0, 1.0, 0.0])
ROUNDING = {torch.float32: 4e-7, torch.float64: 1e-15}


def check_frames(vectors: torch.Tensor, frames: torch.Tensor) -> None:
    """Proper rotations that take each vector to +y, to the last digit or two of the dtype."""
    atol = ROUNDING[frames.dtype]
    direction = vectors.double() / vectors.double().abs().amax(-1, keepdim=True)
    frames, direction = frames.double(), direction / direction.norm(dim=-1, keepdim=True)
    turned = torch.einsum("eij,ej->ei", frames, direction)
    torch.testing.assert_close(turned, Y.double().expand_as(turned), rtol=0, atol=atol)
    eye = torch.eye(3, dtype=torch.float64).expand_as(frames)
    torch.testing.assert_close(frames @ frames.mT, eye, rtol=0, atol=2 * atol)
    assert (torch.linalg.det(frames) > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [1e-12, 1.0, 2.6179, 1e12])
def test_frames_along_and_near_the_axes(dtype, length):
    vectors = (length * torch.cat([AXES, TILTED])).to(dtype)
    check_frames(vectors, edge_frames(vectors))
    check_frames(vectors, edge_frames(vectors, torch.linspace(0, 6, len(vectors), dtype=dtype)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("roll", [None, 2.0])
@pytest.mark.parametrize("end", [1.0, -1.0])
def test_frames_along_the_poles_do_not_depend_on_rounding(dtype, roll, end):
    around = torch.linspace(0, 2 * math.pi, 9)[:-1]
    off = torch.stack([around.sin(), torch.zeros(8), around.cos()], dim=-1)
    vectors = 2.5 * end * Y + torch.cat([1e-6 * off, 1e-30 * off, 0.0 * off])
    rolls = None if roll is None else torch.full((len(vectors),), roll, dtype=dtype)
    frames = edge_frames(vectors.to(dtype), rolls)
    check_frames(vectors, frames)
    torch.testing.assert_close(frames, frames[-1:].expand_as(frames), rtol=0, atol=1e-6)


@pytest.mark.parametrize("end", [1.0, -1.0])
def test_denormal_components(end):
    vectors = torch.tensor([[1e-44, end, 1e-44], [-3e-45, end, 1e-45], [2e-44, end, 0.0]])
    frames = edge_frames(vectors)
    check_frames(vectors, frames)
    degree_one = wigner_d(frames, 1)[:, 1:, 1:]
    eye = torch.eye(3).expand_as(frames)
    torch.testing.assert_close(degree_one @ degree_one.mT, eye, rtol=0, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-10, 10)] * 3), min_size=1, max_size=20), st.floats(0, 2 * math.pi))
def test_frames_of_any_vector(vectors, roll):
    vectors = torch.tensor(vectors, dtype=torch.float64)
    vectors = vectors[vectors.abs().amax(-1) > 1e-300]
    check_frames(vectors, edge_frames(vectors, torch.full((len(vectors),), roll, dtype=torch.float64)))


def roll_of(frames: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """The angle about y, in [0, 2 pi), by which frames differ from the fixed ones."""
    turn = frames @ edge_frames(vectors).mT
    return torch.atan2(turn[:, 0, 2], turn[:, 0, 0]) % (2 * math.pi)


def vectors_of_a_slab(count: int = 20_000) -> torch.Tensor:
    """Vectors such as a crystal has them: many repeated lengths and directions, all slightly different."""
    generator = torch.Generator().manual_seed(0)
    sites = torch.randint(-3, 4, (count, 3), generator=generator).double()
    sites[(sites == 0).all(-1)] = 1.0
    return 2.77 * sites + 0.01 * torch.randn(count, 3, generator=generator)


@pytest.mark.parametrize("mode", ["random", "seeded"])
def test_roll_is_uniform(mode):
    vectors = vectors_of_a_slab()
    if mode == "random":
        roll, other = (random_roll(len(vectors), seed, vectors) for seed in (5, 6))
    else:
        roll, other = (seeded_roll(vectors, torch.full((len(vectors), 2), 78), seed) for seed in (5, 6))
    measured = roll_of(edge_frames(vectors, roll), vectors)
    torch.testing.assert_close(measured, roll % (2 * math.pi), rtol=0, atol=1e-9)
    assert kstest(measured.numpy() / (2 * math.pi), "uniform").pvalue > 1e-3
    # Neighbouring edges and seeds are as good as independent: their differences are uniform too.
    assert kstest(((measured[1:] - measured[:-1]) % (2 * math.pi)).numpy() / (2 * math.pi), "uniform").pvalue > 1e-3
    assert kstest(((other - roll) % (2 * math.pi)).numpy() / (2 * math.pi), "uniform").pvalue > 1e-3


def test_seeded_roll_belongs_to_the_edge():
    vectors, species = vectors_of_a_slab(500), torch.tensor([[8, 78]]).expand(500, 2)
    roll = seeded_roll(vectors, species, seed=3)
    order = torch.randperm(500)
    assert torch.equal(seeded_roll(vectors[order], species[order], seed=3), roll[order])
    assert torch.equal(seeded_roll(vectors[7:8], species[7:8], seed=3), roll[7:8])
    for vectors_, species_ in ((-vectors, species), (vectors, species.flip(1)), (vectors + 0.01, species)):
        assert (seeded_roll(vectors_, species_, seed=3) != roll).all()


def test_seeded_roll_ignores_noise_and_signed_zeros():
    vectors, species = vectors_of_a_slab(2000).float(), torch.full((2000, 2), 78)
    noisy = vectors + 2e-6 * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1))
    same = seeded_roll(vectors, species, 0) == seeded_roll(noisy, species, 0)
    assert same.float().mean() > 0.98
    zeros = torch.tensor([[0.0, 2.0, 0.0], [-0.0, 2.0, -0.0]])
    first, second = seeded_roll(zeros, species[:2], 0)
    assert first == second


@pytest.mark.parametrize("constant", [3.61, 3.615, 3.891, 4.085])
def test_seeded_roll_of_an_ideal_crystal_ignores_noise(constant):
    """Every component is a multiple of half the lattice constant."""
    places = torch.cartesian_prod(*[torch.arange(-3.0, 4.0)] * 3)
    vectors, species = constant / 2 * places[places.any(dim=-1)], torch.full((342, 2), 29)
    noise = 1e-6 * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(seeded_roll(vectors, species, 0), seeded_roll(vectors + noise, species, 0))


def source(mode: FrameMode = FrameMode.RANDOM, seed: int = 0, average: int = 1) -> FrameSource:
    return FrameSource(mode, seed, average)


def edges() -> tuple[torch.Tensor, torch.Tensor]:
    graph = clusters()
    return graph.edge_vec, graph.numbers[graph.edge_index.T]


def test_random_frames_change_at_every_training_step_and_follow_the_seed():
    first, again, other = source(), source(), source(seed=1)
    draws = [first(*edges(), training=True)[0] for _ in range(3)]
    for frames in draws:
        check_frames(edges()[0], frames)
    assert not torch.allclose(draws[0], draws[1]) and not torch.allclose(draws[1], draws[2])
    for frames in draws:
        assert torch.equal(again(*edges(), training=True)[0], frames)
    assert not torch.allclose(other(*edges(), training=True)[0], draws[0])


def test_random_frames_are_a_function_of_the_step():
    whole = network().train()
    sequence = [whole(*clusters().arguments())["energy"] for _ in range(4)]
    resumed = network().train()
    resumed.load_state_dict(whole.state_dict())
    set_step(resumed, 2)
    for energy in sequence[2:]:
        assert torch.equal(resumed(*clusters().arguments())["energy"], energy)
    assert not torch.equal(sequence[2], sequence[3])


def test_counts_of_draws_in_older_state_dicts_are_passed_over():
    frames = nn.Sequential(source())
    assert frames.state_dict() == {}
    frames.load_state_dict({"0.draws": torch.tensor(7)}, strict=True)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*: \"0\.drawn\"\."):
        frames.load_state_dict({"0.draws": torch.tensor(7), "0.drawn": torch.tensor(7)}, strict=True)


@pytest.mark.parametrize("mode", FrameMode)
def test_nothing_waits_for_the_device(mode):
    """Tensors without data: reading one, or bringing random numbers from elsewhere, fails."""
    vectors, species = torch.empty(5, 3, device="meta"), torch.empty(5, 2, dtype=torch.long, device="meta")
    (frames,) = source(mode)(vectors, species, training=True)
    assert frames.shape == (5, 3, 3) and frames.is_meta


def test_ranks_draw_different_frames(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    frames = []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        frames.append(source()(*edges(), training=True)[0])
    assert not torch.allclose(*frames)


def test_evaluation_is_reproducible_and_does_not_disturb_training():
    frames = source()
    before = frames(*edges(), training=False)[0]
    assert frames.step == 0
    frames(*edges(), training=True)
    assert frames.step == 1
    assert torch.equal(frames(*edges(), training=False)[0], before)
    seeded = source(FrameMode.SEEDED)
    assert torch.equal(seeded(*edges(), training=False)[0], before)
    assert torch.equal(seeded(*edges(), training=True)[0], before)


def test_the_global_generator_is_left_alone():
    state = torch.random.get_rng_state()
    source()(*edges(), training=True)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_averaging_draws_distinct_frames_at_evaluation_only():
    frames = source(average=3)
    draws = frames(*edges(), training=False)
    assert len(draws) == 3
    assert not torch.allclose(draws[0], draws[1])
    assert len(frames(*edges(), training=True)) == 1
    assert len(source(FrameMode.FIXED, average=3)(*edges(), training=False)) == 1


def test_each_set_of_draws_has_seeds_of_its_own():
    frames, seeded = source(average=2), source(average=6)
    sets = []
    for draw in range(3):
        set_draw(torch.nn.Sequential(frames), draw)
        sets += frames(*edges(), training=False)
    for frame, expected in zip(sets, seeded(*edges(), training=False)):
        assert torch.equal(frame, expected)
    set_draw(frames, 7)
    assert torch.equal(frames(*edges(), training=True)[0], source()(*edges(), training=True)[0])


def test_fixed_frames_have_no_roll():
    frames = source(FrameMode.FIXED)(*edges(), training=True)[0]
    assert torch.equal(frames, edge_frames(edges()[0]))


def test_seeds_differ_between_purposes_seeds_epochs_and_records():
    purposes, numbers = ("frames", "batch"), (0, 1)
    of_records = [
        record_seed(purpose, seed, epoch, record)
        for purpose in purposes for seed in numbers for epoch in numbers for record in numbers
    ]  # fmt: skip
    of_steps = [step_seed(purpose, seed, step) for purpose in purposes for seed in numbers for step in numbers]
    assert len(set(of_records)) == 16 and len(set(of_steps)) == 8
    assert all(0 <= each < 2**63 for each in of_records + of_steps)
