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


def edge_frames(
    edge_vec: Float[Tensor, "edges 3"], roll: Float[Tensor, "edges"] | None = None
) -> Float[Tensor, "edges 3 3"]:
    """Rotation matrices R with ``R r / |r| = (0, 1, 0)``.

    With the direction ``(x, y, z) = (sin b sin a, cos b, sin b cos a)``, ``R = Ry(roll) Rx(-b) Ry(-a)``.
    The sines and cosines are taken from the components, never through an angle, so edges along any axis
    (both poles included, where ``a`` is set to 0) are as exact as others.

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
    x, cos_b, z = direction.unbind(-1)
    sin_b = torch.hypot(x, z)
    at_pole = sin_b == 0
    safe = torch.where(at_pole, torch.ones_like(sin_b), sin_b)
    sin_a = torch.where(at_pole, torch.zeros_like(x), x / safe)
    cos_a = torch.where(at_pole, torch.ones_like(z), z / safe)
    zero = torch.zeros_like(x)
    rows = [
        torch.stack([cos_a, zero, -sin_a], -1),
        torch.stack([sin_b * sin_a, cos_b, sin_b * cos_a], -1),
        torch.stack([cos_b * sin_a, -sin_b, cos_b * cos_a], -1),
    ]
    if roll is None:
        return torch.stack(rows, -2)
    cos_r, sin_r = roll.detach().cos().unsqueeze(-1), roll.detach().sin().unsqueeze(-1)
    return torch.stack([cos_r * rows[0] + sin_r * rows[2], rows[1], cos_r * rows[2] - sin_r * rows[0]], -2)


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


def seeded_roll(
    edge_vec: Float[Tensor, "edges 3"], species: Int[Tensor, "edges 2"], seed: int
) -> Float[Tensor, "edges"]:
    """Pseudo-random angles in [0, 2 pi) that depend only on ``seed``, the edge vector and its two elements.

    The result is independent of the order of edges, batching and periodic images, so a structure has the same
    frames in every batch. Integer hashing (multiply and xor-shift, 64 bit) of the rounded vector; the angle is a
    step function of the geometry.
    """
    words = torch.cat([(edge_vec.detach().double() / _GRID).round().long(), species.long()], dim=-1)
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
