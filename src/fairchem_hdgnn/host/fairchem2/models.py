"""The networks as backbones and heads of fairchem-core 2, named by dotted path in its YAML.

``model: fairchem_hdgnn.HDGNNBackbone`` for the backbone and ``module: fairchem_hdgnn.HDGNNEnergyHead`` for a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from fairchem.core.models.base import BackboneInterface, HeadInterface
from fairchem.core.models.base import HydraModel as FairchemHydraModel
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor, nn

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host import models
from fairchem_hdgnn.host.fairchem2.fine_tuning import take_weights

if TYPE_CHECKING:
    from ase import Atoms


@dataclass
class RegressConfig:
    """Settings that fairchem reads before it loads a checkpoint: no output is a gradient of the energy."""

    direct_forces: bool = True
    forces: bool = False
    stress: bool = False
    hessian: bool = False
    hessian_vmap: bool = True


class BackboneModel(models.BackboneModel, BackboneInterface):
    """The layers of a network as a backbone.

    Args:
        keys: keys of the architecture's config and of ``GraphSettings``, except ``output_name`` and ``vector_name``:
            a head's outputs have the names of fairchem's properties.
    """

    def __init__(self, **keys: Any) -> None:
        for name in ("output_name", "vector_name"):
            if name in keys:
                raise ConfigError(f"backbone: '{name}' is a key for fairchem-core 1.10; name the task instead")
        super().__init__(**{key: plain_value(value) for key, value in keys.items()})
        self.regress_config = RegressConfig(forces=self.config.regress_forces)

    @torch.compiler.disable
    def forward(self, data: Any) -> dict[str, Any]:
        """``draws``: features of each atom, the coefficients first, for each set of edge frames."""
        # fairchem's element references read these; they are complete even if a graph is spread over GPUs.
        data["atomic_numbers_full"], data["batch_full"] = data["atomic_numbers"], data["batch"]
        return super().forward(data)

    @classmethod
    def build_inference_settings(cls, settings: Any) -> dict[str, Any]:
        """Change no keys for inference."""
        return {}

    def get_default_untrained_tasks(self, checkpoint_tasks: Mapping[str, Any], inference_settings: Any) -> list[Any]:
        """Return no tasks: no property is a gradient of another."""
        return []

    def validate_tasks(self, dataset_to_tasks: Mapping[str, Sequence[Any]]) -> None:
        """Refuse tasks without a head.

        Raises:
            ConfigError: stress or a Hessian.
        """
        for task in (task for tasks in dataset_to_tasks.values() for task in tasks):
            if task.property in ("stress", "hessian"):
                raise ConfigError(f"task '{task.name}': there is no head for '{task.property}', only energy and forces")

    def prepare_for_inference(self, data: Any, settings: Any) -> BackboneModel:
        """Return the same backbone."""
        return self

    def on_predict_check(self, data: Any) -> None:
        """Do nothing: structures are checked in every forward pass."""

    def validate_atoms_data(self, atoms: Atoms, task_name: str) -> None:
        """Set charge and spin, which fairchem requires but the models do not use."""
        atoms.info.setdefault("charge", 0)
        atoms.info.setdefault("spin", 0)


def plain_value(value: Any) -> Any:
    """Convert a YAML value to plain Python, without OmegaConf's wrappers."""
    return OmegaConf.to_container(value, resolve=True) if isinstance(value, (DictConfig, ListConfig)) else value


class EnergyModel(models.EnergyModel, HeadInterface):
    """Energy of each system as a head."""

    @torch.compiler.disable
    def forward(self, data: Any, emb: dict[str, Any]) -> dict[str, Tensor]:
        """``{"energy": [num_systems]}``."""
        return super().forward(data, emb)


class ForceModel(models.ForceModel, HeadInterface):
    """Direct forces as a head, eV/Å."""

    @torch.compiler.disable
    def forward(self, data: Any, emb: dict[str, Any]) -> dict[str, Tensor]:
        """``{"forces": [nodes, 3]}``."""
        return super().forward(data, emb)


class HDGNNBackbone(BackboneModel):
    """HDGNN's layers (An et al., ICLR 2024). Keys: :class:`HDGNNConfig` and :class:`GraphSettings`."""

    architecture = models.HDGNN


class HDGNNEnergyHead(EnergyModel):
    """Energy of each system from an :class:`HDGNNBackbone`."""


class HDGNNForceHead(ForceModel):
    """Direct forces, eV/Å, from an :class:`HDGNNBackbone`."""


class ESCNBackbone(BackboneModel):
    """eSCN's layers (Passaro & Zitnick, ICML 2023). Keys: :class:`ESCNConfig` and :class:`GraphSettings`."""

    architecture = models.ESCN


class ESCNEnergyHead(EnergyModel):
    """Energy of each system from an :class:`ESCNBackbone`."""


class ESCNForceHead(ForceModel):
    """Direct forces, eV/Å, from an :class:`ESCNBackbone`."""


class HydraModel(FairchemHydraModel):
    """fairchem's model of a backbone and heads, without weight decay of biases and embeddings.

    Args:
        init_from: checkpoint whose weights it starts from; see ``take_weights``. Read again when a run resumes.
        init_heads: ``kept``, with the normalizer of the file in the tasks, or ``fresh``.
        keys: fairchem's keys.
    """

    def __init__(self, init_from: str | None = None, init_heads: str = "kept", **keys: Any) -> None:
        super().__init__(**keys)
        if init_from is not None:
            given = {name: plain_value(value) for name, value in keys.items()}
            take_weights(self, given["backbone"], init_from, init_heads)
            # fairchem writes this config into checkpoints, which then load without the file.
            self.finetune_model_full_config = {"_target_": "fairchem_hdgnn.HydraModel", **given}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay: biases and embeddings, as under fairchem-core 1.10."""
        return {name for name, _ in nn.Module.named_parameters(self) if "bias" in name or "embedding" in name}
