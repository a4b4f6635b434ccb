"""The networks registered as models of fairchem-core 1.10: plain, and as hydra backbone with heads."""

from __future__ import annotations

from fairchem.core.common.registry import registry
from fairchem.core.models.base import BackboneInterface, GraphModelMixin, HeadInterface

from fairchem_hdgnn.host import models
from fairchem_hdgnn.models.escn.network import ESCNNetwork
from fairchem_hdgnn.models.hdgnn.network import HDGNNNetwork


class PlainModel(models.PlainModel, GraphModelMixin):
    """A network as a fairchem model: ``model(batch) -> {"energy": [num_systems], ...}``."""


class BackboneModel(models.BackboneModel, GraphModelMixin, BackboneInterface):
    """The layers of a network as a hydra backbone."""


class EnergyModel(models.EnergyModel, HeadInterface):
    """Energy of each system as a hydra head."""


class ForceModel(models.ForceModel, HeadInterface):
    """Direct forces as a hydra head, eV/Å."""


@registry.register_model("hdgnn")
class HDGNN(PlainModel):
    """HDGNN (An et al., ICLR 2024). Keys: :class:`HDGNNConfig` and :class:`GraphSettings`."""

    architecture = models.HDGNN
    network: HDGNNNetwork


@registry.register_model("hdgnn_backbone")
class HDGNNBackbone(BackboneModel):
    """HDGNN's layers as a hydra backbone. Keys as for :class:`HDGNN`."""

    architecture = models.HDGNN


@registry.register_model("hdgnn_energy_head")
class HDGNNEnergyHead(EnergyModel):
    """Energy of each system from an :class:`HDGNNBackbone`."""


@registry.register_model("hdgnn_force_head")
class HDGNNForceHead(ForceModel):
    """Direct forces, eV/Å, from an :class:`HDGNNBackbone`."""


@registry.register_model("escn_so2")
class ESCN(PlainModel):
    """eSCN (Passaro & Zitnick, ICML 2023). Keys: :class:`ESCNConfig` and :class:`GraphSettings`."""

    architecture = models.ESCN
    network: ESCNNetwork


@registry.register_model("escn_so2_backbone")
class ESCNBackbone(BackboneModel):
    """eSCN's layers as a hydra backbone. Keys as for :class:`ESCN`."""

    architecture = models.ESCN


@registry.register_model("escn_so2_energy_head")
class ESCNEnergyHead(EnergyModel):
    """Energy of each system from an :class:`ESCNBackbone`."""


@registry.register_model("escn_so2_force_head")
class ESCNForceHead(ForceModel):
    """Direct forces, eV/Å, from an :class:`ESCNBackbone`."""
