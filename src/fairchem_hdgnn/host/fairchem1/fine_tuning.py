"""fairchem's trainer with ``optim.fine_tuning``: start from another model's weights, layer-wise rates, freezing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from ase.data import chemical_symbols
from fairchem.core.common import distutils
from fairchem.core.trainers import OCPTrainer
from torch.nn.parallel import DistributedDataParallel

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host.fairchem1.ranks import on_first_rank
from fairchem_hdgnn.host.generations import read_trained
from fairchem_hdgnn.host.layer_rates import SECTION, learning_rate_factors, matching, scale_rates, use_factors
from fairchem_hdgnn.host.sections import FineTuning
from fairchem_hdgnn.host.starting_weights import StartingWeights, starting_weights
from fairchem_hdgnn.host.trained import TrainedNetwork
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

    def load_checkpoint(self, checkpoint_path: str, *args: Any, **kwargs: Any) -> None:
        """As fairchem; a resumed run does not load ``init_from``."""
        super().load_checkpoint(checkpoint_path, *args, **kwargs)
        self._has_weights = True

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

    def _outputs(self, trained: TrainedNetwork) -> dict[str, str]:
        """Output of the file -> this config's target of the same kind."""
        part: Any = getattr(self._unwrapped_model, "backbone", self._unwrapped_model)
        own = {"energy": str(part.output_name), "forces": str(part.vector_name)}
        return {name: own[name] for name in trained.outputs if own[name] in self.output_targets}

    def _check_scales(self, trained: TrainedNetwork) -> None:
        for name, target in self._outputs(trained).items():
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
        for name, target in self._outputs(trained).items():
            if name in trained.scales:
                state = {key: torch.tensor(value) for key, value in trained.scales[name]._asdict().items()}
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
            for name, target in self._outputs(trained).items():
                if name in trained.scales:
                    logger.info("Fine-tuning: normalizer of %s from the file: %s.", target, trained.scales[name])
