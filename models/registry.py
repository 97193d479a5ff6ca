"""Registry of audio architectures: a plugin names its network, mel front end, config sections and checkpoints.

Adding an architecture is adding a module below ``models/`` that calls :func:`register`; nothing else changes.
A network is known by the :class:`Backbone` contract alone, in the spirit of the HEAR interface (sample rate,
embedding size, embeddings over time).
"""

import difflib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import nn

NOTHING = MappingProxyType({})
OWN = "own"


class Backbone(nn.Module):
    """Features of a mel front end in, frame embeddings out.

    Attributes:
        embed_dim: size of one frame embedding.
        grad_checkpointing: compute activations again in the backward pass instead of storing them. It may be set at
            any time, and changes no gradient.
    """

    embed_dim: int
    grad_checkpointing = False

    def forward(self, mel, rng=None):
        """[batch, 1, bands, frames] -> [batch, time, embed_dim], at whatever time resolution the network has.

        Args:
            mel: features of the front end.
            rng: numpy Generator for the draws of training mode, beside dropout, which draws from torch's own; without
                it, or in evaluation mode, nothing else is random.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it embeds a mel spectrogram")

    def layer_groups(self):
        """Lists of parameters, input side first; together they hold every parameter exactly once."""
        raise NotImplementedError(f"{type(self).__name__} does not group its parameters by depth")

    def idle_parameters(self):
        """Parameters without part in the embeddings: kept for a state dict, or for another use of the network."""
        return []


def grad_checkpointing_of(network: str) -> property:
    """The switch ``grad_checkpointing`` of the backbone in this attribute, for a module that wraps it."""

    def switch(module, value):
        getattr(module, network).grad_checkpointing = value

    return property(lambda module: getattr(module, network).grad_checkpointing, switch)


@dataclass(frozen=True)
class Checkpoint:
    """A published weights file and how its tensor names become ours.

    Names are those of the AudioSet wrapper: ``model.<backbone name>``, ``head_linear_layer.*``.

    Attributes:
        file: path below the resources folder.
        entry: the key of the file that holds the tensors, None when the file is the state dict itself.
        select: only names in which this regular expression is found are used, all others are ignored.
        rename: (regular expression, replacement) pairs, applied in order.
        missing: regular expressions of names that stay at their initial values when this checkpoint is loaded.
        ignored: regular expressions of (renamed) names that the file may hold and the model does not need.
        resized: regular expressions of names that stay at their initial values where the model has another shape, as
            a classifier for other classes has.
        wrapper: the ``t4_wrapper`` entries which the checkpoint was trained with.
        mel: the entries of the front end's section which it was trained with.
        config: the key of the file that holds the configuration of the network, handed to the backbone's
            ``use_config`` before the tensors are loaded; None when the file has none.
        convert: state dict -> state dict, applied to the selected tensors before they are renamed.
        otherwise: the layout to try when ``select`` finds no name in the file.
    """

    file: str
    entry: str | None = "state_dict"
    select: str = ""
    rename: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    wrapper: Mapping[str, object] = field(default_factory=lambda: NOTHING)
    mel: Mapping[str, object] = field(default_factory=lambda: NOTHING)
    config: str | None = None
    convert: Callable[[Mapping], Mapping] | None = None
    otherwise: "Checkpoint | None" = None


@dataclass(frozen=True)
class Architecture:
    """One registry entry.

    Attributes:
        name: what users type after ``arch=``.
        net: builds the :class:`Backbone`; its keyword defaults are the config section ``section``.
        mel: builds the front end [batch, samples] -> [batch, 1, bands, frames]; its keyword defaults are the
            config section ``mel_section``. It has the attribute ``sample_rate``.
        checkpoints: published weights by name.
        pretrained_name: default of ``<section>.pretrained_name``; where several names share a section and differ in
            it, that default is ``"own"``.
        preset: keywords of ``net`` which the name decides (a family's width); they are no config entries.
        mel_preset: the same for ``mel``.
        loading: further entries of ``section`` with their defaults, which say what is loaded (``models.sed``).
    """

    name: str
    net: Callable[..., Backbone]
    mel: Callable[..., nn.Module]
    section: str
    mel_section: str
    checkpoints: Mapping[str, Checkpoint] = field(default_factory=lambda: NOTHING)
    pretrained_name: str | None = None
    preset: Mapping[str, object] = field(default_factory=lambda: NOTHING)
    mel_preset: Mapping[str, object] = field(default_factory=lambda: NOTHING)
    loading: Mapping[str, object] = field(default_factory=lambda: NOTHING)

    def checkpoint(self, pretrained_name: str | None) -> Checkpoint | None:
        """What a value of ``pretrained_name`` stands for: None for none, ``"own"`` for the default of this name.

        Raises:
            ValueError: unknown name; the message lists the known ones.
        """
        name = self.pretrained_name if pretrained_name == OWN else pretrained_name
        if name is None:
            return None
        if name not in self.checkpoints:
            known = ", ".join(self.checkpoints) or "none"
            raise ValueError(
                f"{self.section}.pretrained_name: '{name}' is no checkpoint of {self.name} (known: {known})"
            )
        return self.checkpoints[name]


_ARCHITECTURES: dict[str, Architecture] = {}


def register(architecture: Architecture) -> Architecture:
    """Adds an entry.

    Raises:
        ValueError: the name is taken.
    """
    if architecture.name in _ARCHITECTURES:
        raise ValueError(f"architecture '{architecture.name}' is registered twice")
    _ARCHITECTURES[architecture.name] = architecture
    return architecture


def load_plugins(package="models"):
    """Imports every sub-package of ``models``, so that dropping a folder in registers what it holds."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if module.ispkg:
            importlib.import_module(f"{package}.{module.name}")


def names() -> list[str]:
    """Names of all registered architectures, in order of registration."""
    return list(_ARCHITECTURES)


def get(name: str) -> Architecture:
    """The entry of that name.

    Raises:
        ValueError: unknown name; the message names the nearest known ones.
    """
    if name not in _ARCHITECTURES:
        near = difflib.get_close_matches(str(name), _ARCHITECTURES, n=3, cutoff=0.4)
        hint = f", did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"unknown arch '{name}'{hint} (known: {', '.join(_ARCHITECTURES)})")
    return _ARCHITECTURES[name]


def sections() -> dict[str, dict[str, object]]:
    """Config sections of all plugins: section name -> entries with their defaults, read off the signatures."""
    result: dict[str, dict[str, object]] = {}
    for architecture in _ARCHITECTURES.values():
        result.setdefault(architecture.mel_section, {}).update(defaults(architecture.mel, architecture.mel_preset))
        section = result.setdefault(architecture.section, {})
        section.update(defaults(architecture.net, architecture.preset), **architecture.loading)
        if section.setdefault("pretrained_name", architecture.pretrained_name) != architecture.pretrained_name:
            section["pretrained_name"] = OWN
    return result


def defaults(target: Callable, preset: Iterable[str] = ()) -> dict[str, object]:
    """Keyword defaults of a callable, without those that ``preset`` names."""
    parameters = inspect.signature(target).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in preset}


def build(name: str, config: Mapping[str, Mapping[str, object]] = NOTHING) -> tuple[nn.Module, Backbone]:
    """Front end and randomly initialised network of an architecture.

    Args:
        name: a registered name.
        config: section name -> entries, as in :func:`sections`; entries left out have their defaults.

    Returns:
        the mel front end and the backbone.
    """
    architecture = get(name)

    def make(target, section, preset):
        accepted = defaults(target, preset)
        entries = {key: value for key, value in config.get(section, NOTHING).items() if key in accepted}
        return target(**entries, **preset)

    mel = make(architecture.mel, architecture.mel_section, architecture.mel_preset)
    net = make(architecture.net, architecture.section, architecture.preset)
    return mel, net


def groups_by_depth(module: nn.Module, blocks: str, last: str) -> list[list[nn.Parameter]]:
    """Splits the parameters of a network by depth: 0 the input side, i + 1 block i, n + 1 what ``last`` names.

    Args:
        module: the network.
        blocks: regular expression whose first group is a block's number, e.g. ``r"\\bblocks\\.(\\d+)\\."``.
        last: regular expression of the names on the output side.

    Returns:
        n + 2 lists, disjoint and complete; a list may be empty.
    """
    named = list(module.named_parameters())
    numbers = [re.search(blocks, name) for name, _ in named]
    n_blocks = 1 + max((int(number.group(1)) for number in numbers if number), default=-1)
    groups: list[list[nn.Parameter]] = [[] for _ in range(n_blocks + 2)]
    for (name, parameter), number in zip(named, numbers):
        depth = int(number.group(1)) + 1 if number else (n_blocks + 1 if re.search(last, name) else 0)
        groups[depth].append(parameter)
    return groups
