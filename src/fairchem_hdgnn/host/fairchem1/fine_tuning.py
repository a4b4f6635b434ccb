"""fairchem's trainer with ``optim.fine_tuning``: start from another model's weights, layer-wise rates, freezing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from ase.data import chemical_symbols
from fairchem.core.common import distutils
from fairchem.core.modules.exponential_moving_average import ExponentialMovingAverage
from fairchem.core.trainers import OCPTrainer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.host.fairchem1.ranks import on_first_rank
from fairchem_hdgnn.host.generations import read_trained
from fairchem_hdgnn.host.layer_rates import SECTION, learning_rate_factors, matching, scale_rates, use_factors
from fairchem_hdgnn.host.sections import FineTuning
from fairchem_hdgnn.host.starting_weights import StartingWeights, output_of, starting_weights
from fairchem_hdgnn.host.trained import IDENTITY, TrainedNetwork
from fairchem_hdgnn.hyperparameters import from_keys

logger = logging.getLogger(__name__)

OWN_RATES = ("CyclicLR",)
"""Schedules that set one range of learning rates for all parameters."""


def fine_tuning_of(config: Mapping[str, Any]) -> FineTuning:
    """The section ``optim.fine_tuning`` of a config; defaults if it is missing.

    Raises:
        ConfigError: an unknown key or a value that cannot be used.
    """
    section = (config.get("optim") or {}).get("fine_tuning") or {}
    if not isinstance(section, Mapping):
        raise ConfigError(f"{SECTION}: is {section!r}; give init_from, freeze and so on")
    return from_keys(FineTuning, section, SECTION)


def check_start(config: Mapping[str, Any]) -> None:
    """Check that ``init_from`` can be read, before a job is submitted.

    Raises:
        DataError: it cannot be read.
        ConfigError: the section or the model in the file cannot be used.
    """
    path = fine_tuning_of(config).init_from
    if path is not None:
        read_trained(path)


def averages_of_all(model: nn.Module, decay: float) -> ExponentialMovingAverage:
    """Averages (EMA) of all parameters, as readers of checkpoints expect; fairchem's class leaves out frozen ones."""
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    averages = ExponentialMovingAverage(model.parameters(), decay)
    for parameter in frozen:
        parameter.requires_grad_(False)
    return averages


class FineTuningTrainer(OCPTrainer):
    """The part of the trainer that implements ``optim.fine_tuning``; without that section it is fairchem's trainer."""

    model: Any

    def load_optimizer(self) -> None:
        """As fairchem, but without frozen parameters and with a learning rate for each layer.

        Raises:
            ConfigError: a pattern matches no parameter, or all are frozen.
        """
        super().load_optimizer()
        self._has_weights = False
        self.fine_tuning = fine_tuning_of(self.config)
        factors = learning_rate_factors(self._unwrapped_model, self.fine_tuning)
        if self.fine_tuning.layer_decay != 1.0 or self.fine_tuning.learning_rates or self.fine_tuning.freeze:
            use_factors(self.optimizer, self._unwrapped_model, factors)

    def load_extras(self) -> None:
        """As fairchem, but the schedule scales each layer's rate, and frozen parameters need no gradient.

        Raises:
            ConfigError: a schedule that sets one range of rates for all layers.
        """
        super().load_extras()
        scheduler = self.scheduler.scheduler_type
        different = any(group.get("factor", 1.0) != 1.0 for group in self.optimizer.param_groups)
        if different and scheduler in OWN_RATES:
            raise ConfigError(f"optim.scheduler {scheduler}: sets one rate for all layers; choose another scheduler")
        if different and scheduler == "OneCycleLR":
            # Its rates come from max_lr, which has replaced those of the groups.
            scale_rates(self.optimizer)
        self._freeze()

    def _freeze(self) -> None:
        # Averages (EMA) cover all parameters, including frozen ones, as readers of checkpoints assume.
        frozen = matching(self._unwrapped_model, self.fine_tuning.freeze or (), f"{SECTION}.freeze")
        if not frozen:
            return
        for name, parameter in self._unwrapped_model.named_parameters():
            if name in frozen:
                parameter.requires_grad_(False)
        if isinstance(self.model, DistributedDataParallel):
            # DDP expects a gradient for each parameter that required one when it was constructed.
            self.model = DistributedDataParallel(self._unwrapped_model)
        if distutils.is_master():
            total = sum(1 for _ in self._unwrapped_model.parameters())
            logger.info("Fine-tuning: %d of %d parameters are frozen.", len(frozen), total)

    def load_checkpoint(
        self, checkpoint_path: str, checkpoint: dict | None = None, inference_only: bool = False
    ) -> None:
        """As fairchem; a resumed run does not load ``init_from``.

        Raises:
            DataError: the optimizer's state in the file belongs to other groups of parameters.
        """
        if not inference_only and checkpoint is not None and "optimizer" in checkpoint:
            before = fine_tuning_of(checkpoint["config"])
            if self._groups(before) != self._groups(self.fine_tuning):
                raise DataError(
                    f"{checkpoint_path}: was trained with other groups of parameters ({SECTION}: freeze, layer_decay "
                    "or learning_rates), so it has no optimizer state for these; keep them, or start a new training "
                    f"from its weights: --init-from {checkpoint_path} and another --timestamp-id"
                )
        super().load_checkpoint(checkpoint_path, checkpoint, inference_only)
        self._has_weights = True

    def _groups(self, settings: FineTuning) -> list[set[str]]:
        """Names of the parameters that share a learning rate, in the order of the optimizer's groups."""
        factors = learning_rate_factors(self._unwrapped_model, settings)
        return [
            {name for name, factor in factors.items() if factor == own}
            for own in sorted({*factors.values()} - {0.0}, reverse=True)
        ]

    def initialise(self) -> None:
        """Load the weights of ``init_from``, once, unless a checkpoint has been loaded. Collective.

        Raises:
            DataError: the file cannot be read, or its weights do not match.
            ConfigError: it has a model of another architecture, or the config lacks a normalizer that its heads need.
        """
        path = self.fine_tuning.init_from
        if path is None or self._has_weights:
            return
        self._has_weights = True
        found: list[tuple[TrainedNetwork, StartingWeights]] = []
        on_first_rank(lambda: found.append(self._read(path)), self.device)
        trained, start = found[0] if found else self._read(path)
        start.copy_into(self._unwrapped_model)
        if self.ema is not None:
            self.ema.shadow_params = [parameter.detach().clone() for parameter in self._unwrapped_model.parameters()]
        if self.fine_tuning.keeps_normalizer:
            self._take_scales(trained)
        if distutils.is_master():
            self._say(trained, start)

    def _read(self, path: str) -> tuple[TrainedNetwork, StartingWeights]:
        trained = read_trained(path)
        keys = {key: value for key, value in self.config["model"].items() if key != "name"}
        if "backbone" in keys:
            keys = {key: value for key, value in keys["backbone"].items() if key != "model"}
        keep_heads = self.fine_tuning.heads == "kept"
        start = starting_weights(self._unwrapped_model, keys, trained, keep_heads=keep_heads)
        if self.fine_tuning.keeps_normalizer:
            self._check_scales(trained)
        return trained, start

    def _outputs(self, trained: TrainedNetwork) -> list[tuple[str, str]]:
        """Outputs of the file, each with a target of this config whose head takes over its weights."""
        model = self._unwrapped_model
        if hasattr(model, "output_heads"):
            own = [(output_of(head), str(target)) for target, head in model.output_heads.items()]
        else:
            own = [("energy", str(model.output_name)), ("forces" if model.vector_name == "forces" else None, "forces")]
        return [(name, target) for name, target in own if name in trained.outputs and target in self.output_targets]

    def _check_scales(self, trained: TrainedNetwork) -> None:
        for name, target in self._outputs(trained):
            parts: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
                "normalizer": (trained.scales, self.normalizers),
                "element_references": (trained.references, self.elementrefs),
            }
            for part, (there, here) in parts.items():
                if name in there and target not in here:
                    raise ConfigError(
                        f"dataset.train.transforms.{part}.{target}: missing, but the heads of {trained.source} need "
                        f"it; add it (its numbers are replaced by the file's), or set {SECTION}.heads: fresh"
                    )
            if name not in trained.references and target in self.elementrefs:
                raise ConfigError(
                    f"dataset.train.transforms.element_references.{target}: {trained.source} was trained without; set "
                    f"{SECTION}.heads: fresh, or remove it if the labels are energies of the same kind"
                )

    def _take_scales(self, trained: TrainedNetwork) -> None:
        for name, target in self._outputs(trained):
            if target in self.normalizers:
                scale = trained.scales.get(name, IDENTITY)
                state = {key: torch.tensor(value) for key, value in scale._asdict().items()}
                self.normalizers[target].load_state_dict(state)
            if name in trained.references:
                references = self.elementrefs[target].element_references
                if references.shape != trained.references[name].shape:
                    raise ConfigError(
                        f"dataset.train.transforms.element_references.{target}: has {len(references)} elements, but "
                        f"{trained.source} has {len(trained.references[name])}; set {SECTION}.heads: fresh"
                    )
                theirs = trained.references[name].to(references)
                new = (references != 0) & (theirs == 0)
                if bool(new.any()) and distutils.is_master():
                    symbols = ", ".join(chemical_symbols[number] for number in new.nonzero().flatten().tolist())
                    logger.info("Fine-tuning: the file has no energy for %s; the config's is kept.", symbols)
                references.copy_(torch.where(new, references, theirs))

    def _say(self, trained: TrainedNetwork, start: StartingWeights) -> None:
        start.announce(trained)
        if self.fine_tuning.keeps_normalizer:
            for name, target in self._outputs(trained):
                if target in self.normalizers:
                    scale = trained.scales.get(name, IDENTITY)
                    origin = "from the file" if name in trained.scales else "none, as in the file"
                    logger.info("Fine-tuning: normalizer of %s %s: %s.", target, origin, scale)
