"""HDGNN's hyper-parameters. The YAML keys of the model are the fields of :class:`HDGNNConfig`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Union

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.hyperparameters import Keys, from_keys, integer, other, real, switch
from fairchem_hdgnn.models.hdgnn.options import (
    Antipode,
    Attention,
    GateInputs,
    LayerNorm,
    Message,
    Mlp,
    NeuralInput,
    Preset,
    TensorProduct,
)
from fairchem_hdgnn.models.nn.heads import ReadoutInit
from fairchem_hdgnn.models.nn.initialisation import WeightInit
from fairchem_hdgnn.models.ops.execution import Activations, Implementation
from fairchem_hdgnn.models.so3.frames import FrameMode

PRESETS: dict[Preset, dict[str, Any]] = {
    Preset.PAPER: {
        "num_resolutions": 1,
        "full_degree_product": False,
        "squeeze_excitation": False,
        "output_activation": False,
        "gate_inputs": GateInputs.BRANCH,
        "layer_norm": LayerNorm.UNCENTRED,
        "feature_scale": 1.0,
        "branch_scale": 1.0,
        "weight_init": WeightInit.UNIT_VARIANCE,
    },
    Preset.AUTHORS: {
        "mmax": 1,
        "num_resolutions": 2,
        "full_degree_product": True,
        "squeeze_excitation": True,
        "output_activation": True,
        "gate_inputs": GateInputs.BRANCH_AND_EDGE,
        "layer_norm": LayerNorm.CENTRED,
        "feature_scale": 3**-0.5,
        "branch_scale": 2 / 3,
        "weight_init": WeightInit.TORCH,
    },
}
"""Defaults that differ between the presets. ``mmax`` is ``lmax`` if a preset does not set it."""

FixedAttention = tuple[float, float, float, float]
"""One coefficient for each term of eq. 11: source, target, pair, tensor product."""

NUM_TERMS = 4

AttentionChoice = Union[Attention, FixedAttention]


@dataclass(frozen=True)
class HDGNNConfig(Keys):
    """Hyper-parameters of the network. Keys left out (``None``) are filled by the preset or from other keys.

    The four most important ones, with the paper's names: ``lmax`` (L), ``lmax_metp`` (L'), ``num_layers`` (K),
    ``sphere_channels`` (C). Costs are those of messages, which take most of the time and memory.
    """

    preset: Preset = other(Preset.PAPER)
    """Set of defaults for the options left out."""

    lmax: int = integer(6, minimum=0, maximum=10)
    """Largest degree L of the node embedding. Cost: time and memory grow as L with ``mmax: 1``, as L²
    with ``mmax`` = L."""

    lmax_metp: int = integer(None, minimum=0)
    """Largest degree L' of the tensor product's result, at most ``lmax``; 2 if left out. For ``message: hybrid`` and
    ``linear``. Cost: little."""

    num_layers: int = integer(16, maximum=1000)
    """Message-passing rounds K. Cost: time, memory and parameters grow in proportion."""

    sphere_channels: int = integer(128, maximum=65536)
    """Channels C of each coefficient. Cost: time and parameters grow in proportion."""

    mmax: int = integer(None, minimum=0)
    """Largest order in the networks' input, at most ``lmax``; ``lmax`` if left out. For ``message: hybrid``. Cost: at
    L = 6 the input has 19 coefficients with 1, all 49 with 6."""

    hidden_channels: int = integer(512, maximum=65536)
    """Hidden width of NN_1 and NN_2. For ``message: hybrid`` and ``unrestricted``. Cost: most of the parameters and
    of the time; they grow in proportion."""

    edge_channels: int = integer(128, maximum=65536)
    """Width of the edge features. Cost: little."""

    invariant_channels: int = integer(256, maximum=65536)
    """Width of the invariant branch f. Cost: little."""

    cutoff: float = real(8.0, above=0.0)
    """Longest edge, Å; the distance basis spans [0, cutoff]. Cost: the number of edges grows as its cube, until
    ``max_neighbors`` limits it."""

    distance_resolution: float = real(0.02, above=0.0)
    """Determines the size of the distance basis: ``cutoff / distance_resolution`` centres, rounded down, are evenly
    spaced on [0, cutoff]; Å. Cost: none."""

    basis_width: float = real(2.0, above=0.0)
    """Standard deviation of the basis functions in units of their spacing."""

    max_num_elements: int = integer(90, minimum=2)
    """Upper limit of atomic numbers, exclusive. Cost: little."""

    num_resolutions: int = integer(None, maximum=2)
    """1, or 2: the nearest neighbours at full size, the others at lower degree and width."""

    near_neighbors: int = integer(12)
    """Number of nearest neighbours with two resolutions. Cost: more edges at full size."""

    lmax_far: int = integer(None, minimum=0)
    """Degree of the far neighbours' block, at most ``lmax``; max(4, ``lmax`` - 2), at most ``lmax``, if left out.
    Cost: as ``lmax``, for the far neighbours."""

    hidden_channels_far: int = integer(None)
    """Hidden width of the far neighbours' block; a quarter of ``hidden_channels`` if left out. For
    ``message: hybrid`` and ``unrestricted``. Cost: as ``hidden_channels``, for the far neighbours."""

    message: Message = other(Message.HYBRID)
    """The message function."""

    tensor_product: TensorProduct = other(TensorProduct.METP)
    """The strictly equivariant term of eq. 11. For ``message: hybrid`` and ``linear``."""

    attention: AttentionChoice = other(Attention.SIGMOID)
    """Coefficients of the terms of eq. 11: learned, or fixed for source, target, pair and tensor product, in this order
    (1 for a fifth term). ``message: fully_tp`` and ``unrestricted`` have one term: its coefficient is the first number
    of a list, and 1 with ``softmax``."""

    gate_inputs: GateInputs = other(None)
    """Input of the attention network."""

    full_degree_product: bool = switch(None)
    """A fifth term in eq. 11: one channel of (x_i + x_j) ⊗ S at every degree, spread over channels by its gate. For
    ``message: hybrid``."""

    output_activation: bool = switch(None)
    """A SiLU after the second layer of NN_1 and NN_2. For ``message: hybrid`` and ``unrestricted``."""

    mlp: Mlp = other(Mlp.SHARED)
    """Whether terms share networks. For ``message: hybrid``."""

    neural_input: NeuralInput = other(NeuralInput.SPLIT)
    """Input of the networks of eq. 11. For ``message: hybrid``."""

    extra_linear: bool = switch(False)
    """Equivariant linear layers on x_i and x_j before the message (Table 5)."""

    layer_norm: LayerNorm = other(None)
    """Normalisation of x before the message."""

    feature_scale: float = real(None, above=0.0)
    """Constant factor on the normalised x."""

    invariant_branch: bool = switch(True)
    """Whether there is an invariant branch f; without it, the attention network's input is the edge features only."""

    branch_scale: float = real(None, above=0.0)
    """Constant factor on the sum in the invariant branch."""

    antipodal: Antipode = other(Antipode.EXACT)
    """Whether the update's input includes f(-r) in addition to f(r)."""

    shortcut: bool = switch(True)
    """Whether the update's input includes x in addition to the message."""

    squeeze_excitation: bool = switch(None)
    """Channel attention inside the update."""

    readout_weight: float = real(0.0)
    """λ of section 3.4: the weight of NN(f^K) in the energy; needs ``invariant_branch``."""

    num_sphere_samples: int = integer(128)
    """Sample points of the output heads. Cost: work for each atom, once; little."""

    weight_init: WeightInit = other(None)
    """Initialisation of all weights but the last layer of each output head (``readout_init``): ``unit_variance``, which
    keeps the size of signals from layer to layer, or ``torch``, PyTorch's own, as in the published code. Does not
    affect loaded weights."""

    mean_neighbors: float = real(20.0, above=0.0)
    """Approximate average number of edges per atom; used only by ``weight_init: unit_variance``."""

    readout_init: ReadoutInit = other(ReadoutInit.ZERO)
    """Initialisation of each output head's last layer: ``zero``, so that training starts from the training mean, or
    ``random``. Does not affect loaded weights."""

    energy_scale: float = real(1.0)
    """Constant factor on the energy from x, but not on λ NN(f^K) (``readout_weight``)."""

    regress_forces: bool = switch(False)
    """Adds a head that predicts a vector for each atom, e.g. the force."""

    frames: FrameMode = other(FrameMode.RANDOM)
    """Source of the roll of edge frames in training; evaluation is always reproducible."""

    frame_seed: int = integer(0, minimum=0)
    """Seed of random and seeded rolls."""

    frame_average: int = integer(1)
    """Number of frame draws averaged in evaluation. Cost: evaluation time grows in proportion."""

    activations: Activations = other(Activations.STORE)
    """Whether activations are stored or recomputed for the backward pass."""

    implementation: Implementation = other(Implementation.AUTO)
    """Implementation of the messages."""

    def __post_init__(self) -> None:
        """Fill the preset's and derived defaults and check that the keys are consistent."""
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, min(value, self.lmax) if name == "mmax" else value)
        derived = {
            "mmax": self.lmax,
            "lmax_metp": min(2, self.lmax),
            "lmax_far": min(self.lmax, max(4, self.lmax - 2)),
            "hidden_channels_far": max(1, self.hidden_channels // 4),
        }
        for name, value in derived.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name, meaning in (("mmax", "order"), ("lmax_metp", "degree L'"), ("lmax_far", "degree")):
            if getattr(self, name) > self.lmax:
                raise ConfigError(
                    f"'{name}' is {getattr(self, name)}, but no {meaning} can exceed 'lmax' = {self.lmax}"
                )
        if self.num_centres < 2:
            raise ConfigError(
                f"'cutoff' = {self.cutoff:g} Å leaves no distance basis at 'distance_resolution' = "
                f"{self.distance_resolution:g} Å"
            )
        if self.readout_weight and not self.invariant_branch:
            raise ConfigError("'readout_weight' needs 'invariant_branch: true'")

    @property
    def num_centres(self) -> int:
        """Size of the distance basis."""
        return int(self.cutoff / self.distance_resolution)

    def reads_branch(self, after_layer: int) -> bool:
        """Whether anything after layer ``after_layer`` (from 0) reads f: a later layer's attention, or the energy."""
        attention_reads = not isinstance(self.attention, tuple) and after_layer < self.num_layers - 1
        return self.invariant_branch and (attention_reads or self.readout_weight != 0)

    @classmethod
    def from_keys(cls, keys: Mapping[str, Any], other_keys: Iterable[str] = ()) -> HDGNNConfig:
        """The configuration with these YAML keys; one-line ``ConfigError`` for an unknown key or a wrong value."""
        return from_keys(cls, keys, owner="HDGNN", other_keys=other_keys)
