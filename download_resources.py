"""Fetches published checkpoints, pseudo-labels and lists into the resources folder.

python download_resources.py                    everything of the stage-1 and stage-2 recipes
python download_resources.py --only atst_as_strong dirs
python download_resources.py --list
"""

import argparse
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

from tqdm import tqdm

from configs import RELEASES, RESOURCES, RESOURCES_PATH

CHUNK = 1 << 20


def table():
    """All resources, name -> (path below the resources folder, address): ours, and the plugins' checkpoints."""
    import models  # takes seconds, and a mirror of the stage recipes does without

    resources = dict(RESOURCES)
    there = {path for path, _ in resources.values()}
    for architecture in map(models.get, models.names()):
        for name, checkpoint in architecture.checkpoints.items():
            if checkpoint.file not in there and architecture.section in RELEASES:
                file = urllib.parse.quote(Path(checkpoint.file).name)
                resources[name] = (checkpoint.file, f"{RELEASES[architecture.section]}/{file}")
    return resources


def fetch(address, path):
    """Downloads to ``path``; a file of that name is always complete.

    Raises:
        OSError: no answer, a refusal, or fewer bytes than announced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with urllib.request.urlopen(address, timeout=30) as answer, open(partial, "wb") as file:
        size = int(answer.headers.get("Content-Length") or 0)
        with tqdm(total=size or None, unit="B", unit_scale=True, desc=path.name) as bar:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if size and partial.stat().st_size != size:
        raise OSError(f"{address}: {partial.stat().st_size} bytes came, {size} were announced; start it again")
    os.replace(partial, path)


def unpack(archive, folder):
    """Unpacks a zip below ``folder``, nothing outside it; the archive is removed.

    Raises:
        ValueError: a member would land outside the folder.
    """
    folder = Path(folder).resolve()
    with zipfile.ZipFile(archive) as content:
        for name in content.namelist():
            if not (folder / name).resolve().is_relative_to(folder):
                raise ValueError(f"{archive}: '{name}' would be written outside {folder}, nothing was unpacked")
        content.extractall(folder)
    archive.unlink()


def get(path, address, root=RESOURCES_PATH, base_url=None):
    """Fetches one resource unless it is there; returns whether it was fetched."""
    if base_url:
        address = f"{base_url.rstrip('/')}/{address.rsplit('/', 1)[1]}"
    target = Path(root) / path
    if target.exists():
        return False
    if not address.endswith(".zip"):
        fetch(address, target)
        return True
    archive = target.with_name(target.name + ".zip")
    fetch(address, archive)
    unpack(archive, target.parent)
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
        except (OSError, urllib.error.URLError, ValueError, zipfile.BadZipFile) as error:
            failed = True
            print(f"error: {name}: {error}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
