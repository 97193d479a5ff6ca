"""Fetches published checkpoints, pseudo-labels and lists into the resources folder.

python download_resources.py                                    everything of the stage-1 and stage-2 recipes
python download_resources.py --list                             all that is published, and what is there
python download_resources.py --only atst_as_strong dirs         by name; also a set: stages, tagging, events, all, ...
python download_resources.py --for "arch=atst_frame stage=2"    what a command line needs
python download_resources.py --mirror DIR                       a copy of all files; elsewhere: --base-url DIR
"""

import argparse
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from configs import RESOURCES_PATH
from data_util.archives import BadArchive, ByHand, unpack
from helpers.downloads import expected_size, forget, locked, provide
from published import needed_by, table

AT_ONCE = 4  # downloads


def get(resource, root=RESOURCES_PATH, base_url=None):
    """Fetches one resource unless it is there, as it should be; returns whether it was fetched.

    Raises:
        OSError, ValueError: as :func:`helpers.downloads.provide`; a :class:`data_util.archives.BadArchive` too.
    """
    target, known = Path(root) / resource.file, (resource.checksum, resource.size)
    if not resource.is_archive:
        return provide(target, resource.address_at(base_url), *known)
    if target.exists():
        return False
    archive = target.with_name(resource.published_name)
    with locked(target):
        if target.exists():
            return False
        provide(archive, resource.address_at(base_url), *known)
        try:
            _unpack_as(target, archive)
        except ByHand:
            raise
        except BadArchive:
            forget(archive)  # the next call would find it there
            raise
        archive.unlink()
    return True


def _unpack_as(target, archive):
    """The folder called like ``target`` in an archive, or all of it, becomes ``target``, whole or not at all."""
    staging = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        unpack(archive, staging)
        inner = staging / target.name
        os.replace(inner if inner.is_dir() else staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def copy(resource, mirror, base_url=None):
    """Fetches the file of a resource, archives as they are, into the folder of a mirror, unless it is there."""
    target = Path(mirror) / resource.published_name
    return provide(target, resource.address_at(base_url), resource.checksum, resource.size)


def chosen(only):
    """Resources for what was asked for: names, sets, ``all``, or file names with or without suffix.

    Raises:
        ValueError: unknown name.
    """
    resources = table()
    by_file = {alias: name for name, r in resources.items() for alias in (Path(r.file).stem, Path(r.file).name)}
    names = []
    for name in only:
        of_set = [each for each, resource in resources.items() if name in (resource.set, "all")]
        found = [name] if name in resources else of_set or [by_file.get(name)]
        if found == [None]:
            sets = dict.fromkeys(resource.set for resource in resources.values())
            raise ValueError(f"unknown resource '{name}' (sets: all, {', '.join(sets)}; known: {', '.join(resources)})")
        names += found
    return [resources[name] for name in dict.fromkeys(names)]


def lines_of(resources, root):
    """The table as aligned lines, with what is there."""
    rows = [("NAME", "SET", "", "SIZE", "CHECKSUM", "LICENCE", "NEEDED BY", "ADDRESS")]
    for resource in resources:
        path = Path(root) / resource.file
        expected = expected_size(path, resource.size)
        found = path.stat().st_size if path.is_file() else expected
        wrong = expected not in (None, found)
        size = f"{found} of {expected} bytes" if wrong else f"{found / 1e6:.1f} MB" if found else "-"
        rows.append((
            resource.name, resource.set, "wrong size" if wrong else "there" if path.exists() else "missing", size,
            "known" if resource.checksum else "noted at first",
            resource.licence, resource.needed_by, resource.address,
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def fetch_all(resources, fetch):
    """Fetches several at once, and says of each what became of it; returns whether all went well."""

    def one(resource):
        try:
            return f"{resource.name}: {'fetched' if fetch(resource) else 'is there'}", True
        except (OSError, ValueError) as error:
            return f"error: {resource.name}: {error}", False

    well, pool = True, ThreadPoolExecutor(AT_ONCE)
    try:
        for done in as_completed([pool.submit(one, resource) for resource in resources]):
            line, fine = done.result()
            tqdm.write(line, file=sys.stdout if fine else sys.stderr)
            well &= fine
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return well


def main(argv=None):
    """Command line; the exit status is 1 when anything could not be fetched, or is there but not as it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", nargs="+", metavar="NAME", help="these resources or sets alone")
    which.add_argument("--for", dest="command", metavar="COMMAND", help='what a command needs: "arch=beats stage=2"')
    parser.add_argument("--list", action="store_true", help="show resources and whether they are there")
    parser.add_argument("--base-url", help="a mirror that holds the files under their own names: address or folder")
    parser.add_argument("--mirror", metavar="DIR", help="copy the files there, archives as they are (default: all)")
    parser.add_argument("--root", default=RESOURCES_PATH, help="the resources folder (default: %(default)s)")
    options = parser.parse_args(argv)
    everything = ["all"] if options.list or options.mirror else ["stages"]
    try:
        resources = chosen(needed_by(options.command) if options.command else options.only or everything)
        lines = lines_of(resources, options.root) if options.list else []
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not resources:
        print("nothing that is published is needed")
    elif options.list:
        print("\n".join(lines))
    elif options.mirror:
        return int(not fetch_all(resources, lambda one: copy(one, options.mirror, options.base_url)))
    else:
        return int(not fetch_all(resources, lambda one: get(one, options.root, options.base_url)))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped; what has come is kept, start it again to go on", file=sys.stderr, flush=True)
        os._exit(130)  # downloads in other threads would be waited for
