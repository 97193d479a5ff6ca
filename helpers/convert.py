"""Weights files as safetensors, and back: ``python -m helpers.convert IN OUT``; the suffix of OUT says which.

The tensors of nested entries are called ``entry/name``, and those of a bare state dict keep their names; entries that
are no tensors (config, classes, metric, revision, ...) are JSON in the metadata, under their own names. Tensors that
several entries share are stored once. The state of a training is left out: to go on with it, keep the checkpoint.
:func:`helpers.checkpoints.read` reads both.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from helpers.checkpoints import SAFETENSORS, SAME, STATE_OF_TRAINING, read, save
from helpers.files import replacing

TORCH = (".ckpt", ".pt", ".pth")


def convert(source, target) -> list[str]:
    """Writes the content of a weights file in the format that the suffix of another names.

    Returns:
        the entries that were left out.

    Raises:
        FileNotFoundError, ValueError: the source cannot be read, see :func:`helpers.checkpoints.read`; the target has
            another suffix, or is the source; an entry cannot be written.
    """
    source, target = Path(source), Path(target)
    if target.suffix not in (SAFETENSORS, *TORCH):
        raise ValueError(f"{target}: unknown format, expected a file called *{SAFETENSORS} or *{', *'.join(TORCH)}")
    if target.resolve() == source.resolve():
        raise ValueError(f"{target} is to be written over itself, choose another name")
    content = read(source)
    if target.suffix == SAFETENSORS:
        return save_safetensors(target, content)
    save(target, content)
    return []


def save_safetensors(path, content: Mapping) -> list[str]:
    """Writes the entries of a checkpoint, or a bare state dict; see the module.

    Returns:
        the entries that were left out: the state of a training, and what is neither tensors nor JSON.

    Raises:
        ValueError: there is no tensor, a name has a "/", or the package safetensors is missing.
    """
    try:
        from safetensors.torch import save_file
    except ModuleNotFoundError:
        raise ValueError(f"{path}: to write it, install the package safetensors") from None
    tensors, metadata, left = {}, {}, []
    for entry, value in content.items():
        leaves = list(_leaves(value, entry))
        if entry not in STATE_OF_TRAINING and leaves and all(isinstance(leaf, torch.Tensor) for _, leaf in leaves):
            if odd := [key for keys, _ in leaves for key in keys if "/" in key]:
                raise ValueError(f"{path}: the name {odd[0]} has a '/', which stands between an entry and a name")
            tensors |= {"/".join(keys): leaf for keys, leaf in leaves}
        elif entry in (*STATE_OF_TRAINING, SAME, "format") or (text := _as_json(value)) is None:
            left.append(entry)
        else:
            metadata[entry] = text
    if not tensors:
        raise ValueError(f"{path}: there is no tensor to write")
    stored, same = _shared(tensors)
    with replacing(path) as temporary:
        save_file(stored, temporary, {**metadata, SAME: json.dumps(same), "format": "pt"})
    return left


def _leaves(value, *keys) -> Iterator[tuple[tuple[str, ...], object]]:
    """Keys and value of each thing that is nested in dictionaries with text keys; nothing of an empty one."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        yield keys, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, *keys, key)


def _as_json(value) -> str | None:
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        return None


def _shared(tensors) -> tuple[dict, dict]:
    """Tensors to store, each of its own memory, and name -> name of those that are another one once more."""
    stored, same, seen = {}, {}, {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if seen.setdefault(key, name) != name:
            same[name] = seen[key]
        else:
            stored[name] = tensor.detach().contiguous().clone()
    return stored, same


def main(argv=None):
    """Command line; the exit status is 1, behind one line, where it cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="IN", help="a weights file, published or of a run")
    parser.add_argument("target", metavar="OUT", help=f"the new file: *{SAFETENSORS}, or *{', *'.join(TORCH)}")
    options = parser.parse_args(argv)
    try:
        left = convert(options.source, options.target)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {options.target}" + (f" (without {', '.join(left)})" if left else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
