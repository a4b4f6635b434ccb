"""Networks on a GPU that does not exist, for a process of its own: devices, shapes and waiting, without values.

Tensors are torch's fake ones, on a device of another name that has no memory. An operation on tensors of two devices is
an error there, and so is one that needs a value on the host: reading a number, a size that depends on values. Copies
between host and device are recorded. Of this package's operations, all runs but the kernels.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from small_networks import clusters, network
from test_launches import escn
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from fairchem_hdgnn.models.arithmetic.precision import Compute
from fairchem_hdgnn.models.kernels import launching
from fairchem_hdgnn.models.so3.constants import ConstantsModule

GPU = "fake_gpu"
MODE = FakeTensorMode(allow_non_fake_inputs=True)
COPIES: list[str] = []
"""Operations that copied between host and device."""


def register_gpu() -> None:
    """Give torch the device."""
    backend_registration._setup_privateuseone_for_python_backend(GPU)
    getattr(torch, GPU).get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]


def run_operations() -> None:
    """Run the code around the kernels, too, where torch would ask an operation only for the shapes of its results.

    For operations that are registered later: each kernel's module is imported where it is first used.
    """
    register = launching.register

    def register_itself(name: str, schema: str, function: Any, fake: Any) -> Any:
        return register(name, schema, function, function)

    launching.register = register_itself


def on_gpu(tensor: Tensor) -> Tensor:
    """A tensor's copy there."""
    return MODE.from_tensor(tensor.detach()).to(GPU)


class _Copies(TorchDispatchMode):
    """Records those between devices."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten._to_copy.default and args[0].device != result.device:
            COPIES.append(f"{args[0].device} to {result.device}")
        return result


@contextlib.contextmanager
def constants_move() -> Iterator[None]:
    """Constants that code makes on the host, or from Python's numbers, can go to the GPU."""
    to, tensor = Tensor.to, torch.tensor

    def is_gpu(device: Any) -> bool:
        return isinstance(device, (str, torch.device)) and torch.device(device).type == GPU

    def move(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if any(map(is_gpu, [*args, kwargs.get("device")])) and not isinstance(self, FakeTensor):
            COPIES.append(f"cpu to {GPU}")
            self = MODE.from_tensor(self.detach())
        return to(self, *args, **kwargs)

    def make(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        return tensor(*args, **kwargs).to(device) if is_gpu(device) else tensor(*args, device=device, **kwargs)

    with mock.patch.object(Tensor, "to", move), mock.patch.object(torch, "tensor", make):
        yield


def steps(model: nn.Module, dtype: torch.dtype) -> None:
    """Two training steps, networks in ``dtype``; the second copies nothing and leaves a gradient for each parameter."""
    arguments = clusters((5, 4), dtype=torch.float32).arguments()
    with mock.patch.object(launching, "launch", lambda *args, **sizes: None):
        # Constants are computed on the host.
        model(*arguments)
        with constants_move(), MODE:
            for module in model.modules():
                if isinstance(module, ConstantsModule):
                    module._exact = {name: MODE.from_tensor(exact) for name, exact in module._exact.items()}
            model._apply(on_gpu)
            moved = [on_gpu(value) if isinstance(value, Tensor) else value for value in arguments]
            for _ in range(2):
                COPIES.clear()
                with _Copies(), mock.patch.object(Compute, "chosen", lambda like: Compute(dtype, tf32=False)):
                    out = model(*moved)
                    sum(value.float().sum() for value in out.values()).backward()
            assert not COPIES
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None, name
                assert (parameter.grad.device, parameter.grad.shape) == (parameter.device, parameter.shape), name


HDGNNS: tuple[dict[str, Any], ...] = (
    {},
    {"preset": "authors", "num_resolutions": 1},
    {"message": "linear"},
    {"message": "fully_tp"},
    {"message": "unrestricted"},
    {"regress_forces": True, "layer_norm": "centred"},
)


def check_hdgnn() -> None:
    """Each kind of message, stored and recomputed."""
    for keys in HDGNNS:
        for activations in ("store", "recompute"):
            for dtype in (torch.float32, torch.bfloat16):
                model = network(torch.float32, **keys, implementation="triton", activations=activations)
                steps(model.train(), dtype)


def check_escn() -> None:
    """The same."""
    for activations in ("store", "recompute"):
        for dtype in (torch.float32, torch.bfloat16):
            model = escn(implementation="triton", activations=activations, energy_reduction="mean")
            steps(model.train(), dtype)


class _InBackward(torch.autograd.Function):
    """Does something to the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, work: Callable[[Tensor], Any]) -> Tensor:
        ctx.work = work
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        ctx.work(gradient)
        return gradient, None


def check_notices() -> None:
    """What these checks are for is found."""
    with constants_move(), MODE, _Copies():
        x = on_gpu(torch.rand(3))
        with pytest.raises(DataDependentOutputException):
            x.sum().item()
        with pytest.raises(DataDependentOutputException):
            bool((x > 0).any())
        with pytest.raises(DynamicOutputShapeException):
            x[x > 0]
        with pytest.raises(RuntimeError, match="two devices"):
            x + torch.ones(3)
        for copy in (x.cpu, lambda: torch.tensor([1, 2], device=x.device), lambda: torch.ones(2).to(x.device)):
            COPIES.clear()
            copy()
            assert COPIES
        COPIES.clear()
        _InBackward.apply(x.requires_grad_(), Tensor.cpu).sum().backward()
        assert COPIES
        with pytest.raises(DataDependentOutputException):
            _InBackward.apply(x, lambda gradient: gradient.sum().item()).sum().backward()
    named = [name for name in sys.modules if name.startswith(f"{launching.__package__}.")]
    assert named == [launching.__name__]


CHECKS: dict[str, Callable[[], None]] = {"hdgnn": check_hdgnn, "escn": check_escn, "notices": check_notices}


def main(names: list[str]) -> None:
    """Run checks; print "right" if nothing failed."""
    register_gpu()
    run_operations()
    for name in names:
        CHECKS[name]()
    print("right")


if __name__ == "__main__":
    main(sys.argv[1:])
