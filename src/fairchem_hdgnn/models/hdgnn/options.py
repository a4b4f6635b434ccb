"""The named options of HDGNN's configuration."""

from __future__ import annotations

from enum import Enum
from typing import Any


class Switchable(str, Enum):
    """A choice that can be ``off``, which YAML reads as false unless it is quoted."""

    @classmethod
    def _missing_(cls, value: Any) -> Any:
        return cls("off") if value is False else None


class Preset(str, Enum):
    """``paper``: the paper's equations. ``authors``: as in the authors' published code."""

    PAPER = "paper"
    AUTHORS = "authors"


class Message(str, Enum):
    """The message function.

    ``hybrid``: eq. 11. ``linear``: equivariant linear layers instead of the networks (Table 3). ``fully_tp``: one
    fully connected Clebsch-Gordan product and nothing else (Table 3). ``unrestricted``: a network on
    ``[x_i; x_j; S(r)]`` without frames (Table 3).
    """

    HYBRID = "hybrid"
    LINEAR = "linear"
    FULLY_TP = "fully_tp"
    UNRESTRICTED = "unrestricted"


class TensorProduct(str, Enum):
    """``metp``: eq. 7. ``fully_connected``: Fully-TP, used on QM9."""

    METP = "metp"
    FULLY_CONNECTED = "fully_connected"


class Attention(str, Enum):
    """Output activation of the attention network (Table 4).

    ``sigmoid``: for each term. ``softmax``: over all terms.
    """

    SIGMOID = "sigmoid"
    SOFTMAX = "softmax"


class GateInputs(str, Enum):
    """``branch``: the invariant branch of both atoms. ``branch_and_edge``: the edge features too."""

    BRANCH = "branch"
    BRANCH_AND_EDGE = "branch_and_edge"


class LayerNorm(Switchable):
    """Normalisation of x before the message block.

    ``centred`` subtracts the channel mean of the scalars, so that METP, which averages over channels, receives no
    scalars at initialisation. ``uncentred`` keeps the mean and avoids that. ``off`` is an ablation (Table 5).
    """

    CENTRED = "centred"
    UNCENTRED = "uncentred"
    OFF = "off"


class NeuralInput(str, Enum):
    """``split``: NN(x'') + NN(x) (eq. 10). ``rotated``: NN(x') (Table 5)."""

    SPLIT = "split"
    ROTATED = "rotated"


class Mlp(str, Enum):
    """``shared``: NN_1 serves x'' and x of both atoms, NN_2 the pair (eq. 11). ``separate``: one for each input."""

    SHARED = "shared"
    SEPARATE = "separate"


class Antipode(Switchable):
    """The update's second sample f(-r).

    ``exact``, ``off`` (ablation), or ``top_degree_unflipped``: degree lmax keeps its sign, an error in the authors'
    code that only matters for odd lmax and is needed to reproduce such checkpoints.
    """

    EXACT = "exact"
    OFF = "off"
    TOP_DEGREE_UNFLIPPED = "top_degree_unflipped"
