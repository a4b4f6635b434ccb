"""HDGNN's hyper-parameters. The YAML keys of the model are the fields of :class:`HDGNNConfig`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.hdgnn.options import (
    Activations,
    Antipode,
    Attention,
    GateInputs,
    Implementation,
    LayerNorm,
    Message,
    Mlp,
    NeuralInput,
    Preset,
    TensorProduct,
)
from fairchem_hdgnn.hyperparameters import checked, choice, from_keys, integer, real, switch
from fairchem_hdgnn.so3.frames import FrameMode

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
    },
}
"""Defaults that differ between the presets. ``mmax`` is ``lmax`` where a preset does not set it."""

NUM_TERMS = 4
"""Terms of eq. 11: source, target, pair, tensor product."""

FixedAttention = tuple[float, ...]


def _attention(value: Any) -> Attention | FixedAttention:
    if isinstance(value, (list, tuple)):
        if len(value) != NUM_TERMS or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value):
            raise ConfigError(f"as a list must hold {NUM_TERMS} numbers, not {list(value)!r}")
        return tuple(float(v) for v in value)
    try:
        return Attention(value)
    except ValueError:
        raise ConfigError(f"is {value!r}, not sigmoid, softmax or a list of {NUM_TERMS} numbers") from None


@dataclass(frozen=True)
class HDGNNConfig:
    """Hyper-parameters of the network. Keys left out (``None``) are filled by the preset or from other keys.

    The four that matter most, with the paper's names: ``lmax`` (L), ``lmax_metp`` (L'), ``num_layers`` (K),
    ``sphere_channels`` (C).

    Attributes:
        preset: ``paper`` or ``authors``; fills the options below that are left out.
        lmax: largest degree L of the node embedding. Cost of the networks grows as L (``mmax: 1``) or L**2.
        lmax_metp: largest degree L' of the tensor product's result, at most ``lmax``; 2 if absent.
        num_layers: message-passing rounds K.
        sphere_channels: channels C of each coefficient.
        mmax: largest order that the networks see.
        hidden_channels: hidden width of NN_1 and NN_2; most of the parameters and of the time.
        edge_channels: width of the edge features.
        invariant_channels: width of the invariant branch f.
        cutoff: Å; the distance basis spans [0, cutoff].
        distance_resolution: Å between centres of the distance basis.
        basis_width: width of the basis functions in units of that distance.
        max_num_elements: atomic numbers must be below it.
        num_resolutions: 1, or 2: the nearest neighbours at full size, the others at lower degree and width.
        near_neighbors: how many neighbours are "nearest" with two resolutions.
        lmax_far: degree of the far block; ``max(4, lmax - 2)``, at most ``lmax``, if absent.
        hidden_channels_far: hidden width of the far block; a quarter of ``hidden_channels`` if absent.
        message: hybrid (eq. 11) or one of Table 3's alternatives.
        tensor_product: METP (eq. 7) or the fully connected product.
        attention: sigmoid, softmax, or four fixed coefficients (Table 4).
        gate_inputs: what the attention network sees.
        full_degree_product: a fifth term, one channel of all degrees, spread over channels by its gate.
        output_activation: a SiLU after the second layer of NN_1 and NN_2.
        mlp: shared or separate networks.
        neural_input: NN(x'') + NN(x), or NN(x').
        extra_linear: equivariant linear layers on x_i and x_j before the message (Table 5).
        layer_norm: normalisation of x before the message.
        feature_scale: constant factor on the normalised x.
        invariant_branch: without it, the attention network sees edge features alone.
        branch_scale: constant factor on the sum in the invariant branch.
        antipodal: whether the update sees f(-r).
        shortcut: whether the update sees x beside the message.
        squeeze_excitation: channel attention inside the update.
        readout_weight: lambda of section 3.4: the weight of NN(f^K) in the energy.
        num_sphere_samples: sample points of the output heads.
        energy_scale: constant factor on the energy.
        regress_forces: adds a direct force head.
        frames: where the roll of edge frames comes from in training; evaluation is always reproducible.
        frame_seed: seed of random and seeded rolls.
        frame_average: number of seeded draws averaged at evaluation; cost grows in proportion.
        activations: whether training stores the networks' activations or computes them again.
        implementation: fast, fast with kernels for GPUs, or the plain equations.
    """

    preset: Preset = choice(Preset, Preset.PAPER)
    lmax: int = integer(6, minimum=0, maximum=10)
    lmax_metp: int = integer(None, minimum=0)
    num_layers: int = integer(16, maximum=1000)
    sphere_channels: int = integer(128, maximum=65536)
    mmax: int = integer(None, minimum=0)
    hidden_channels: int = integer(512, maximum=65536)
    edge_channels: int = integer(128, maximum=65536)
    invariant_channels: int = integer(256, maximum=65536)
    cutoff: float = real(8.0, above=0.0)
    distance_resolution: float = real(0.02, above=0.0)
    basis_width: float = real(2.0, above=0.0)
    max_num_elements: int = integer(90, minimum=2)
    num_resolutions: int = integer(None, maximum=2)
    near_neighbors: int = integer(12)
    lmax_far: int = integer(None, minimum=0)
    hidden_channels_far: int = integer(None)
    message: Message = choice(Message, Message.HYBRID)
    tensor_product: TensorProduct = choice(TensorProduct, TensorProduct.METP)
    attention: Attention | FixedAttention = checked(Attention.SIGMOID, _attention)
    gate_inputs: GateInputs = choice(GateInputs, None)
    full_degree_product: bool = switch(None)
    output_activation: bool = switch(None)
    mlp: Mlp = choice(Mlp, Mlp.SHARED)
    neural_input: NeuralInput = choice(NeuralInput, NeuralInput.SPLIT)
    extra_linear: bool = switch(False)
    layer_norm: LayerNorm = choice(LayerNorm, None)
    feature_scale: float = real(None, above=0.0)
    invariant_branch: bool = switch(True)
    branch_scale: float = real(None, above=0.0)
    antipodal: Antipode = choice(Antipode, Antipode.EXACT)
    shortcut: bool = switch(True)
    squeeze_excitation: bool = switch(None)
    readout_weight: float = real(0.0)
    num_sphere_samples: int = integer(128)
    energy_scale: float = real(1.0)
    regress_forces: bool = switch(False)
    frames: FrameMode = choice(FrameMode, FrameMode.RANDOM)
    frame_seed: int = integer(0, minimum=0)
    frame_average: int = integer(1)
    activations: Activations = choice(Activations, Activations.STORE)
    implementation: Implementation = choice(Implementation, Implementation.FAST)

    def __post_init__(self) -> None:
        """Fill what the preset decides and check that the keys fit together."""
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
        if self.cutoff < 2 * self.distance_resolution:
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
