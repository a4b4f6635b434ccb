"""The one-line message that a command prints for a user error, whichever process detected it."""

from __future__ import annotations

import re

from torch.distributed import DistNetworkError
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from fairchem_hdgnn import errors
from fairchem_hdgnn.errors import UserError

_PORT = re.compile(r"port: (\d+)")
_RECORDED = re.compile(r"(\w+): (.*)", re.DOTALL)


def user_message(error: BaseException) -> str | None:
    """The one-line message for ``error``; ``None`` if it is not a user error.

    The error can come from another process: a rank started by torch's elastic launcher, which stores the message as
    ``ConfigError: ...``, or a DataLoader worker, whose message is a traceback that ends in such a line.
    """
    if isinstance(error, UserError):
        message = str(error)
        return _recorded(message.splitlines()[-1]) or message if "Original Traceback" in message else message
    if isinstance(error, DistNetworkError):
        port = _PORT.search(str(error))
        if "EADDRINUSE" not in str(error) or port is None:
            return None
        return f"port {port[1]}, where the ranks connect, is in use by another program: set MASTER_PORT to a free one"
    if isinstance(error, ChildFailedError):
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            return (
                f"rank {rank} was killed by {failure.signal_name()} (perhaps by the system, out of memory); "
                "the last checkpoint is intact: start again with the same --timestamp-id"
            )
        message = failure.error_file_data["message"]
        return _recorded(message["message"] if isinstance(message, dict) else message)
    return None


def _recorded(text: str) -> str | None:
    match = _RECORDED.fullmatch(text.rsplit("fairchem_hdgnn.errors.", 1)[-1].strip())
    if match and issubclass(getattr(errors, match[1], object), UserError):
        return match[2]
    return None
