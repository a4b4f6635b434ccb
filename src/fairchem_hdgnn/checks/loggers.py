"""Check that the logger of a config can start: its name and the API key of Weights & Biases."""

from __future__ import annotations

import netrc
import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlparse

import wandb
from fairchem.core.common.registry import registry

from fairchem_hdgnn.checks.findings import Finding, error
from fairchem_hdgnn.errors import suggestion

WANDB = ("wandb", "wandb_singleton")
NO_KEY = ("offline", "disabled", "dryrun")
"""Modes of wandb that need no API key."""

DEFAULT = "wandb"
"""fairchem's logger if a config names none."""


def logger_findings(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Check ``logger``; nothing is started or sent."""
    section = config.get("logger", DEFAULT)
    name = section.get("name") if isinstance(section, dict) else section
    known = [*registry.mapping["logger_name_mapping"], "wandb_singleton"]
    if not isinstance(name, str) or not name:
        yield error("logger", "has no name", "write logger: tensorboard, or logger: wandb")
    elif name not in known and "." not in name:
        yield error("logger", f"fairchem has no '{name}'{suggestion(name, known)}", "write tensorboard or wandb")
    elif name in WANDB and not _wandb_can_start():
        named = "is wandb" if "logger" in config else "is missing, so fairchem uses wandb"
        remedy = "write logger: tensorboard, or run `wandb login`, or set WANDB_MODE=offline"
        yield error("logger", f"{named}, but this machine has no API key for it", remedy)


def _wandb_can_start() -> bool:
    """Whether wandb needs no API key or finds one, in the environment or in ``~/.netrc``."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") in NO_KEY:
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        if netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None:
            return True
    except (OSError, netrc.NetrcParseError):
        pass
    return wandb.setup().settings.mode in NO_KEY
