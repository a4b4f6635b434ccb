"""eSCN as fairchem models: plain, and as hydra backbone with heads."""

from __future__ import annotations

from typing import Any

from fairchem.core.common.registry import registry
from fairchem.core.models.base import HeadInterface
from torch import Tensor, nn

from fairchem_hdgnn.host.models import BackboneModel, PlainModel, graph_key_names, split_keys
from fairchem_hdgnn.models.escn.config import ESCNConfig
from fairchem_hdgnn.models.escn.network import Backbone, EnergyReadout, ESCNNetwork, make_force_head
from fairchem_hdgnn.models.so3.frame_source import mean_over_draws


@registry.register_model("escn_so2")
class ESCN(PlainModel):
    """eSCN (Passaro & Zitnick, ICML 2023). Keys: :class:`ESCNConfig` and ``GraphSettings``."""

    network: ESCNNetwork

    def __init__(self, **keys: Any) -> None:
        settings, network_keys = split_keys(keys, "eSCN")
        super().__init__(settings, ESCNNetwork(ESCNConfig.from_keys(network_keys, graph_key_names())))


@registry.register_model("escn_so2_backbone")
class ESCNBackbone(BackboneModel):
    """eSCN's layers as a hydra backbone. Keys as for :class:`ESCN`."""

    def __init__(self, **keys: Any) -> None:
        settings, network_keys = split_keys(keys, "eSCN")
        super().__init__(settings, Backbone(ESCNConfig.from_keys(network_keys, graph_key_names())))


@registry.register_model("escn_so2_energy_head")
class ESCNEnergyHead(nn.Module, HeadInterface):
    """Energy of each system from an :class:`ESCNBackbone`."""

    def __init__(self, backbone: ESCNBackbone) -> None:
        super().__init__()
        self.readout = EnergyReadout(backbone.config)
        self.output_name = backbone.output_name

    def forward(self, data: Any, emb: dict[str, Any]) -> dict[str, Tensor]:
        """``{"energy": [num_systems]}``."""
        batch, num_systems = emb["batch"], emb["num_systems"]
        return mean_over_draws(lambda x: {self.output_name: self.readout(x, batch, num_systems)}, emb["draws"])


@registry.register_model("escn_so2_force_head")
class ESCNForceHead(nn.Module, HeadInterface):
    """Direct forces, eV/Å, from an :class:`ESCNBackbone`."""

    def __init__(self, backbone: ESCNBackbone) -> None:
        super().__init__()
        self.readout = make_force_head(backbone.config)
        self.vector_name = backbone.vector_name

    def forward(self, data: Any, emb: dict[str, Any]) -> dict[str, Tensor]:
        """``{"forces": [nodes, 3]}``."""
        return mean_over_draws(lambda x: {self.vector_name: self.readout(x)}, emb["draws"])
