"""Files that run code when they are opened without care: each makes a marker file."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Tuple  # noqa: UP035

import torch


class Runs:
    """Unpickled as usual, this makes a file."""

    def __init__(self, marker: Path) -> None:
        self.call = (os.system, (f"touch {marker}",))

    def __reduce__(self) -> tuple:
        return self.call


class WritesWhenLoaded(torch.nn.Module):
    """As TorchScript, this writes a file when it is loaded, with ``weights_only=True`` too (up to torch 2.5)."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path: str = path

    @torch.jit.export
    def __getstate__(self):
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: Tuple[str, bool]):  # noqa: UP006  TorchScript needs it on Python 3.9
        self.path, self.training = state[0], state[1]
        torch.save(torch.zeros(1), self.path)


def torchscript(marker: Path) -> bytes:
    """A TorchScript archive."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(WritesWhenLoaded(str(marker))), buffer)
    marker.unlink(missing_ok=True)
    return buffer.getvalue()


def pickled_checkpoint(marker: Path, *, zipped: bool = True) -> bytes:
    """A checkpoint, in torch's present or its old format, with a call among its plain values."""
    buffer = io.BytesIO()
    contents = {"config": {"model": Runs(marker)}, "state_dict": {}, "normalizers": {}}
    torch.save(contents, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def tar_checkpoint(marker: Path) -> bytes:
    """A checkpoint in the tar format of torch's first versions."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(Runs(marker))
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
