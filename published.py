"""What is published, and where it comes from: the table ``published.tsv``, one line per file.

Columns: name; file below the resources folder, or the folder that an archive unpacks into; address; bytes and checksum
where they are known (else the first download is noted, and later ones are compared with it); licence, as the address
or its repository states it; set of files that go together; and what needs it: words of a command line, all of which
must be there, with alternatives behind semicolons.
"""

import csv
import functools
import itertools
import os
import re
import shlex
import urllib.parse
from pathlib import Path
from typing import NamedTuple

import configs

TABLE = Path(__file__).with_name("published.tsv")
WEIGHTS = "pretrained_models/"
# Entries whose value names weights, which then take the place of those that the architecture starts from.
NAMING = re.compile(r"(^|\.)(pretrained_names?|model_init_id)$|^ensemble$|^model_init_id$")
ARCH_OF = {"ex_stage1": "atst_frame", "ex_stage2": "atst_frame", "ex_clotho": "cnn14_clotho"}  # where arch= is left out
ARCH_OF |= dict.fromkeys(("ex_audioset", "ex_qvim"), "mn10_as")

SHELL = re.compile(r"\d*[<>|&;]")  # what ends a command line
# Options of the scripts that take a value, which follows.
VALUED = re.compile(
    "-[bCcFilmnPSst]|--(beat-interval|capture|comment|file_storage|id|loglevel|mongo_db|name|priority|s3|sql|tiny_db)"
)


class Resource(NamedTuple):
    """One line of the table; ``size`` and ``checksum`` are None where they are not known."""

    name: str
    file: str
    address: str
    size: int | None
    checksum: str | None
    licence: str
    set: str
    needed_by: str

    @property
    def is_archive(self) -> bool:
        """Whether ``file`` is the folder that comes out of an archive."""
        return self.address.endswith(".zip")

    @property
    def published_name(self) -> str:
        """The file name at its address, which it has on mirrors too."""
        return urllib.parse.unquote(self.address.rsplit("/", 1)[1])

    def address_at(self, base_url=None) -> str:
        """Its address: on a mirror (a folder, or a URL of any scheme), or by None on the original site."""
        if not base_url:
            return self.address
        base = str(base_url) if "://" in str(base_url) else Path(base_url).resolve().as_uri()
        return f"{base.rstrip('/')}/{self.address.rsplit('/', 1)[1]}"


@functools.cache
def table() -> dict[str, Resource]:
    """All resources by name."""
    with open(TABLE, newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))[1:]
    found = [Resource(row[0], row[1], row[2], int(row[3] or 0) or None, row[4] or None, *row[5:]) for row in rows]
    return {resource.name: resource for resource in found}


def needed_by(command: str) -> list[str]:
    """Names of the resources that a command line needs, with the weights from which its networks start.

    Args:
        command: ``python -m ex_stage2 with arch=beats``, also with what stands before and behind it in a shell, or its
            essence ``arch=beats stage=2``.

    Raises:
        ValueError: a quotation mark is missing, or a script or architecture is not known.
    """
    script, command_words, words = _parts(shlex.split(command))
    entries = dict(word.split("=", 1) for word in words if "=" in word)
    bare = [*command_words, *(word for word in words if "=" not in word)]
    if {"demo", "demo_strong"} & set(bare):
        return []
    if script.startswith("ex_stage") and not command_words:  # its training, and none of its other commands
        entries.setdefault("stage", script.removeprefix("ex_stage"))
    arch = ARCH_OF.get(script, ARCH_OF["ex_stage1"] if "stage" in entries else None)
    if arch:
        entries.setdefault("arch", arch)
    if "arch" in entries:
        entries["arch"] = entries["arch"].strip("'\"")
        _require_known(entries["arch"])
    given = {*bare, *(f"{key}={value}" for key, value in entries.items())}
    naming = {key: value for key, value in entries.items() if NAMING.search(key) and value != "own"}
    named = {part for value in naming.values() for part in re.findall(r"[\w.+-]+(?:\(\d\))?", value)}
    met = {name: _met(resource, given, naming) for name, resource in table().items()}
    most = max((met[name] for name, resource in table().items() if resource.file.startswith(WEIGHTS)), default=0)
    return [
        name
        for name, resource in table().items()
        if name in named or (met[name] and (met[name] == most or not resource.file.startswith(WEIGHTS)))
    ]


def _parts(words) -> tuple[str, list[str], list[str]]:
    """Script ("" for the essence of a command line), command between it and "with", and entries and named configs."""
    scripts = [re.fullmatch(r"(?:.*/)?(ex_\w+)(?:\.py)?", word) for word in words]
    first = next((number for number, script in enumerate(scripts) if script), None)
    script = "" if first is None else scripts[first][1]
    if script and script not in ARCH_OF:
        raise ValueError(f"unknown script '{script}', known: {', '.join(ARCH_OF)}")
    rest = list(itertools.takewhile(lambda word: not SHELL.match(word), words[0 if first is None else first + 1 :]))
    rest = [
        word for before, word in zip(["", *rest], rest) if not word.startswith("-") and not VALUED.fullmatch(before)
    ]
    start = rest.index("with") if "with" in rest else len(rest)
    command = [word for word in rest[:start] if script and "=" not in word and word != "main"]
    return script, command, [word for word in rest if word != "with" and word not in command]


def _require_known(arch):
    """Raises ValueError for an architecture of neither the table nor the registry."""
    if any(f"arch={arch}" in re.split(r"[\s;]+", resource.needed_by) for resource in table().values()):
        return
    import models  # slow, and only for those without published weights

    models.get(arch)


def _met(resource, given, naming) -> int:
    """Words of the longest alternative of ``needed_by`` that all are given; 0 where there is none."""
    alternatives = [set(alternative.split()) for alternative in resource.needed_by.split(";")]
    weights = resource.file.startswith(WEIGHTS)
    return max(
        (
            len(words)
            for words in alternatives
            if words <= given and not (weights and naming and not any(w.split("=")[0] in naming for w in words))
        ),
        default=0,
    )


def provide_weights(checkpoint):
    """Downloads the file of a checkpoint, unless it is there or is none of the table.

    ``RESOURCES_URL`` in the environment names a mirror.

    Args:
        checkpoint: a :class:`models.registry.Checkpoint`, or None.

    Raises:
        FileNotFoundError: it is not there and cannot be fetched; the line says what to put where.
        ValueError: it is not the file that is published, or that was fetched the first time.
    """
    from helpers.downloads import provide  # needs packages, and the doctor reads the table without any

    path = checkpoint and Path(configs.RESOURCES_PATH) / checkpoint.file
    if checkpoint is None or path.is_file():
        return
    resource = next((resource for resource in table().values() if resource.file == checkpoint.file), None)
    if resource is None:
        return
    try:
        provide(path, resource.address_at(os.environ.get("RESOURCES_URL")), resource.checksum, resource.size)
    except OSError as error:
        raise FileNotFoundError(f"{path}: no such weights file, and no download ({error}): put it there") from None
