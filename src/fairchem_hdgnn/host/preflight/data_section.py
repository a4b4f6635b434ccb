"""The ``dataset`` section of a config: parts of the wrong kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fairchem_hdgnn.host.preflight.findings import Finding, error, value_findings
from fairchem_hdgnn.host.sections import Split


def data_section_findings(section: Any) -> Iterator[Finding]:
    """Check that splits are mappings, sources are paths, and so on; the files themselves are not looked at.

    Args:
        section: settings by split, or a list of them, or those of the training data alone.
    """
    if isinstance(section, list):
        section = dict(zip(("train", "val", "test"), section))
    if not isinstance(section, dict):
        return
    for split, settings in ({"train": section} if "src" in section else section).items():
        if settings is None:
            continue
        if not isinstance(settings, dict):
            yield error(f"dataset.{split}", f"is {settings!r}", "give src, format and so on")
            continue
        yield from _split_findings(f"dataset.{split}", settings)


def _split_findings(subject: str, settings: dict[str, Any]) -> Iterator[Finding]:
    yield from value_findings(subject, Split, settings)
    transforms = settings.get("transforms")
    normalizer = transforms.get("normalizer") if isinstance(transforms, dict) else None
    parts = normalizer.items() if isinstance(normalizer, dict) else [("", normalizer or {})]
    for name, value in parts:
        if name not in ("file", "fit") and not isinstance(value, dict):
            yield error(f"{subject}.transforms.normalizer", f"holds {value!r}", "give {energy: {mean: 0, stdev: 1}}")
