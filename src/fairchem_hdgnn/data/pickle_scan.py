"""Scan a pickle before reading it: refuse instructions that reach outside it or could exhaust memory or stack.

``pickletools.genops`` tells the same of each instruction, and takes longer than unpickling a
small graph. Here one regular expression runs over everything of known length.
"""

from __future__ import annotations

import pickle
import pickletools
import re

MAX_TUPLES = 10_000
"""Tuples nested deeper than the C stack allows would end the process when hashed."""

SMALL_PICKLE = 20_000
"""Bytes of instructions, without strings and payload, that hold too few tuples to be counted."""


class RefusedError(ValueError):
    """A pickle that is damaged, or contains objects that do not belong in a record."""


_NO_ARGUMENT = (
    pickle.MARK + pickle.POP + pickle.POP_MARK + pickle.MEMOIZE + pickle.NONE + pickle.NEWTRUE + pickle.NEWFALSE
    + pickle.EMPTY_TUPLE + pickle.TUPLE + pickle.TUPLE1 + pickle.TUPLE2 + pickle.TUPLE3
    + pickle.EMPTY_LIST + pickle.APPEND + pickle.APPENDS + pickle.EMPTY_DICT + pickle.SETITEM + pickle.SETITEMS
    + pickle.EMPTY_SET + pickle.ADDITEMS + pickle.FROZENSET
    + pickle.STACK_GLOBAL + pickle.REDUCE + pickle.NEWOBJ + pickle.NEWOBJ_EX + pickle.BUILD
)  # fmt: skip

_ARGUMENT_LENGTH = {
    pickle.PROTO: 1,
    pickle.BININT1: 1,
    pickle.BINPUT: 1,
    pickle.BINGET: 1,
    pickle.BININT2: 2,
    pickle.BININT: 4,
    pickle.LONG_BINGET: 4,
    pickle.FRAME: 8,
    pickle.BINFLOAT: 8,
}

_SHORT_TEXT = b"|".join(b"%b.{%d}" % (re.escape(bytes([length])), length) for length in range(64))

_RUN = re.compile(
    b"(?:[" + re.escape(_NO_ARGUMENT) + b"]|"
    + b"|".join(re.escape(code) + b".{%d}" % length for code, length in _ARGUMENT_LENGTH.items())
    # A memo index is an array index: larger ones than a graph needs could exhaust the memory.
    + b"|" + re.escape(pickle.LONG_BINPUT) + rb"..\0\0"
    + b"|" + re.escape(pickle.SHORT_BINUNICODE) + b"(?:" + _SHORT_TEXT + b"))*",
    re.DOTALL,
)  # fmt: skip

_LENGTH_BYTES = {
    code[0]: length
    for length, codes in {
        1: (pickle.SHORT_BINUNICODE, pickle.SHORT_BINBYTES, pickle.LONG1),
        4: (pickle.BINUNICODE, pickle.BINBYTES, pickle.LONG4),
        8: (pickle.BINUNICODE8, pickle.BINBYTES8, pickle.BYTEARRAY8),
    }.items()
    for code in codes
}
"""Instruction -> bytes that hold the length of its argument."""


def scan(content: bytes) -> None:
    """Refuse a pickle that is truncated or has an instruction that no graph needs.

    Raises:
        RefusedError: naming the instruction.
    """
    position = payload = 0
    try:
        while True:
            # A run may be empty, so there is a match at every position.
            position = _RUN.match(content, position).end()  # type: ignore[union-attr]
            code = content[position]
            if code in _LENGTH_BYTES:
                start = position + 1 + _LENGTH_BYTES[code]
                length = int.from_bytes(content[position + 1 : start], "little")
                position = start + length
                payload += length
            elif code == pickle.GLOBAL[0]:
                position = content.index(b"\n", content.index(b"\n", position) + 1) + 1
            elif code == pickle.STOP[0]:
                break
            else:
                raise RefusedError(f"the pickle instruction {_name(code)}")
    except (IndexError, ValueError) as error:
        if isinstance(error, RefusedError):
            raise
        raise RefusedError("a truncated pickle") from error
    if len(content) - payload > SMALL_PICKLE and _count_tuples(content) > MAX_TUPLES:
        raise RefusedError(f"more than {MAX_TUPLES} tuples")


def _name(code: int) -> str:
    names = {opcode.code: opcode.name for opcode in pickletools.opcodes}
    return names.get(chr(code), f"{code:#04x}")


def _count_tuples(content: bytes) -> int:
    return sum(opcode.name.startswith("TUPLE") for opcode, _, _ in pickletools.genops(content))
