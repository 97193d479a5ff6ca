"""Where published files come from: ours, and the checkpoints of the plugins."""

import os
import urllib.parse
from pathlib import Path

import configs
from helpers.downloads import provide


def table():
    """All resources, name -> (path below the resources folder, address)."""
    import models  # takes seconds, and a mirror of the stage recipes does without

    resources = dict(configs.RESOURCES)
    there = {path for path, _ in resources.values()}
    for architecture in map(models.get, models.names()):
        for name, checkpoint in architecture.checkpoints.items():
            if checkpoint.file not in there and architecture.section in configs.RELEASES:
                file = urllib.parse.quote(Path(checkpoint.file).name)
                resources[name] = (checkpoint.file, f"{configs.RELEASES[architecture.section]}/{file}")
    return resources


def address_of(address, base_url=None):
    """The address of a file on a mirror, which has the files under their own names; None: on the original site."""
    return f"{base_url.rstrip('/')}/{address.rsplit('/', 1)[1]}" if base_url else address


def provide_weights(checkpoint):
    """Downloads the file of a checkpoint, unless it is there or is none of a published table.

    ``RESOURCES_URL`` in the environment names a mirror.

    Args:
        checkpoint: a :class:`models.registry.Checkpoint`, or None.

    Raises:
        FileNotFoundError: it is not there and cannot be fetched; the line says what to put where.
        ValueError: it is not the file that was fetched the first time.
    """
    path = checkpoint and Path(configs.RESOURCES_PATH) / checkpoint.file
    if checkpoint is None or path.is_file():
        return
    address = next((address for file, address in table().values() if file == checkpoint.file), None)
    if address is None:
        return
    address = address_of(address, os.environ.get("RESOURCES_URL"))
    try:
        provide(path, address)
    except OSError as error:
        raise FileNotFoundError(f"{path}: no such weights file, and no download ({error}): put it there") from None
