"""``fairchem-hdgnn download``: download OC20 into the layout that the shipped configs read."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from fairchem_hdgnn.cli._flags import path, require_at_least
from fairchem_hdgnn.data.oc20.archives import ADDRESS, ARCHIVES, GROUPS, Archive, chosen, in_words
from fairchem_hdgnn.data.oc20.obtaining import Request, obtain, prepare
from fairchem_hdgnn.data.oc20.transfer import UnreachableError
from fairchem_hdgnn.errors import DataError

MIRROR = "FAIRCHEM_HDGNN_OC20_MIRROR"
"""Environment variable with the address of a mirror."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(["names, with the size of the archive and on disk:", *_table()])
    parser.add_argument("names", nargs="+", metavar="NAME", help="parts of OC20 (listed below), e.g. is2re or s2ef-2M")
    parser.add_argument(
        "--out", type=path, default=Path("data"), metavar="DIR", help="folder for is2re/ and s2ef/ (default: data)"
    )
    parser.add_argument(
        "--mirror",
        default=os.environ.get(MIRROR) or ADDRESS,
        metavar="URL",
        help=f"URL that serves the same files (default: ${MIRROR}, else {ADDRESS})",
    )
    parser.add_argument(
        "--from",
        dest="source",
        type=path,
        metavar="DIR",
        help="folder with archives fetched by other means: use (and keep) them, download nothing",
    )
    parser.add_argument("--keep-archive", action="store_true", help="keep archives after unpacking")
    parser.add_argument(
        "--num-workers",
        type=int,
        metavar="N",
        help="processes that convert S2EF frames (default: one per core)",
    )


def _table() -> list[str]:
    lines = [f"  {name:18}{in_words(one.size):>8}{in_words(one.unpacked):>10}" for name, one in ARCHIVES.items()]
    return [*lines, *(f"  {name:18}{', '.join(members)}" for name, members in GROUPS.items())]


def run(args: argparse.Namespace) -> int:
    """Obtain each part and print where it is."""
    num_workers = len(os.sched_getaffinity(0)) if args.num_workers is None else args.num_workers
    require_at_least(1, {"--num-workers": num_workers})
    archives = chosen(args.names)
    request = Request(args.out, args.mirror, args.source, args.keep_archive, num_workers)
    absent = {name: archive for name, archive in archives.items() if archive.missing(args.out)}
    try:
        if absent:
            prepare(request, absent)
        for name, archive in archives.items():
            new = obtain(request, archive) if name in absent else []
            for folder in archive.folders:
                print(f"{args.out / folder}: {'ready' if folder in new else 'already exists'}", flush=True)
    except UnreachableError as error:
        raise DataError(f"{error}; {_by_hand(request, absent)}") from error
    except OSError as error:
        raise DataError(
            f"{error.filename or args.out}: {error.strerror or error}; make sure that it is writable"
        ) from error
    except KeyboardInterrupt:
        print("fairchem-hdgnn download: interrupted; re-run the same command to resume", file=sys.stderr)
        return 130
    return 0


def _by_hand(request: Request, archives: dict[str, Archive]) -> str:
    """What to do on a machine without network access."""
    wanted = [name for name, archive in archives.items() if archive.missing(request.data)]
    files = ", ".join(
        f"{request.address_of(archives[name])} ({in_words(archives[name].size)}, MD5 {archives[name].md5})"
        for name in wanted
    )
    return (
        f"fetch {files} on another machine, copy them into a folder here, FOLDER, and run "
        f"`fairchem-hdgnn download {' '.join(wanted)} --out {request.data} --from FOLDER`"
    )
