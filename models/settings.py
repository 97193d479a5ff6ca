"""Settings of stage checkpoints: networks and front ends are built as the weights in a file were trained.

A checkpoint of one of our runs carries the run's config; for a published one the table of its architecture says what
differs from the defaults (``models.registry.Checkpoint.wrapper`` and ``mel``).
"""

from collections.abc import Collection, Mapping

from helpers.checkpoints import config_of_run, read, stage_file
from models import registry
from models.crnn import Task4CRNN
from models.frontends import CrnnMel, Scaler
from models.registry import defaults

# Entries of a plugin's section that say what is loaded, but must agree with what is built.
CHECKED = ("n_classes", "sample_rate")
# Length and rate of the clips: (section, entry), top level first.
CLIPS = (
    ("", "sample_rate"),
    ("", "audio_len"),
    *((part, entry) for part in ("training", "validation", "test") for entry in ("sample_rate", "audio_length")),
)


def with_settings_of(
    config: Mapping[str, object], given: Collection[str], name, folder
) -> tuple[dict[str, object], list[str]]:
    """A config in which everything that the user left open is as a stage checkpoint was trained.

    That is: the architecture, the entries of its network and front ends, the frame grid, and length and rate of the
    clips. What a checkpoint says nothing about keeps its value.

    Args:
        config: sections by name, and entries of the top level, among them ``arch``.
        given: dotted names of the entries that the user set; these stay as they are in ``config``.
        name: a stage checkpoint, see :func:`helpers.checkpoints.stage_file`.
        folder: where stage checkpoints are.

    Returns:
        the config (``config`` is left as it is), and a line for every entry in which the two differ.

    Raises:
        FileNotFoundError: no such checkpoint; the message has the download command.
        ValueError: the file is damaged, or for another architecture than the one given.
    """
    path = stage_file(name, folder)
    of_run = config_of_run(read(path))
    result, notes = dict(config), []
    theirs = _architectures(path, of_run)
    if "arch" in given:
        require_architecture(config["arch"], path, of_run)
    elif theirs and config["arch"] not in theirs:
        result["arch"] = theirs[0]
        notes.append(f"arch={theirs[0]} of {path.name} instead of {config['arch']}")
    architecture = registry.get(result["arch"])
    trained = _of_run(architecture, config, of_run) if of_run else _of_table(architecture, path)
    if trained is None:
        trained = {}
        notes.append(f"{path.name} says nothing about its settings, those of the config are used")
    known = _known(architecture)
    for (section, entry), value in trained.items():
        present = (result.get(section, {}) if section else result).get(entry, known.get((section, entry)))
        if _plain(present) == _plain(value):
            continue
        dotted = f"{section}.{entry}" if section else entry
        if any(key == dotted or key.startswith(f"{dotted}.") for key in given):
            notes.append(f"{dotted}={present!r} as given, {path.name} was trained with {value!r}")
            continue
        notes.append(f"{dotted}={value!r} of {path.name} instead of {present!r}")
        changed = {entry: value}
        result |= {section: {**result.get(section, {}), **changed}} if section else changed
    return result, notes


def require_architecture(arch, path, of_run: Mapping):
    """Raises ValueError where a stage checkpoint is known to be for another architecture.

    Args:
        arch: the architecture which is asked for.
        path: the file.
        of_run: the config in it, empty for a published file, which is known by its name.
    """
    theirs = _architectures(path, of_run)
    if theirs and arch not in theirs:
        raise ValueError(f"{path} is for arch={theirs[0]}, but arch={arch} is asked for")


def what_decides_on_outputs(config: Mapping[str, object]) -> dict[str, object]:
    """The entries of a config on which the predictions of given weights for given clips depend, nested as there."""
    architecture = registry.get(config["arch"])
    found = {"arch": architecture.name, "encoder": dict(config["encoder"])}
    for section, entry in (*_known(architecture), *CLIPS):
        if section in ("training", "validation"):
            continue
        part = found.setdefault(section, {}) if section else found
        part[entry] = config[section][entry] if section else config[entry]
    return found


def _architectures(path, of_run) -> list[str]:
    """The architectures that a stage checkpoint may be for; none where that is not known."""
    if of_run:
        return [of_run["arch"]] if "arch" in of_run else []
    return [name for name in registry.names() if path.stem in registry.get(name).checkpoints]


def _known(architecture) -> dict[tuple[str, str], object]:
    """(section, entry) -> default of all that decides what a network and its front ends are."""
    checked = {entry: value for entry, value in architecture.loading.items() if entry in CHECKED}
    parts = (
        ("t4_wrapper", defaults(Task4CRNN)),
        ("mel", defaults(CrnnMel)),
        ("scaler", defaults(Scaler)),
        (architecture.section, {**defaults(architecture.net, architecture.preset), **checked}),
        (architecture.mel_section, defaults(architecture.mel, architecture.mel_preset)),
    )
    return {(section, entry): value for section, entries in parts for entry, value in entries.items()}


def _of_run(architecture, config, of_run):
    """What the config of a run says."""
    grid = (("encoder", entry) for entry in config.get("encoder", {}))
    found = {}
    for section, entry in (*_known(architecture), *grid, *CLIPS):
        stored = of_run.get(section, {}) if section else of_run
        if entry in stored:
            found[section, entry] = stored[entry]
    return found


def _of_table(architecture, path):
    """What the table of published checkpoints says of a file, None where it does not know it."""
    checkpoint = architecture.checkpoints.get(path.stem)
    if checkpoint is None:
        return None
    parts = (("t4_wrapper", checkpoint.wrapper), (architecture.mel_section, checkpoint.mel))
    return {(section, entry): value for section, entries in parts for entry, value in entries.items()}


def _plain(value):
    """Lists in place of tuples, whose equality is another one."""
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
