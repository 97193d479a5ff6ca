"""Spaces of hyper-parameters: from a table, a file or a published wandb sweep, and to one."""

import json
from collections.abc import Collection, Mapping
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path

KINDS = ("float", "int", "categorical")
RANGE, CHOICES = {"type", "low", "high", "log", "also"}, {"type", "choices", "also"}
# Distributions of wandb: name -> (kind, on a logarithmic scale).
WANDB = {
    "uniform": ("float", False),
    "log_uniform_values": ("float", True),
    "int_uniform": ("int", False),
    "q_log_uniform_values": ("int", True),
}


def read_space(space, known: Collection[str] | None = None) -> dict[str, dict]:
    """A checked search space.

    Args:
        space: one of

            * dotted config key -> ``{"type": "float" or "int", "low", "high", "log"}`` (both ends included) or
              ``{"type": "categorical", "choices"}``; with ``also``, a list of further keys that take the same value;
            * a list of such entries, which name their key as ``key`` (keys of sacred configs have no dots);
            * the path of a JSON or YAML file with either.
        known: the config keys there are; None takes any.

    Returns:
        the first form, with numbers as numbers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: what is wrong with which entry.
    """
    source = "search space"
    if isinstance(space, str | Path):
        source, space = str(space), _read(space)
    if isinstance(space, list | tuple):
        space = _by_key(space, source)
    if not isinstance(space, Mapping) or not space:
        raise ValueError(f"{source}: {_kind(space)}, expected config keys with a type and a range or choices each")
    checked = {str(key): _checked(f"{source}: {key}", entry) for key, entry in space.items()}
    named = [name for key, entry in checked.items() for name in (key, *entry.get("also", ()))]
    for name in named:
        if named.count(name) > 1:
            raise ValueError(f"{source}: {name} is named {named.count(name)} times, expected once")
        if known is not None and name not in known:
            near = get_close_matches(name, sorted(known), n=1, cutoff=0.0)
            raise ValueError(f"{source}: unknown config key '{name}'" + f", did you mean '{near[0]}'?" * bool(near))
    return checked


def all_keys(space: Mapping[str, Mapping], values: Mapping) -> dict:
    """Values by the keys of a space, given also to the further keys of its entries."""
    changes = {}
    for key, value in values.items():
        changes |= dict.fromkeys((key, *space[key].get("also", ())), value)
    return changes


def with_changes(config: Mapping, changes: Mapping) -> dict:
    """A copy of a nested config with other values for dotted keys.

    Raises:
        ValueError: the config has no such key.
    """
    result = deepcopy(dict(config))
    for key, value in changes.items():
        *sections, name = key.split(".")
        place = result
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if not isinstance(place, dict) or name not in place:
            raise ValueError(f"the config has no entry '{key}'")
        place[name] = value
    return result


def nested(changes: Mapping) -> dict:
    """Dotted keys as sections within sections."""
    result: dict = {}
    for key, value in changes.items():
        *sections, name = key.split(".")
        place = result
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return result


# -- wandb ------------------------------------------------------------------------------------------------------------
def from_wandb(parameters: Mapping[str, Mapping], names: Mapping[str, str | list | None] | None = None) -> dict:
    """The space of a wandb sweep.

    Args:
        parameters: ``parameters`` of the sweep's configuration.
        names: names there -> config key, a list of keys that take the same value, or None for what does not exist
            here; without them names stay.

    Raises:
        ValueError: a parameter that is neither a range nor a list of values, or has no name here.
    """
    space = {}
    for theirs, entry in parameters.items():
        if names is not None and theirs not in names:
            raise ValueError(f"wandb sweep: nothing here is called '{theirs}', expected one of {', '.join(names)}")
        ours = theirs if names is None else names[theirs]
        if ours is not None:
            key, *further = [ours] if isinstance(ours, str) else ours
            space[key] = _from_wandb(theirs, entry) | ({"also": further} if further else {})
    return read_space(space)


def _from_wandb(name, entry):
    if "values" in entry or "value" in entry:
        return {"type": "categorical", "choices": list(entry.get("values", [entry.get("value")]))}
    bounds = [entry.get("min"), entry.get("max")]
    usual = "int_uniform" if all(type(bound) is int for bound in bounds) else "uniform"
    distribution = entry.get("distribution", usual)
    if None in bounds or distribution not in WANDB:
        raise ValueError(f"wandb sweep: {name} is {dict(entry)}, expected values, or min, max and one of {list(WANDB)}")
    kind, log = WANDB[distribution]
    return {"type": kind, "low": bounds[0], "high": bounds[1], "log": log}


def to_wandb(space: Mapping[str, Mapping]) -> dict[str, dict]:
    """``parameters`` of a wandb sweep for a checked space."""
    by_kind = {kind: name for name, kind in WANDB.items()}
    return {
        key: {"values": entry["choices"]}
        if entry["type"] == "categorical"
        else {
            "distribution": by_kind[entry["type"], entry["log"]], "min": entry["low"], "max": entry["high"],
            **({"q": 1} if entry["type"] == "int" and entry["log"] else {}),
        }
        for key, entry in space.items()
    }  # fmt: skip


# -- checks -----------------------------------------------------------------------------------------------------------
def _read(path):
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"search space {path}: no such file, expected .json or .yaml")
    text = path.read_text(encoding="utf-8")
    if path.suffix.lower() in (".yaml", ".yml"):
        import yaml

        load, mistake = yaml.safe_load, yaml.YAMLError
    else:
        load, mistake = json.loads, json.JSONDecodeError
    try:
        return load(text)
    except mistake as error:
        raise ValueError(f"{path}: no search space ({' '.join(str(error).split())})") from error


def _by_key(entries, source):
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("key"), str):
            raise ValueError(f"{source}: entry {number} is {entry!r}, expected 'key' and what else an entry has")
    if len({entry["key"] for entry in entries}) < len(entries):
        raise ValueError(f"{source}: a key stands twice in the list {[entry['key'] for entry in entries]}")
    return {entry["key"]: {name: value for name, value in entry.items() if name != "key"} for entry in entries}


def _checked(where, entry):
    """An entry with all that it may leave out, but for ``also``."""
    if not isinstance(entry, Mapping) or entry.get("type") not in KINDS:
        found = entry.get("type") if isinstance(entry, Mapping) else entry
        raise ValueError(f"{where}: type is {found!r}, expected one of {', '.join(KINDS)}")
    kind = entry["type"]
    allowed = CHOICES if kind == "categorical" else RANGE
    stray = sorted(set(entry) - allowed)
    if stray:
        raise ValueError(f"{where}: '{stray[0]}' means nothing for type {kind}, expected {', '.join(sorted(allowed))}")
    further = entry.get("also", [])
    if not isinstance(further, list | tuple) or not all(isinstance(name, str) for name in further):
        raise ValueError(f"{where}: also is {further!r}, expected a list of config keys")
    result = _choices(where, entry) if kind == "categorical" else _range(where, kind, entry)
    return result | ({"also": list(further)} if further else {})


def _choices(where, entry):
    choices = entry.get("choices")
    if not isinstance(choices, list | tuple) or not choices:
        raise ValueError(f"{where}: choices is {choices!r}, expected a list of values")
    for choice in choices:
        if not isinstance(choice, str | int | float | bool | None):
            raise ValueError(f"{where}: the choice {choice!r} is no number, text, truth value or None")
    if len({(type(choice), choice) for choice in choices}) < len(choices):
        raise ValueError(f"{where}: a choice stands twice in {list(choices)}")
    return {"type": "categorical", "choices": list(choices)}


def _range(where, kind, entry):
    bounds = {end: _number(f"{where}: {end}", kind, entry.get(end)) for end in ("low", "high")}
    log = entry.get("log", False)
    if not isinstance(log, bool):
        raise ValueError(f"{where}: log is {log!r}, expected true or false")
    if not bounds["low"] < bounds["high"]:
        raise ValueError(f"{where}: low={bounds['low']} and high={bounds['high']}, expected low below high")
    if log and bounds["low"] <= 0:
        raise ValueError(f"{where}: low={bounds['low']}, expected more than 0 on a logarithmic scale")
    return {"type": kind, **bounds, "log": log}


def _number(where, kind, value):
    """A number; YAML reads 1e-5, which has no dot, as text."""
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    except ValueError:
        number = None
    if number is None or number - number != 0 or (kind == "int" and number != int(number)):
        expected = "a whole number" if kind == "int" else "a number"
        raise ValueError(f"{where} is {value!r}, expected {expected}")
    return int(number) if kind == "int" else number


def _kind(value):
    return "nothing" if value is None or value in ([], {}) else f"found {type(value).__name__}"
