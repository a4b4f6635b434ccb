"""Entry point of ``fairchem-hdgnn``: blocks SIGUSR1 before the imports, which take seconds, so that it cannot kill."""

from __future__ import annotations

import importlib
import io
import signal
import sys


def main() -> int:
    """Block SIGUSR1 until a training can handle it (``PreemptionWatch``), and run the command."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Where the locale's encoding lacks Å or …, a question mark is better than a failure after hours.
            stream.reconfigure(errors="replace")
    return importlib.import_module("fairchem_hdgnn.cli").main()


if __name__ == "__main__":
    sys.exit(main())
