"""Check in the batch script, before any Python starts, that each node of a job can access the training's files."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from string import Template

CHECK = Template(
    """
# Each node must have access to the environment and the folders.
missing=$$(srun --ntasks="$$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --chdir=/ bash -c '
  for path; do [ -e "$$path" ] || { echo "$$SLURMD_NODENAME cannot access $$path"; break; }; done' see \\
  $paths)
[ -z "$$missing" ] ||
  { echo "$${missing//$$'\\n'/, }: move it to a file system that all nodes share, or --exclude the node" >&2; exit 2; }
"""
)


def access_check(args: argparse.Namespace) -> str:
    """Lines of a batch script that end a multi-node job if a node lacks access to a path; empty for one node.

    Args:
        args: arguments of fairchem's command line.
    """
    if args.num_nodes == 1:
        return ""
    folder = Path(args.run_dir).resolve()
    # The first rank creates the missing part.
    there = next(path for path in (folder, *folder.parents) if path.exists())
    paths = map(str, (sys.executable, Path.cwd(), there, args.config_yml.resolve()))
    return CHECK.substitute(paths=shlex.join(dict.fromkeys(paths)))
