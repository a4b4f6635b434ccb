"""``fairchem-hdgnn`` from its first moment on: the imports take seconds, in which a signal of Slurm's must not kill."""

from __future__ import annotations

import importlib
import signal
import sys


def main() -> int:
    """Hold SIGUSR1 back, for a training to take up when it can obey (``PreemptionWatch``), and run the command."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    return importlib.import_module("fairchem_hdgnn.cli").main()


if __name__ == "__main__":
    sys.exit(main())
