"""The card's sections on training data and training settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fairchem_hdgnn.data.statistics import Spread
from fairchem_hdgnn.evaluation.card.markdown import NOT_KNOWN, code, facts, yaml_text
from fairchem_hdgnn.evaluation.card.subject import Subject
from fairchem_hdgnn.evaluation.card.training_data import TrainingData
from fairchem_hdgnn.host.sections import FURTHER_OPTIM_KEYS, Optim
from fairchem_hdgnn.hyperparameters import key_names

PACKAGES = ("fairchem-hdgnn", "fairchem-core", "torch")


def data_section(subject: Subject, data: TrainingData) -> list[str]:
    """Lines of the section on training data."""
    train = subject.record.training_set
    label, unit = subject.label, subject.units[subject.target]
    rows = {
        "training set": code(train["src"]) if train.get("src") else NOT_KNOWN,
        "format": code(train["format"]) if train.get("format") else NOT_KNOWN,
        "label": f"{code(label)}, {unit}" if label else NOT_KNOWN,
        "transforms": ", ".join(map(code, train.get("transforms") or ())) or "none stated in the file",
        "systems": ", ".join(f"{split} {count:,}" for split, count in data.num_systems.items()) or "not counted",
    }
    values = data.statistics.numbers.get(label or "", []) if data.statistics else []
    if values:
        spread = Spread.of(values)
        rows["labels of the training set"] = (
            f"mean {spread.mean:.4f}, standard deviation {spread.std:.4f}, median {spread.median:.4f}, "
            f"from {spread.low:.4f} to {spread.high:.4f} {unit}{data.sampled}"
        )
    return ["## Training data", "", *facts(rows), ""]


def recipe_section(subject: Subject) -> list[str]:
    """Lines of the section on the training."""
    record, optim = subject.record, subject.record.section("optim")
    versions = {name: record.versions.get(name) for name in dict.fromkeys((*PACKAGES, *record.versions))}
    start = optim.get("fine_tuning")
    rate = "max_lr" if optim.get("scheduler") == "OneCycleLR" else "lr_initial"
    rows = {
        **({"fine-tuned": _start(start)} if isinstance(start, dict) else {}),
        "optimizer": _optimizer(optim),
        "learning rate": str(optim[rate]) if rate in optim else NOT_KNOWN,
        "schedule": _schedule(optim),
        "batch size": _batch_size(subject),
        "epochs": _of(record.epoch, optim.get("max_epochs"), "epochs"),
        "steps": NOT_KNOWN if record.step is None else f"{record.step:,} steps",
        "EMA of weights": f"decay {optim['ema_decay']} a step" if optim.get("ema_decay") else _absent(optim),
        "gradient clipping": f"norm {optim['clip_grad_norm']}" if optim.get("clip_grad_norm") else _absent(optim),
        "losses": _losses(record.config.get("loss_functions")),
        "seed": NOT_KNOWN if record.seed is None else str(record.seed),
        **{f"version of {name}": number or NOT_KNOWN for name, number in versions.items()},
        "commit": code(record.commit) if record.commit else NOT_KNOWN,
    }
    return ["## Recipe", "", *facts(rows), "", *_command(subject)]


def _command(subject: Subject) -> list[str]:
    """A command that repeats the training, from the config in the file."""
    record = subject.record
    if not record.section("optim") or not record.section("model"):
        return ["The command and the config of the training are not known.", ""]
    flags = f"--seed {record.seed} " if record.seed is not None else ""
    flags += "--amp " if record.config.get("amp") else ""
    config = {name: part for name, part in record.config.items() if name != "amp"}
    trainer = "fairchem_hdgnn.Trainer" if record.own_trainer else "ocp"
    return [
        "The file does not keep the command of the training. With the config below as `recipe.yml`, and your own paths "
        "in its `dataset`, this trains with the same settings:",
        "",
        "```",
        f"fairchem-hdgnn train --mode train {flags}--config-yml recipe.yml",
        "```",
        "",
        "<details><summary>recipe.yml</summary>",
        "",
        "```yaml",
        yaml_text({"trainer": trainer, "logger": "tensorboard", **config}).replace("```", "'''").rstrip(),
        "```",
        "",
        "</details>",
        "",
    ]


def _start(fine_tuning: Mapping[str, Any]) -> str:
    """Whose weights a fine-tuning started from, and its other keys."""
    options = [f"{name} {code(value)}" for name, value in fine_tuning.items() if name != "init_from"]
    return ", ".join([f"from {code(fine_tuning.get('init_from', 'fresh weights'))}", *options])


def _optimizer(optim: Mapping[str, Any]) -> str:
    if not optim.get("optimizer"):
        return NOT_KNOWN
    params = optim.get("optimizer_params")
    options = dict(params) if isinstance(params, dict) else {}
    if "weight_decay" in optim:
        options["weight_decay"] = optim["weight_decay"]
    return ", ".join([code(optim["optimizer"]), *(f"{name} {value}" for name, value in options.items())])


def _schedule(optim: Mapping[str, Any]) -> str:
    if optim.get("scheduler"):
        known = {*key_names(Optim), *FURTHER_OPTIM_KEYS}
        arguments = [f"{name} {code(value)}" for name, value in optim.items() if name not in known]
        return ", ".join([code(optim["scheduler"]), *arguments])
    parts = []
    if optim.get("warmup_steps"):
        parts.append(f"warm-up over {optim['warmup_steps']} steps from {optim.get('warmup_factor')} times the rate")
    if optim.get("lr_milestones"):
        parts.append(f"times {optim.get('lr_gamma')} at steps {code(optim['lr_milestones'])}")
    return "; ".join(parts) or NOT_KNOWN


def _batch_size(subject: Subject) -> str:
    optim, ranks = subject.record.section("optim"), subject.record.num_ranks
    counts = [optim.get("batch_size"), optim.get("accumulate", 1)]
    if not all(isinstance(count, int) for count in counts):
        return NOT_KNOWN
    factors = f"batch_size {counts[0]} × accumulate {counts[1]}"
    if ranks is None:
        return f"{math.prod(counts)} systems a step on each rank ({factors}); number of ranks: {NOT_KNOWN}"
    return f"{math.prod([*counts, ranks])} systems a step ({factors} × ranks {ranks})"


def _of(done: float | None, planned: Any, unit: str) -> str:
    plan = f" of {planned} planned" if planned is not None else ""
    if done is not None:
        return f"{done:g}{plan} {unit}"
    return f"done: {NOT_KNOWN}; {planned} {unit} planned" if plan else NOT_KNOWN


def _absent(optim: Mapping[str, Any]) -> str:
    return "none" if optim else NOT_KNOWN


def _losses(losses: Any) -> str:
    found = [
        f"{code(loss.get('fn'))} of {code(target)}, coefficient {loss.get('coefficient', 1)}"
        for entry in (losses if isinstance(losses, list) else [])
        if isinstance(entry, dict)
        for target, loss in entry.items()
        if isinstance(loss, dict)
    ]
    return "; ".join(found) or NOT_KNOWN
