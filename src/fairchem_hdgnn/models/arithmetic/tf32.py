"""TF32 for matrix products, allowed or forbidden around a piece of code.

TF32 keeps 10 bits of each factor's mantissa, on GPUs that have it. torch has one setting for the whole process, so
threads that run models side by side should agree on it. Since torch 2.9 there are two interfaces to it:
``torch.set_float32_matmul_precision`` and ``allow_tf32`` are the older one, ``fp32_precision`` of each backend is the
newer one, which products obey. Where the two disagree, asking the older one is an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

_MAY_WARN = torch.__version__.startswith(("2.9.", "2.10."))

# torch's documented attributes cannot set ("mkldnn", "all"): the one that seems to sets ("generic", "all").
_GET: Callable[[str, str], str] | None = getattr(torch._C, "_get_fp32_precision_getter", None)
_SET: Callable[[str, str, str], None] | None = getattr(torch._C, "_set_fp32_precision_setter", None)

_PLACES = (("generic", "all"), ("cuda", "all"), ("cuda", "matmul"), ("mkldnn", "all"), ("mkldnn", "matmul"))
"""Where the newer interface keeps settings for matrix products; ``none`` leaves it to an earlier place."""


def tf32_allowed() -> bool:
    """Whether products of float32 matrices on a GPU may run in TF32 now."""
    return _older_setting() != "highest" if _GET is None else _GET("cuda", "matmul") == "tf32"


@contextmanager
def allow_tf32(allowed: bool) -> Iterator[None]:
    """Products of float32 matrices in TF32, or exact; afterwards torch is set as before, in both interfaces.

    Exact means on a CPU, too, whose oneDNN rounds to bfloat16 after ``torch.set_float32_matmul_precision("medium")``.
    """
    if tf32_allowed() == allowed and (allowed or not _rounds_on_cpu()):
        yield
        return
    restore = _switch(allowed)
    try:
        yield
    finally:
        restore()


def _rounds_on_cpu() -> bool:
    return _GET is not None and _GET("mkldnn", "matmul") in ("tf32", "bf16")


def _switch(allowed: bool) -> Callable[[], None]:
    """Set both interfaces; returns a function that restores them."""
    own = []
    if _GET is not None and _SET is not None:
        for place in _PLACES:
            # With nothing left to inherit, the next place shows its own setting.
            own.append((*place, _GET(*place)))
            _SET(*place, "none")
    before = _older_setting()
    # Not "high", with which oneDNN rounds, too.
    torch.backends.cuda.matmul.allow_tf32 = allowed

    def restore() -> None:
        _set_older(before)
        if _SET is not None:
            for setting in own:
                _SET(*setting)

    return restore


def _older_setting() -> str:
    with _without_advice():
        return torch.get_float32_matmul_precision()


def _set_older(name: str) -> None:
    with _without_advice():
        torch.set_float32_matmul_precision(name)


@contextmanager
def _without_advice() -> Iterator[None]:
    """torch 2.9 warns if the older interface is used; 2.10 has not been tested."""
    if not _MAY_WARN:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
