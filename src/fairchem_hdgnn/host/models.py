"""The networks as fairchem models: plain, and as hydra backbone with heads."""

from __future__ import annotations

from typing import Any

from fairchem.core.common.registry import registry
from fairchem.core.models.base import BackboneInterface, HeadInterface
from torch import Tensor, nn

from fairchem_hdgnn.host.graph import GraphSettings, PlainGraphMixin
from fairchem_hdgnn.hyperparameters import from_keys, key_names
from fairchem_hdgnn.models.hdgnn.config import HDGNNConfig
from fairchem_hdgnn.models.hdgnn.network import Backbone, EnergyReadout, HDGNNNetwork, make_force_head
from fairchem_hdgnn.models.so3.frame_source import mean_over_draws


def read_keys(keys: dict[str, Any], owner: str, kind: Any) -> tuple[GraphSettings, Any]:
    """What a model's YAML keys say of the graph and of the network.

    Args:
        keys: of the section ``model``, without the name.
        owner: opens error messages.
        kind: the network's config, ``HDGNNConfig`` or ``ESCNConfig``.

    Raises:
        ConfigError: an unknown key, or a value that cannot be used.
    """
    graph_names = set(key_names(GraphSettings))
    settings = from_keys(GraphSettings, {k: v for k, v in keys.items() if k in graph_names}, owner)
    return settings, kind.from_keys({k: v for k, v in keys.items() if k not in graph_names}, graph_names)


class PlainModel(nn.Module, PlainGraphMixin):
    """A network as a fairchem model: ``model(batch) -> {"energy": [num_systems], ...}``.

    Args:
        settings: graph keys.
        network: the network on plain tensors; its ``config`` has ``cutoff``, ``max_num_elements`` and
            ``regress_forces``.
    """

    def __init__(self, settings: GraphSettings, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        config: Any = network.config
        self.adopt(settings, config.cutoff, config.max_num_elements, config.regress_forces)

    def forward(self, data: Any) -> dict[str, Tensor]:
        """Predict a fairchem batch; units are those of the network's outputs."""
        names = {"energy": self.output_name, "forces": self.vector_name}
        return {names[name]: value for name, value in self.network(*self.plain_graph(data)).items()}


class BackboneModel(nn.Module, PlainGraphMixin, BackboneInterface):
    """The layers of a network as a hydra backbone.

    Args:
        settings: graph keys.
        backbone: the layers on plain tensors, with their ``config`` and the source of edge ``frames``.
    """

    def __init__(self, settings: GraphSettings, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        config: Any = backbone.config
        self.config = config
        self.adopt(settings, config.cutoff, config.max_num_elements, config.regress_forces)

    def forward(self, data: Any) -> dict[str, Any]:
        """``draws``: features of each atom, the coefficients first, for each set of edge frames."""
        numbers, edge_index, edge_vec, batch, num_systems = self.plain_graph(data)
        draw_frames: Any = self.backbone.frames
        frame_draws = draw_frames(edge_vec, numbers[edge_index.T], self.training)
        draws = [self.backbone(numbers, edge_index, edge_vec, frames) for frames in frame_draws]
        return {"draws": draws, "batch": batch, "num_systems": num_systems}


class EnergyModel(nn.Module, HeadInterface):
    """A readout of energies as a hydra head.

    Args:
        readout: ``readout(x, ..., batch, num_systems) -> [num_systems]`` from the features of a backbone.
        backbone: names the output.
    """

    def __init__(self, readout: nn.Module, backbone: BackboneModel) -> None:
        super().__init__()
        self.readout, self.output_name = readout, backbone.output_name

    def forward(self, data: Any, emb: dict[str, Any]) -> dict[str, Tensor]:
        """``{"energy": [num_systems]}``."""
        rest = (emb["batch"], emb["num_systems"])
        return mean_over_draws(lambda features: {self.output_name: self.readout(*features, *rest)}, emb["draws"])


class ForceModel(nn.Module, HeadInterface):
    """A direct force head as a hydra head: eV/Å, from the coefficients of a backbone.

    Args:
        readout: ``readout(x) -> [nodes, 3]``.
        backbone: names the output.
    """

    def __init__(self, readout: nn.Module, backbone: BackboneModel) -> None:
        super().__init__()
        self.readout, self.vector_name = readout, backbone.vector_name

    def forward(self, data: Any, emb: dict[str, Any]) -> dict[str, Tensor]:
        """``{"forces": [nodes, 3]}``."""
        return mean_over_draws(lambda features: {self.vector_name: self.readout(features[0])}, emb["draws"])


@registry.register_model("hdgnn")
class HDGNN(PlainModel):
    """HDGNN (An et al., ICLR 2024). Keys: :class:`HDGNNConfig` and :class:`GraphSettings`."""

    network: HDGNNNetwork

    def __init__(self, **keys: Any) -> None:
        settings, config = read_keys(keys, "HDGNN", HDGNNConfig)
        super().__init__(settings, HDGNNNetwork(config))


@registry.register_model("hdgnn_backbone")
class HDGNNBackbone(BackboneModel):
    """HDGNN's layers as a hydra backbone. Keys as for :class:`HDGNN`."""

    def __init__(self, **keys: Any) -> None:
        settings, config = read_keys(keys, "HDGNN", HDGNNConfig)
        super().__init__(settings, Backbone(config))


@registry.register_model("hdgnn_energy_head")
class HDGNNEnergyHead(EnergyModel):
    """Energy of each system from an :class:`HDGNNBackbone`."""

    def __init__(self, backbone: HDGNNBackbone) -> None:
        super().__init__(EnergyReadout(backbone.config), backbone)


@registry.register_model("hdgnn_force_head")
class HDGNNForceHead(ForceModel):
    """Direct forces, eV/Å, from an :class:`HDGNNBackbone`."""

    def __init__(self, backbone: HDGNNBackbone) -> None:
        super().__init__(make_force_head(backbone.config), backbone)
