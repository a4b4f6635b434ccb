"""Edge frames: rotation matrices that rotate an edge's direction to the y axis.

The edge determines its frame up to a rotation about it, the *roll*. :class:`FrameMode` selects the source of the
roll; the construction itself is deterministic and exact for every direction.
"""

from __future__ import annotations

import math
from enum import Enum

import torch
from jaxtyping import Float, Int
from torch import Tensor


class FrameMode(str, Enum):
    """Source of the free roll angle of each edge frame.

    ``random``: drawn for each edge in each forward pass, as published. ``seeded``: a fixed pseudo-random
    function of a seed and of the edge, so the same structure always gets the same frames. ``fixed``: no
    roll, a function of the edge direction.
    """

    RANDOM = "random"
    SEEDED = "seeded"
    FIXED = "fixed"


_NEAR_POLE = 1e-3
"""Sine of the angle to +-y below which frames do not follow the direction around the pole."""


def edge_frames(
    edge_vec: Float[Tensor, "edges 3"], roll: Float[Tensor, "edges"] | None = None
) -> Float[Tensor, "edges 3 3"]:
    """Rotation matrices R with ``R r / |r| = (0, 1, 0)``.

    With the direction ``(x, y, z) = (sin b sin a, cos b, sin b cos a)``, ``R = Ry(roll) Rx(-b) Ry(-a)``, and near the
    poles ``Ry(roll) Ry(+-a) Rx(-b) Ry(-a)``, which is continuous there: edges along +-y, common in slabs, have x and z
    from rounding alone, and ``a`` would be noise. Sines and cosines are taken from the components, never through an
    angle, so edges along any axis are as exact as others.

    Args:
        edge_vec: edge vectors, Å; their length does not matter but must not be 0.
        roll: angle in radians of a final rotation about y; 0 if absent.

    Returns:
        Proper rotation matrices in the dtype of ``edge_vec``; no gradient flows through them.
    """
    direction = edge_vec.detach()
    # Scaling first keeps the squares of very short or long vectors in range.
    direction = direction / direction.abs().amax(dim=-1, keepdim=True)
    direction = direction / direction.norm(dim=-1, keepdim=True)
    x, y, z = direction.unbind(-1)
    sin_b, sin_a, cos_a = sines_and_cosines(direction)
    zero = torch.zeros_like(x)
    first = torch.stack([cos_a, zero, -sin_a], -1)
    third = torch.stack([y * sin_a, -sin_b, y * cos_a], -1)
    # The shortest turn to the pole, after half a turn about x where y < 0.
    sign, scale = y.sign(), 1 / (1 + y.abs())
    first_near = torch.stack([1 - x * x * scale, -sign * x, -x * z * scale], -1)
    third_near = torch.stack([-sign * x * z * scale, -z, sign * (1 - z * z * scale)], -1)
    near = (sin_b < _NEAR_POLE).unsqueeze(-1)
    rows = [torch.where(near, first_near, first), direction, torch.where(near, third_near, third)]
    if roll is None:
        return torch.stack(rows, -2)
    cos_r, sin_r = roll.detach().cos().unsqueeze(-1), roll.detach().sin().unsqueeze(-1)
    return torch.stack([cos_r * rows[0] + sin_r * rows[2], rows[1], cos_r * rows[2] - sin_r * rows[0]], -2)


def sines_and_cosines(
    direction: Float[Tensor, "edges 3"],
) -> tuple[Float[Tensor, "edges"], Float[Tensor, "edges"], Float[Tensor, "edges"]]:
    """sin b, sin a and cos a of unit vectors ``(sin b sin a, cos b, sin b cos a)``; ``a`` is 0 at the poles."""
    x, _, z = direction.unbind(-1)
    sin_b = torch.hypot(x, z)
    # Smaller components change no sum, and denormal ones have too few digits for a quotient.
    limits = torch.finfo(direction.dtype)
    at_pole = sin_b < limits.tiny / limits.eps
    safe = torch.where(at_pole, torch.ones_like(sin_b), sin_b)
    sin_a = torch.where(at_pole, torch.zeros_like(x), x / safe)
    cos_a = torch.where(at_pole, torch.ones_like(z), z / safe)
    return sin_b, sin_a, cos_a


def random_roll(num_edges: int, seed: int, like: Tensor) -> Float[Tensor, "edges"]:
    """Uniform angles in [0, 2 pi), the same on every device, in dtype and on the device of ``like``.

    Generated with splitmix64 (Steele, Lea & Flood, OOPSLA 2014), for all edges at once.

    Args:
        num_edges: number of angles.
        seed: in [0, 2**63).
        like: tensor with the dtype and device of the result.
    """
    number = torch.arange(num_edges, device=like.device)
    return _angle(_mix(number * _STRIDE + seed), like.dtype)


_GRID = 1e-3
"""Å: edge vectors are rounded to this before hashing, so rounding errors rarely change a roll."""

_GRID_OFFSET = 0.318e-3
"""Å, added before rounding. Without it, numbers are rounded up or down at odd multiples of 0.5e-3 Å, which are half the
lattice constants of common crystals (Cu 3.615 Å, Pd 3.891 Å): rounding errors would decide for all edges alike."""


def seeded_roll(
    edge_vec: Float[Tensor, "edges 3"], species: Int[Tensor, "edges 2"], seed: int
) -> Float[Tensor, "edges"]:
    """Pseudo-random angles in [0, 2 pi) that depend only on ``seed``, the edge vector and its two elements.

    The result is independent of the order of edges, batching and periodic images, so a structure has the same
    frames in every batch. Integer hashing (multiply and xor-shift, 64 bit) of the rounded vector; the angle is a
    step function of the geometry.
    """
    cells = ((edge_vec.detach().double() + _GRID_OFFSET) / _GRID).round().long()
    words = torch.cat([cells, species.long()], dim=-1)
    state = torch.full_like(words[:, 0], seed & 0x7FFFFFFFFFFFFFFF)
    for word in words.unbind(-1):
        state = _mix(state ^ word)
    return _angle(state, edge_vec.dtype)


def _angle(state: Int[Tensor, "edges"], dtype: torch.dtype) -> Float[Tensor, "edges"]:
    """Angles in [0, 2 pi) from 53 of the bits, which fill a float64's mantissa."""
    unit = (state & ((1 << 53) - 1)).double() / float(1 << 53)
    return (2.0 * math.pi * unit).to(dtype)


def _mix(state: Int[Tensor, "edges"]) -> Int[Tensor, "edges"]:
    """The finaliser of splitmix64 on wrapping int64; logical shifts emulated by masking."""
    state = state + _STRIDE
    state = (state ^ _shift(state, 30)) * _signed(0xBF58476D1CE4E5B9)
    state = (state ^ _shift(state, 27)) * _signed(0x94D049BB133111EB)
    return state ^ _shift(state, 31)


def _shift(state: Tensor, bits: int) -> Tensor:
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_STRIDE = _signed(0x9E3779B97F4A7C15)
"""Increment of splitmix64: 2**64 over the golden ratio."""
