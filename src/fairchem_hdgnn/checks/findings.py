"""Findings of the checks, one line each."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fairchem.core.common import distutils

from fairchem_hdgnn.errors import ConfigError, UserError
from fairchem_hdgnn.schema import faults

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """Something that will fail (``fatal``) or is likely a mistake.

    Attributes:
        subject: the key, split or file.
        problem: what is wrong.
        remedy: what to do about it; empty if the problem already says so.
        fatal: whether the run would fail.
    """

    subject: str
    problem: str
    remedy: str
    fatal: bool

    def __str__(self) -> str:
        """One line."""
        return f"{self.subject}: {self.problem}" + (f"; {self.remedy}" if self.remedy else "")


def error(subject: str, problem: str, remedy: str = "") -> Finding:
    """A finding that would make the run fail."""
    return Finding(subject, problem, remedy, fatal=True)


def warning(subject: str, problem: str, remedy: str) -> Finding:
    """A finding that does not stop the run."""
    return Finding(subject, problem, remedy, fatal=False)


def finding_of(problem: UserError) -> Finding:
    """Turn an error whose message starts with its subject into a finding."""
    subject, _, text = str(problem).partition(": ")
    return error(subject, text)


def value_findings(subject: str, kind: type, settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Report values in ``settings`` that are invalid for the keys of the dataclass ``kind``; ignore other keys."""
    for fault in faults(kind, settings):
        remedy = f"give {fault.key.allowed}" + (f"; {fault.hint}" if fault.hint else "")
        problem = f"is {fault.value!r}" if fault.key.name in settings else "is missing"
        yield error(f"{subject}.{fault.key.name}", problem, remedy)


def one_line(problem: BaseException) -> str:
    """The message of an exception, in one line of at most about 300 characters."""
    text = " ".join(str(problem).split())
    text = text if len(text) <= 300 else f"{text[:300]}..."
    if isinstance(problem, UserError):
        return text
    if isinstance(problem, KeyError) and problem.args and isinstance(problem.args[0], str):
        return f"the key '{problem.args[0]}' is missing"
    # fairchem raises plain exceptions, whose type name adds nothing to the message.
    if type(problem) is Exception:
        return text.removeprefix("ConfigError: ")
    return f"{type(problem).__name__}: {text}".rstrip(": ")


def stop_or_warn(findings: Iterable[Finding]) -> None:
    """Log the warnings; raise if there are errors.

    Raises:
        ConfigError: all errors in one line.
    """
    findings = list(findings)
    for finding in findings:
        if not finding.fatal and distutils.is_master():
            logger.warning("%s", finding)
    if errors := [str(finding) for finding in findings if finding.fatal]:
        raise ConfigError(" | ".join(errors))
