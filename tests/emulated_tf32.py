"""A GPU that has TF32, emulated on a CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fairchem_hdgnn.models.arithmetic import sums
from fairchem_hdgnn.models.edges import EdgeBlock, Edges
from fairchem_hdgnn.models.ops import packed_matrix

aten = torch.ops.aten
PRODUCTS = ("mm", "bmm", "mv", "dot", "linear", "matmul", "einsum", "_euclidean_dist", "_cdist_forward")
SUMS_OF_PRODUCTS = (
    "addmm",
    "addmm_",
    "_addmm_activation",
    "baddbmm",
    "baddbmm_",
    "addbmm",
    "addbmm_",
    "addmv",
    "addmv_",
)
"""These add to their first argument, which is not rounded."""

PUBLIC = hasattr(torch.backends.cuda.matmul, "fp32_precision")

WAYS: dict[str, Callable[[], None]] = {
    "allow_tf32": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
}
"""How a user may allow TF32."""
if PUBLIC:
    WAYS["matmul.fp32_precision"] = lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32")
    WAYS["backends.fp32_precision"] = lambda: setattr(torch.backends, "fp32_precision", "tf32")


@dataclass(frozen=True)
class Product:
    """A product of float32 matrices that ran.

    Attributes:
        name: the operation.
        sizes: shapes of its factors.
        tf32: whether in TF32.
    """

    name: str
    sizes: tuple[tuple[int, ...], ...]
    tf32: bool


class EmulatedTF32(TorchDispatchMode):
    """Inside, products of float32 matrices round their factors wherever torch, at that moment, allows TF32."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []

    @property
    def in_tf32(self) -> list[Product]:
        return [product for product in self.products if product.tf32]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._overloadpacket.__name__
        first = 1 if name in SUMS_OF_PRODUCTS else 0
        if (name in PRODUCTS or first) and args[first].dtype is torch.float32 and not _without_product(name, args):
            factors = args[first : first + 2]
            tf32 = allowed()
            self.products.append(Product(name, tuple(tuple(factor.shape) for factor in factors), tf32))
            if tf32:
                args = (*args[:first], *map(rounded, factors), *args[first + 2 :])
        return func(*args, **(kwargs or {}))


def _without_product(name: str, args: Any) -> bool:
    """Whether distances are formed from differences: asked for, or few atoms."""
    if name != "_cdist_forward":
        return False
    mode = args[3] if len(args) > 3 else None
    return mode == 2 or (mode in (None, 0) and max(args[0].shape[-2], args[1].shape[-2]) <= 25)


def allowed() -> bool:
    """What cuBLAS would be told."""
    if PUBLIC:
        return torch.backends.cuda.matmul.fp32_precision == "tf32"
    return torch.backends.cuda.matmul.allow_tf32


def rounded(x: Tensor) -> Tensor:
    """To 10 bits of mantissa."""
    bits = x.detach().contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def settings() -> list[str]:
    """All that torch can be asked about TF32; the older interface may refuse to answer."""
    answers = []
    for question in (lambda: torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision):
        try:
            answers.append(str(question()))
        except RuntimeError:
            answers.append("refused")
    if PUBLIC:
        backends = torch.backends
        for place in (backends, backends.cudnn, backends.cuda.matmul, backends.mkldnn, backends.mkldnn.matmul):
            answers.append(place.fp32_precision)
    return answers


@contextlib.contextmanager
def tf32_by(way: str) -> Iterator[None]:
    """TF32 allowed for everything, in one of the :data:`WAYS`; forbidden afterwards, by both interfaces."""
    WAYS[way]()
    try:
        yield
    finally:
        if PUBLIC:
            torch.backends.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")
        if PUBLIC:
            torch.backends.cuda.matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "none"


def take_the_branches_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """No products by oneDNN, which the emulation cannot see; batched products, not one per atom; sums in order."""
    monkeypatch.setattr(packed_matrix, "can_pack", lambda dtype: False)
    monkeypatch.setattr(sums, "index_add_repeats", lambda device: False)
    for kind in (Edges, EdgeBlock):
        monkeypatch.setattr(kind, "on_cpu", False)
