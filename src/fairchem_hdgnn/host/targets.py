"""The target of a checkpoint, as far as its file says, and whether two checkpoints have the same target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fairchem_hdgnn.data.qm9_targets import TARGETS
from fairchem_hdgnn.data.statistics import LABELS
from fairchem_hdgnn.host.trained import Scale, TrainedNetwork

LARGEST_RATIO = 100.0
"""Largest ratio between the normalizers of one target; eV and meV differ by a factor of a thousand."""


@dataclass(frozen=True)
class Target:
    """What a checkpoint predicts.

    Attributes:
        outputs: names such as ``energy``, ``gap`` and ``forces``, without auxiliary vectors of the training.
        label: name in the records of the energy's label, or of the first output's if there is no energy; ``None`` if
            the file does not say.
        scale: normalizer of that output; ``None`` if it has none.
        references: whether energies of the elements are added to it.
    """

    outputs: tuple[str, ...]
    label: str | None
    scale: Scale | None
    references: bool = False

    @property
    def unit(self) -> str:
        """Of the energy, or of the first output if there is no energy; see :func:`unit_of`."""
        return unit_of("energy" if "energy" in self.outputs else next(iter(self.outputs), "energy"), self.label)

    def difference(self, other: Target) -> tuple[str, str] | None:
        """How the target differs from ``other``: a phrase for each of the two; ``None`` if it does not."""
        if set(self.outputs) != set(other.outputs):
            return f"predicts {', '.join(self.outputs)}", f"predicts {', '.join(other.outputs)}"
        if self.label and other.label and self.label != other.label:
            return f"learnt '{self.label}'", f"learnt '{other.label}'"
        if self.references != other.references:
            words = {True: "adds energies of the elements", False: "does not add energies of the elements"}
            return words[self.references], words[other.references]
        if self.scale and other.scale and not _alike(self.scale, other.scale):
            return _in_words(self.scale), _in_words(other.scale)
        return None


def unit_of(output: str, label: str | None) -> str:
    """eV, or the unit of one of QM9's targets; a phrase that refers to the label if only that has the unit.

    Args:
        output: name of the output of a whole structure.
        label: its name in the records, if known.
    """
    if output in TARGETS:
        return TARGETS[output].unit
    if output == "energy" and label in {None, *LABELS}:
        return "eV"
    return f"(unit of the label '{label}')" if label else "(unit of the labels)"


def target_of_config(
    config: Mapping[str, Any], normalizers: Mapping[str, Any], references: Mapping[str, Any]
) -> Target:
    """The target of a checkpoint of fairchem-core 1.10.

    Args:
        config: config in the current format.
        normalizers: name of an output -> state of its normalizer.
        references: the same of its element references.
    """
    model = config["model"]
    vector = model.get("backbone", model).get("vector_name", "forces")
    outputs = tuple(name for name in config.get("outputs") or () if name == "forces" or name != vector)
    main = "energy" if "energy" in outputs else next(iter(outputs), "energy")
    state = normalizers.get(main)
    scale = Scale.of_state(state) if state else None
    return Target(outputs, label_of(config.get("dataset") or {}, main), scale, bool(references.get(main)))


def target_of_network(trained: TrainedNetwork) -> Target:
    """The target of a trained network; files of fairchem-core 2 do not store labels."""
    label = label_of(trained.dataset, trained.target) if trained.dataset else None
    outputs = (trained.target, *trained.outputs[1:])
    return Target(outputs, label, trained.scales.get("energy"), "energy" in trained.references)


def label_of(dataset: Mapping[str, Any], output: str) -> str:
    """Name in the records of an output's label.

    Args:
        dataset: settings of the training data.
        output: name in the trainer.
    """
    mapping = dataset.get("key_mapping") or {}
    return next((before for before, after in mapping.items() if after == output), output)


def _alike(first: Scale, second: Scale) -> bool:
    small, large = sorted((first.rmsd, second.rmsd))
    return large <= LARGEST_RATIO * small and abs(first.mean - second.mean) <= LARGEST_RATIO * large


def _in_words(scale: Scale) -> str:
    return f"has a normalizer of {scale.mean:.4g} ± {scale.rmsd:.4g}"
