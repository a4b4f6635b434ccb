"""The networks as models that take batches: plain, or as backbone and heads. Each host adds its own interfaces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from fairchem_hdgnn.host.graph import GraphSettings, PlainGraphMixin
from fairchem_hdgnn.hyperparameters import from_keys, key_names
from fairchem_hdgnn.models.escn import network as escn
from fairchem_hdgnn.models.escn.config import ESCNConfig
from fairchem_hdgnn.models.hdgnn import network as hdgnn
from fairchem_hdgnn.models.hdgnn.config import HDGNNConfig
from fairchem_hdgnn.models.so3.frame_source import mean_over_draws


@dataclass(frozen=True)
class Architecture:
    """The parts of a network.

    Attributes:
        name: error messages start with it.
        config: class of its keys.
        network: layers and heads; its ``config`` has ``cutoff``, ``max_num_elements`` and ``regress_forces``.
        backbone: the layers, with their ``config`` and the source of edge ``frames``.
        energy: ``energy(config)(x, ..., batch, num_systems) -> [num_systems]`` from the features of a backbone.
        forces: ``forces(config)(x) -> [nodes, 3]`` from the coefficients.
    """

    name: str
    config: Any
    network: Callable[[Any], nn.Module]
    backbone: Callable[[Any], nn.Module]
    energy: Callable[[Any], nn.Module]
    forces: Callable[[Any], nn.Module]


HDGNN = Architecture(
    "HDGNN", HDGNNConfig, hdgnn.HDGNNNetwork, hdgnn.Backbone, hdgnn.EnergyReadout, hdgnn.make_force_head
)
ESCN = Architecture("eSCN", ESCNConfig, escn.ESCNNetwork, escn.Backbone, escn.EnergyReadout, escn.make_force_head)


def read_keys(keys: dict[str, Any], architecture: Architecture) -> tuple[GraphSettings, Any]:
    """Split a model's YAML keys into those of the graph and those of the network.

    Args:
        keys: keys of the section ``model``, without the name.
        architecture: architecture of the model.

    Raises:
        ConfigError: an unknown key, or a value that cannot be used.
    """
    graph_names = set(key_names(GraphSettings))
    own = {key: value for key, value in keys.items() if key in graph_names}
    settings = from_keys(GraphSettings, own, architecture.name)
    others = {key: value for key, value in keys.items() if key not in graph_names}
    return settings, architecture.config.from_keys(others, graph_names)


class PlainModel(nn.Module, PlainGraphMixin):
    """A network as a model that takes batches: ``model(batch) -> {output_name: [num_systems], ...}``.

    Args:
        keys: those of the architecture's config and of :class:`GraphSettings`.
    """

    architecture: ClassVar[Architecture]

    def __init__(self, **keys: Any) -> None:
        super().__init__()
        settings, config = read_keys(keys, self.architecture)
        self.network: Any = self.architecture.network(config)
        self.adopt(settings, config.cutoff, config.max_num_elements, config.regress_forces)

    def forward(self, data: Any) -> dict[str, Tensor]:
        """Predict a batch, in the units of the network's outputs."""
        names = {"energy": self.output_name, "forces": self.vector_name}
        return {names[name]: value for name, value in self.network(*self.plain_graph(data)).items()}


class BackboneModel(nn.Module, PlainGraphMixin):
    """The layers of a network as the backbone of a hydra model.

    Args:
        keys: those of the architecture's config and of :class:`GraphSettings`.
    """

    architecture: ClassVar[Architecture]

    def __init__(self, **keys: Any) -> None:
        super().__init__()
        settings, self.config = read_keys(keys, self.architecture)
        self.backbone: Any = self.architecture.backbone(self.config)
        self.adopt(settings, self.config.cutoff, self.config.max_num_elements, self.config.regress_forces)

    def forward(self, data: Any) -> dict[str, Any]:
        """``draws``: features of each atom, the coefficients first, for each set of edge frames."""
        numbers, edge_index, edge_vec, batch, num_systems = self.plain_graph(data)
        frame_draws = self.backbone.frames(edge_vec, numbers[edge_index.T], self.training)
        draws = [self.backbone(numbers, edge_index, edge_vec, frames) for frames in frame_draws]
        return {"draws": draws, "batch": batch, "num_systems": num_systems}


class EnergyModel(nn.Module):
    """The energy readout as a head, in eV or the trainer's normalised unit.

    Args:
        backbone: backbone that determines the architecture, its config and the name of the output.
    """

    def __init__(self, backbone: BackboneModel) -> None:
        super().__init__()
        self.readout = backbone.architecture.energy(backbone.config)
        self.output_name = backbone.output_name

    def forward(self, data: Any, emb: dict[str, Any]) -> dict[str, Tensor]:
        """``{output_name: [num_systems]}``."""
        rest = (emb["batch"], emb["num_systems"])
        return mean_over_draws(lambda features: {self.output_name: self.readout(*features, *rest)}, emb["draws"])


class ForceModel(nn.Module):
    """Direct forces as a head, eV/Å, from the coefficients of a backbone.

    Args:
        backbone: backbone that determines the architecture, its config and the name of the output.
    """

    def __init__(self, backbone: BackboneModel) -> None:
        super().__init__()
        self.readout = backbone.architecture.forces(backbone.config)
        self.vector_name = backbone.vector_name

    def forward(self, data: Any, emb: dict[str, Any]) -> dict[str, Tensor]:
        """``{vector_name: [nodes, 3]}``."""
        return mean_over_draws(lambda features: {self.vector_name: self.readout(features[0])}, emb["draws"])
