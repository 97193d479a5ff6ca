"""Weights files: reading without running code, renaming by rules, loading that says exactly what does not fit.

Layout of a stage checkpoint, published ones and ours: a Lightning checkpoint whose ``state_dict`` holds the whole
module, and whose entries ``student`` and ``teacher`` hold one task-4 model each, names without prefix.
"""

import argparse
import json
import logging
import os
import pathlib
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

log = logging.getLogger(__name__)

NAMED_IN_ERRORS = 3  # tensors named per kind of mismatch; the rest is counted

# Entries of Lightning's checkpoints without which one is still a weights file.
STATE_OF_TRAINING = ("optimizer_states", "lr_schedulers", "callbacks", "loops", "MixedPrecision", "Loaders")

SAFETENSORS = ".safetensors"
SAME = "same"  # metadata entry of our own files of that kind: names of tensors that are stored under another name


def _numpy_types():
    core = getattr(np, "_core", None) or np.core
    by_name = [
        (getattr(core.multiarray, function), f"numpy.{package}.multiarray.{function}")
        for function in ("scalar", "_reconstruct")
        for package in ("core", "_core")
    ]
    return [*by_name, np.dtype, np.ndarray, *(getattr(np.dtypes, name) for name in np.dtypes.__all__)]


_LIGHTNING_MODULES = (
    "lightning.fabric.utilities.data",
    "lightning_fabric.utilities.data",
    "pytorch_lightning.utilities.parsing",
)

# Published files are Lightning checkpoints, in which options of the run stand beside the tensors. These types hold
# data and run nothing when they are read (attribute dictionaries become plain ones); a file with any other is refused.
HARMLESS = [
    argparse.Namespace,
    *((pathlib.PurePosixPath, f"pathlib.{name}") for name in ("PosixPath", "PurePosixPath", "_local.PosixPath")),
    *((OrderedDict, f"{module}.AttributeDict") for module in _LIGHTNING_MODULES),
    *_numpy_types(),
]


class Loaded(NamedTuple):
    """Names of a module's tensors: those that a checkpoint filled, and those that keep their values."""

    restored: list[str]
    left: list[str]


def read(path) -> dict:
    """The contents of a weights file, tensors on the CPU, mapped from disk where the format allows.

    Nothing in the file is executed: it may hold tensors, plain containers and the types of :data:`HARMLESS`. A
    ``.safetensors`` file of :mod:`helpers.convert` has the entries of the file that it was made from.

    Returns:
        the dictionary in the file; of a pair of state dicts, as the trials of the retrieval baseline of DCASE 2023 keep
        them, the entries ``model_state_dict`` and ``optimizer_state_dict``.

    Raises:
        FileNotFoundError: no such file; the message has the download command.
        ValueError: the file is truncated, is no weights file, or holds objects of other types.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        published = f"if it is a published one: python download_resources.py --only {path.stem}"
        raise FileNotFoundError(f"{path.absolute()}: no such weights file; {published}")
    if path.suffix == SAFETENSORS:
        return _read_safetensors(path)
    try:
        with torch.serialization.safe_globals(HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        unsupported = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"holds a {unsupported.group(1)}" if unsupported else "is truncated or no weights file"
        raise ValueError(f"{path} {reason}; expected a file of tensors written by torch.save") from error
    except MemoryError:
        raise
    except Exception as error:  # torch raises a dozen types for a damaged file, among them KeyError and EOFError
        raise ValueError(
            f"{path} is truncated or no weights file ({_first_line(error)}); expected a file written by torch.save"
        ) from error
    if isinstance(content, tuple | list) and [isinstance(part, dict) for part in content] == [True, True]:
        content = dict(zip(("model_state_dict", "optimizer_state_dict"), content))
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a dictionary of tensors")
    return content


def _read_safetensors(path) -> dict:
    """The entries of a file of :mod:`helpers.convert`; the tensors of any other."""
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError:
        raise ValueError(f"{path}: to read it, install the package safetensors") from None
    try:
        with safe_open(path, "pt") as file:
            # Clones, since all are views of one memory map, which torch.save would write whole, or refuse.
            metadata, tensors = file.metadata() or {}, {name: file.get_tensor(name).clone() for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is truncated or no weights file ({_first_line(error)})") from error
    if SAME not in metadata:
        return tensors
    try:
        tensors |= {name: tensors[other] for name, other in json.loads(metadata[SAME]).items()}
        content = {entry: json.loads(text) for entry, text in metadata.items() if entry not in (SAME, "format")}
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} has damaged metadata ({_first_line(error)})") from error
    for name, tensor in tensors.items():
        *entries, last = name.split("/")
        state = content
        for entry in entries:
            state = state.setdefault(entry, {})
        state[last] = tensor
    return content


def stage_file(name, folder) -> pathlib.Path:
    """The file of a stage checkpoint: ``name`` itself where it is a path, else ``<folder>/<name>.ckpt``."""
    path = pathlib.Path(name)
    is_path = path.is_file() or path.suffix == ".ckpt" or len(path.parts) > 1
    return path if is_path else pathlib.Path(folder) / f"{name}.ckpt"


def config_of_run(content: Mapping) -> dict:
    """The config of the run that wrote a checkpoint; empty for a published file, which holds none."""
    config = content.get("config")
    return dict(config) if isinstance(config, Mapping) else {}


def save(path, entries: Mapping):
    """Writes a dictionary so that ``path`` always is a complete file: under a temporary name first, then renamed."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save(dict(entries), temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def rename(state: Mapping, rules: Iterable[tuple[str, str]]) -> dict:
    """A state dict with other names.

    Args:
        state: name -> tensor.
        rules: (regular expression, replacement) pairs, applied to every name in order.

    Raises:
        ValueError: two names become the same.
    """
    rules = tuple(rules)
    result, origin = {}, {}
    for old, tensor in state.items():
        new = old
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        if new in result:
            raise ValueError(f"the names {origin[new]} and {old} both become {new}")
        result[new], origin[new] = tensor, old
    return result


def load_exact(
    module: nn.Module,
    state: Mapping[str, torch.Tensor],
    *,
    missing: Iterable[str] = (),
    ignored: Iterable[str] = (),
    resized: Iterable[str] = (),
    prefix: str = "",
    name: str = "the checkpoint",
) -> Loaded:
    """Fills a module with tensors by name, or leaves it untouched and says why.

    Args:
        module: the module.
        state: name -> tensor of the same shape; the tensor is cast to the module's dtype.
        missing: regular expressions of names which ``state`` may lack; the module keeps its values there.
        ignored: regular expressions of names which ``state`` may have and the module does not need.
        resized: regular expressions of names which are left out where the module has another shape.
        prefix: what the names of ``state`` (and the lists of patterns) have in front of the module's names;
            names without it are left out.
        name: what the error calls the state, a file name.

    Raises:
        ValueError: anything else is missing, unexpected or of another shape or kind. Nothing is loaded then.
    """
    own = module.state_dict()
    theirs = {key[len(prefix) :]: tensor for key, tensor in state.items() if key.startswith(prefix)}
    reshaped = {
        key
        for key, tensor in theirs.items()
        if key in own and _matches(resized, prefix + key) and getattr(tensor, "shape", None) != own[key].shape
    }
    theirs = {key: tensor for key, tensor in theirs.items() if key not in reshaped}
    left = [key for key in own if key not in theirs]
    restored = [key for key in own if key in theirs]
    absent = [key for key in left if key not in reshaped and not _matches(missing, prefix + key)]
    unexpected = [key for key in theirs if key not in own and not _matches(ignored, prefix + key)]
    differing = [text for key in restored if (text := _difference(key, theirs[key], own[key]))]
    if absent or unexpected or differing:
        kinds = (("missing", absent), ("unexpected", unexpected), ("different", differing))
        problems = [f"{len(found)} tensors {kind} ({_some(found)})" for kind, found in kinds if found]
        if not restored:
            problems.append("no name in it is one of the model's, is it for another architecture?")
        raise ValueError(f"{name} does not fit {type(module).__name__}: {'; '.join(problems)}")
    module.load_state_dict({key: theirs[key] for key in restored}, strict=False)
    return Loaded(restored, left)


def load_pretrained(module: nn.Module, checkpoint, folder, prefix: str = "") -> Loaded:
    """Loads published weights into an AudioSet wrapper, or into the backbone inside one.

    Which layouts of a file load is the table's matter alone: one that the published loader rejects although its names
    are unambiguous (``net_strong.model.model.atst.*``) needs one more rename rule, else it is an error here too.

    Args:
        module: the wrapper, or a bare backbone.
        checkpoint: the table's description of the file, with names as in the wrapper (see
            ``models.registry.Checkpoint`` for its attributes).
        folder: the resources folder.
        prefix: "" for a wrapper; "model." for a bare backbone, which takes the tensors below that name and leaves
            those of the AudioSet head.

    Raises:
        FileNotFoundError, ValueError: as :func:`read` and :func:`load_exact`; the message names the file.
    """
    path = pathlib.Path(folder) / checkpoint.file
    content = read(path)
    state = _selected(content, checkpoint, path)
    while not state and checkpoint.otherwise is not None:
        checkpoint = checkpoint.otherwise
        state = _selected(content, checkpoint, path)
    try:
        if checkpoint.config is not None:
            (module if prefix else module.model).use_config(_entry(content, checkpoint.config, path))
        if checkpoint.convert is not None:
            state = checkpoint.convert(state)
        state = rename(state, checkpoint.rename)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    rules = {"missing": checkpoint.missing, "ignored": checkpoint.ignored, "resized": checkpoint.resized}
    loaded = load_exact(module, state, **rules, prefix=prefix, name=str(path))
    if loaded.left:
        log.info("%s has no weights for %s: initial values stay", path.name, _some(loaded.left))
    return loaded


def initialise_from_run(
    model: nn.Module, path, mode: str = "student", key: str = "t4_wrapper.model_init_mode"
) -> Loaded:
    """Loads one of the two models of a stage checkpoint, strictly; its other tensors (front ends) are left.

    Args:
        model: a task-4 model.
        path: a stage checkpoint, published or of a run.
        mode: ``student`` or ``teacher``.
        key: the config entry that ``mode`` comes from.

    Raises:
        FileNotFoundError, ValueError: as :func:`read` and :func:`load_exact`, or the file is no stage checkpoint.
    """
    if mode not in ("student", "teacher"):
        raise ValueError(f"{key}: {mode!r}, expected 'student' or 'teacher'")
    content = read(path)
    if mode not in content and "state_dict" in content:
        return load_exact(model, content["state_dict"], prefix=f"{mode}.", name=str(path))
    return load_exact(model, _entry(content, mode, path), name=str(path))


def _selected(content, checkpoint, path):
    state = content if checkpoint.entry is None else _entry(content, checkpoint.entry, path)
    return {key: tensor for key, tensor in state.items() if re.search(checkpoint.select, key)}


def _entry(content, entry, path):
    state = content.get(entry)
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} has no entry '{entry}' with tensors (it has: {_some(list(content), 8)})")
    return state


def _difference(key, tensor, own):
    """What keeps a tensor from being copied onto the module's own, None when nothing does."""
    if not isinstance(tensor, torch.Tensor):
        return f"{key}: {type(tensor).__name__} instead of a tensor"
    if tensor.shape != own.shape:
        return f"{key}: {list(tensor.shape)} instead of {list(own.shape)}"
    if tensor.is_floating_point() != own.is_floating_point():
        return f"{key}: {tensor.dtype} instead of {own.dtype}"
    return None


def _matches(patterns, key):
    return any(re.search(pattern, key) for pattern in patterns)


def _some(names, at_most=NAMED_IN_ERRORS):
    return ", ".join(map(str, names[:at_most])) + (", ..." if len(names) > at_most else "")


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0][:100].rstrip(". ")
