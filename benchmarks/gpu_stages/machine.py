"""The measured code, and the machine."""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import e3nn
import torch

ROOT = Path(__file__).parents[2]


def machine(device: torch.device) -> dict[str, Any]:
    """GPU, versions, and a digest that identifies the code."""
    facts = {
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "e3nn": e3nn.__version__,
        "code": code_digest(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "multiprocessors": properties.multi_processor_count,
            "memory_gb": round(properties.total_memory / 1e9, 1),
            "capability": ".".join(map(str, torch.cuda.get_device_capability())),
            "cuda": torch.version.cuda,
            "driver": _driver(),
        }
    return facts


def code_digest() -> str:
    """SHA-256, shortened, of all Python files of the package and of this benchmark."""
    digest = hashlib.sha256()
    for path in sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "benchmarks/gpu_stages").glob("*.py")]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _version(module: str) -> str | None:
    if importlib.util.find_spec(module) is None:
        return None
    return importlib.import_module(module).__version__


def _driver() -> str | None:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
