"""The one line that a command prints for a user's mistake, wherever it was noticed."""

from __future__ import annotations

import re

from torch.distributed import DistNetworkError
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from fairchem_hdgnn import errors
from fairchem_hdgnn.errors import UserError

_PORT = re.compile(r"port: (\d+)")
_RECORDED = re.compile(r"(\w+): (.*)", re.DOTALL)


def user_message(error: BaseException) -> str | None:
    """The one line to show for ``error``; ``None`` if it is no user's mistake.

    A mistake can come from another process: a rank that torch's elastic launcher started, which keeps the message as
    ``ConfigError: ...``, or a worker of a DataLoader, whose traceback is the message and ends in such a line.
    """
    if isinstance(error, UserError):
        message = str(error)
        return _recorded(message.splitlines()[-1]) or message if "Original Traceback" in message else message
    if isinstance(error, DistNetworkError):
        port = _PORT.search(str(error))
        if "EADDRINUSE" not in str(error) or port is None:
            return None
        return f"port {port[1]}, on which the ranks meet, is in use by another program: set MASTER_PORT to a free one"
    if isinstance(error, ChildFailedError):
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            return (
                f"rank {rank} was killed by {failure.signal_name()} (as the system does when memory runs out); "
                "the last checkpoint is whole: start again with the same --timestamp-id"
            )
        message = failure.error_file_data["message"]
        return _recorded(message["message"] if isinstance(message, dict) else message)
    return None


def _recorded(text: str) -> str | None:
    match = _RECORDED.fullmatch(text.rsplit("fairchem_hdgnn.errors.", 1)[-1].strip())
    if match and issubclass(getattr(errors, match[1], object), UserError):
        return match[2]
    return None
