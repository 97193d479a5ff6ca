"""Fetches published checkpoints, pseudo-labels and lists into the resources folder.

python download_resources.py                    everything of the stage-1 and stage-2 recipes
python download_resources.py --only atst_as_strong dirs
python download_resources.py --list
"""

import argparse
import sys
from pathlib import Path

from configs import RESOURCES, RESOURCES_PATH
from data_util.archives import unpack
from helpers.downloads import provide
from published import address_of, table


def get(path, address, root=RESOURCES_PATH, base_url=None):
    """Fetches one resource unless it is there; returns whether it was fetched."""
    address = address_of(address, base_url)
    target = Path(root) / path
    if target.exists():
        return False
    if not address.endswith(".zip"):
        provide(target, address)
        return True
    archive = target.with_name(target.name + ".zip")
    provide(archive, address)
    unpack(archive, target.parent)
    archive.unlink()
    return True


def chosen(only, resources):
    """Names of resources for what was asked for: names, or file names with or without suffix.

    Raises:
        ValueError: unknown name.
    """
    by_file = {Path(path).name: name for name, (path, _) in resources.items()}
    by_stem = {Path(path).stem: name for name, (path, _) in resources.items()}
    names = [name if name in resources else by_file.get(name, by_stem.get(name)) for name in only]
    if None in names:
        raise ValueError(f"unknown resource '{only[names.index(None)]}' (known: {', '.join(resources)})")
    return names


def main(argv=None):
    """Command line; the exit status is 1 when anything could not be fetched."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(RESOURCES), metavar="NAME", help="these resources alone")
    parser.add_argument("--list", action="store_true", help="show all resources and whether they are there")
    parser.add_argument("--base-url", help="a mirror that holds the files under their own names")
    parser.add_argument("--root", default=RESOURCES_PATH, help="the resources folder (default: %(default)s)")
    options = parser.parse_args(argv)
    resources = table() if options.list or not set(options.only) <= set(RESOURCES) else RESOURCES
    if options.list:
        for name, (path, address) in resources.items():
            print(f"{name:24} {'there  ' if (Path(options.root) / path).exists() else 'missing'} {path:48} {address}")
        return 0
    failed = False
    try:
        names = chosen(options.only, resources)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name in names:
        try:
            print(f"{name}: {'fetched' if get(*resources[name], options.root, options.base_url) else 'is there'}")
        except (OSError, ValueError) as error:
            failed = True
            print(f"error: {name}: {error}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
