"""What all demo data sets share: their sizes, a folder that is made once, the command line."""

import argparse
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from data_util.demo_parts import NOTES
from data_util.output import claim, write_json

logger = logging.getLogger(__name__)


def with_sizes(defaults: Mapping[str, int], sizes: Mapping[str, int] | None) -> dict[str, int]:
    """The numbers of clips of all parts.

    Raises:
        ValueError: an unknown part, or an empty one.
    """
    for name, size in (sizes or {}).items():
        if name not in defaults:
            raise ValueError(f"demo sizes: unknown name '{name}' (known: {', '.join(defaults)})")
        if size < 1:
            raise ValueError(f"demo sizes: {name} is {size}, expected at least 1")
    return {**defaults, **(sizes or {})}


def make_once(folder: Path, settings: Mapping, make: Callable[[], None]):
    """Makes a data set, unless it is complete already; a half-made one is continued.

    Args:
        folder: of the data set.
        settings: all that its content follows from.
        make: makes what is not there yet.

    Raises:
        ValueError: the folder was begun with other settings.
    """
    complete, begun = folder / "demo.json", folder / "demo.partial.json"
    if complete.is_file():
        claim(complete, settings)
        return
    claim(begun, settings)
    logger.info("making the demo data in %s", folder)
    make()
    write_json(complete, settings)
    begun.unlink(missing_ok=True)
    shutil.rmtree(folder / NOTES, ignore_errors=True)


def command(name: str, content: str, make: Callable, arguments=None):
    """The command line of a module; bad input ends it with one line.

    Args:
        name: of the module.
        content: what it makes, in a few words.
        make: callable (folder, sources, seed, workers=).
        arguments: None: those of the process.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=f"Makes {content}.")
    parser.add_argument("folder", help="where to make it")
    parser.add_argument("--sources", help="folder of isolated recordings to use where it has any of a class")
    parser.add_argument("--seed", type=int, default=0, help="decides everything [%(default)s]")
    parser.add_argument("--workers", type=int, help="processes; one for each processor if not given")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        make(given.folder, given.sources, given.seed, workers=given.workers)
    except (OSError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")
    logger.info("the demo data are complete in %s", given.folder)
