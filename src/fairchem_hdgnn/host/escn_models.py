"""eSCN as fairchem models: plain, and as hydra backbone with heads."""

from __future__ import annotations

from typing import Any

from fairchem.core.common.registry import registry

from fairchem_hdgnn.host.models import BackboneModel, EnergyModel, ForceModel, PlainModel, read_keys
from fairchem_hdgnn.models.escn.config import ESCNConfig
from fairchem_hdgnn.models.escn.network import Backbone, EnergyReadout, ESCNNetwork, make_force_head


@registry.register_model("escn_so2")
class ESCN(PlainModel):
    """eSCN (Passaro & Zitnick, ICML 2023). Keys: :class:`ESCNConfig` and ``GraphSettings``."""

    network: ESCNNetwork

    def __init__(self, **keys: Any) -> None:
        settings, config = read_keys(keys, "eSCN", ESCNConfig)
        super().__init__(settings, ESCNNetwork(config))


@registry.register_model("escn_so2_backbone")
class ESCNBackbone(BackboneModel):
    """eSCN's layers as a hydra backbone. Keys as for :class:`ESCN`."""

    def __init__(self, **keys: Any) -> None:
        settings, config = read_keys(keys, "eSCN", ESCNConfig)
        super().__init__(settings, Backbone(config))


@registry.register_model("escn_so2_energy_head")
class ESCNEnergyHead(EnergyModel):
    """Energy of each system from an :class:`ESCNBackbone`."""

    def __init__(self, backbone: ESCNBackbone) -> None:
        super().__init__(EnergyReadout(backbone.config), backbone)


@registry.register_model("escn_so2_force_head")
class ESCNForceHead(ForceModel):
    """Direct forces, eV/Å, from an :class:`ESCNBackbone`."""

    def __init__(self, backbone: ESCNBackbone) -> None:
        super().__init__(make_force_head(backbone.config), backbone)
