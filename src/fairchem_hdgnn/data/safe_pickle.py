"""Unpickle graph records without trusting them: tensors, numpy arrays and plain values, nothing else.

Unpickling normally calls whatever the pickle names. Here it happens in two steps. The pickle
machine may only build :class:`Parts`, which remember arguments and state and do nothing.
Then this module, not the pickle, builds the graph from those parts and checks each of them.
"""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from torch_geometric.data import Data

from fairchem_hdgnn.data.pickle_scan import RefusedError, scan

MAX_DEPTH = 10
MAX_BROADCAST = 1_000_000
"""Elements that a tensor may have beyond its storage's by zero strides."""


class Parts:
    """Arguments and state of an object that the pickle describes; subclasses say of what and may build it."""

    __slots__ = ("arguments", "state")

    arguments: tuple[Any, ...]
    state: Any

    def __init__(self, *arguments: Any) -> None:
        """Remember the arguments."""
        self.arguments, self.state = arguments, None

    def __setstate__(self, state: Any) -> None:
        """Remember the state. As long as this is a method, no pickle can set attributes of the class."""
        self.state = state

    def build(self) -> Any:
        """The object; classes that mean nothing by themselves are refused."""
        raise RefusedError(f"a bare {type(self).__name__}")


class Ignored(Parts):
    """A class that PyG or numpy mentions and that need not be built."""

    __slots__ = ()


class Store(Parts):
    """PyG 2's ``GlobalStorage``, with the graph's attributes in ``_mapping``."""

    __slots__ = ()


class Graph(Parts):
    """A ``Data``; its state is its ``__dict__``, in which PyG 2 keeps a ``GlobalStorage``, PyG 1 the attributes."""

    __slots__ = ()

    def record(self) -> Data:
        """The graph as the present PyG has it."""
        attributes = self.state
        if "_store" in attributes:
            attributes = attributes["_store"].state["_mapping"]
        record = Data()
        built = record._store._mapping
        for name, value in attributes.items():
            if type(name) is not str or name.startswith("_"):
                raise RefusedError(f"an attribute named {name!r}")
            if value is not None:
                built[name] = value if type(value) in _PLAIN else _build(value, MAX_DEPTH)
        return record


class Tensor(Parts):
    """A ``torch.Tensor``: storage, offset, size, stride, requires_grad, hooks."""

    __slots__ = ()

    def build(self) -> torch.Tensor:
        """The tensor, within the bounds of its storage."""
        storage, offset, size, stride, requires_grad, hooks = self.arguments[:6]
        elements = storage.build()
        if hooks or not all(type(number) is int and number >= 0 for number in (offset, *size, *stride)):
            raise RefusedError("a tensor with hooks or impossible strides")
        if torch.Size(size).numel() > max(elements.numel(), MAX_BROADCAST):
            raise RefusedError("a tensor larger than its storage")
        tensor = elements.as_strided(size, stride, offset)
        return tensor.requires_grad_() if requires_grad else tensor


class Storage(Parts):
    """A tensor's storage, which ``torch.storage._load_from_bytes`` would hand to ``torch.load``.

    ``torch.load`` is not asked: up to torch 2.5 even ``weights_only=True`` opens TorchScript archives, which run code.
    """

    __slots__ = ()

    def build(self) -> torch.Tensor:
        """The elements as a one-dimensional tensor."""
        content = _bytes(self.arguments[0])
        header = LEGACY_STORAGE.match(content)
        if header is None:
            raise RefusedError("a storage that is not of numbers on the CPU, as torch.save writes it")
        dtype = STORAGE_DTYPES[header["type"]]
        elements = bytearray(memoryview(content)[header.end() :])
        if len(elements) != int.from_bytes(header["count"], "little") * dtype.itemsize:
            raise RefusedError("a truncated tensor")
        return torch.frombuffer(elements, dtype=dtype) if elements else torch.empty(0, dtype=dtype)


class Dtype(Parts):
    """A ``numpy.dtype`` of numbers or text; its state's second item is the byte order."""

    __slots__ = ()

    def build(self) -> Any:
        """Refused: an array's type is no value by itself."""
        raise RefusedError("a bare numpy.dtype")

    def dtype(self) -> np.dtype:
        """The dtype."""
        return _numpy_dtype(self.arguments[0], self.state[1] if self.state else "=")


class Array(Parts):
    """A ``numpy.ndarray``; its state is (version, shape, dtype, Fortran order, bytes)."""

    __slots__ = ()

    def build(self) -> np.ndarray:
        """The array."""
        _, shape, dtype, fortran, content = self.state
        return _array(content, dtype.dtype(), shape, "F" if fortran else "C")


class ArrayBuffer(Parts):
    """A ``numpy.ndarray`` of pickle protocol 5: bytes, dtype, shape, order."""

    __slots__ = ()

    def build(self) -> np.ndarray:
        """The array."""
        content, dtype, shape, order = self.arguments
        return _array(content, dtype.dtype(), shape, order)


class TensorOfArray(Parts):
    """A ``torch.Tensor`` as ``fairchem_hdgnn.data.encoding`` writes it: array, dtype (none), device, requires_grad."""

    __slots__ = ()

    def build(self) -> torch.Tensor:
        """The tensor, on the CPU whatever the device."""
        return torch.from_numpy(self.arguments[0].build())


class Scalar(Parts):
    """A numpy scalar: dtype, bytes."""

    __slots__ = ()

    def build(self) -> np.generic:
        """The scalar."""
        dtype, content = self.arguments
        return _array(content, dtype.dtype(), (1,), "C")[0]


class Bytes(Parts):
    """Bytes as pickle protocol 2 has them: ``_codecs.encode(text, "latin1")``."""

    __slots__ = ()

    def build(self) -> bytes:
        """The bytes."""
        return self.arguments[0].encode("latin1")


ADMITTED = {
    "torch_geometric.data.data.Data": Graph,
    "torch_geometric.data.storage.GlobalStorage": Store,
    "torch_geometric.data.data.DataEdgeAttr": Ignored,
    "torch_geometric.data.data.DataTensorAttr": Ignored,
    "torch._utils._rebuild_tensor_v2": Tensor,
    "torch.storage._load_from_bytes": Storage,
    "torch._utils._rebuild_device_tensor_from_numpy": TensorOfArray,
    "numpy.ndarray": Ignored,
    "numpy.dtype": Dtype,
    "numpy.core.multiarray._reconstruct": Array,
    "numpy._core.multiarray._reconstruct": Array,
    "numpy.core.numeric._frombuffer": ArrayBuffer,
    "numpy._core.numeric._frombuffer": ArrayBuffer,
    "numpy.core.multiarray.scalar": Scalar,
    "numpy._core.multiarray.scalar": Scalar,
    "_codecs.encode": Bytes,
    "collections.OrderedDict": OrderedDict,
}
"""Names allowed in a pickle -> replacements that are used instead."""

STORAGE_DTYPES = {
    b"Float": torch.float32,
    b"Double": torch.float64,
    b"Half": torch.float16,
    b"BFloat16": torch.bfloat16,
    b"Long": torch.int64,
    b"Int": torch.int32,
    b"Short": torch.int16,
    b"Char": torch.int8,
    b"Byte": torch.uint8,
    b"Bool": torch.bool,
    b"ComplexFloat": torch.complex64,
    b"ComplexDouble": torch.complex128,
}

LEGACY_STORAGE = re.compile(
    rb"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.\x80\x02M\xe9\x03\.\x80\x02}.{,200}?u\."
    rb"\x80\x02\(X\x07\0{3}storageq\0ctorch\n(?P<type>" + b"|".join(STORAGE_DTYPES) + rb")Storage\nq\x01"
    rb"X.\0{3}\d+q\x02X\x03\0{3}cpuq\x03(?:K.|M..|J.{4}|\x8a.{1,9}?)Ntq\x04Q\.\x80\x02]q\0X.\0{3}\d+q\x01a\.(?P<count>.{8})",
    re.DOTALL,
)
"""A CPU storage as ``torch.save`` has pickled it into tensors since torch 1.0, up to where its elements begin."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        try:
            return ADMITTED[f"{module}.{name}"]
        except KeyError:
            raise RefusedError(f"{module}.{name}") from None


def load_record(content: bytes) -> Data:
    """Unpickle one graph, of PyG 1 or 2, as the present PyG has it.

    Raises:
        RefusedError: ``content`` is damaged or contains anything but a graph of plain values, arrays and tensors.
    """

    def build(value: Any) -> Data:
        if type(value) is not Graph:
            raise RefusedError(f"a {type(value).__name__} instead of a graph")
        return value.record()

    return _load(content, build)


def load_plain(content: bytes) -> Any:
    """Unpickle plain values, arrays and tensors.

    Raises:
        RefusedError: ``content`` is damaged or contains anything else.
    """
    return _load(content, lambda value: _build(value, MAX_DEPTH))


def _load(content: bytes, build: Callable[[Any], Any]) -> Any:
    try:
        scan(content)
        return build(_Unpickler(io.BytesIO(content)).load())
    except RefusedError:
        raise
    except Exception as error:
        raise RefusedError(
            f"a damaged pickle ({type(error).__name__}: {' '.join(str(error).split())[:100]})"
        ) from error


_PLAIN = frozenset((bool, int, float, str, bytes, bytearray, type(None)))


def _build(value: Any, depth: int) -> Any:
    """The real value of plain containers and :class:`Parts`."""
    if type(value) in _PLAIN:
        return value
    if depth == 0:
        raise RefusedError(f"values nested more than {MAX_DEPTH} deep")
    if isinstance(value, Parts):
        return value.build()
    if isinstance(value, (list, tuple)):
        return type(value)(_build(item, depth - 1) for item in value)
    if isinstance(value, dict):
        return type(value)((_build(key, 0), _build(item, depth - 1)) for key, item in value.items())
    raise RefusedError(f"a bare {getattr(value, '__name__', type(value).__name__)}")


def _array(content: Any, dtype: np.dtype, shape: tuple[int, ...], order: Literal["C", "F"]) -> np.ndarray:
    if type(content) is not bytearray:
        content = bytearray(_bytes(content))
    array: np.ndarray = np.ndarray(shape, dtype, content, order=order)
    if array.nbytes != len(content):
        raise RefusedError("a numpy array of another size than its shape")
    return array


def _bytes(content: Any) -> bytes:
    if isinstance(content, Bytes):
        return content.build()
    if type(content) is not bytes:
        raise RefusedError(f"a {type(content).__name__} in place of bytes")
    return content


_BYTE_ORDERS: dict[str, Literal["=", "<", ">"]] = {"=": "=", "|": "=", "<": "<", ">": ">"}


@cache
def _numpy_dtype(code: str, byte_order: str) -> np.dtype:
    if not re.fullmatch(r"[?biufcSU]\d{1,9}|\?", code):
        raise RefusedError(f"a numpy array of type {code}")
    if byte_order not in _BYTE_ORDERS:
        raise RefusedError(f"a numpy array of byte order {byte_order!r}")
    return np.dtype(code).newbyteorder(_BYTE_ORDERS[byte_order])
