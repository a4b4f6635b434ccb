"""Whether each node of a job sees what the training needs: asked by the batch script, before any Python starts."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from string import Template

LOOK = Template(
    """
# Each node must see the environment and the folders.
missing=$$(srun --ntasks="$$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --chdir=/ bash -c '
  for path; do [ -e "$$path" ] || { echo "$$SLURMD_NODENAME does not see $$path"; break; }; done' see \\
  $paths)
[ -z "$$missing" ] ||
  { echo "$${missing//$$'\\n'/, }: put it where all nodes see it, or --exclude the node" >&2; exit 2; }
"""
)


def look(args: argparse.Namespace) -> str:
    """Lines of a batch script that end a job of several nodes where one of them does not see all; else none.

    Args:
        args: of fairchem's command line.
    """
    if args.num_nodes == 1:
        return ""
    folder = Path(args.run_dir).resolve()
    # The first rank makes the rest of it.
    there = next(path for path in (folder, *folder.parents) if path.exists())
    paths = map(str, (sys.executable, Path.cwd(), there, args.config_yml.resolve()))
    return LOOK.substitute(paths=shlex.join(dict.fromkeys(paths)))
