"""Clip-wise classification by any architecture: one contract, and a pooling head for networks without a classifier."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from helpers.checkpoints import Loaded, config_of_run, load_exact, load_pretrained, read
from helpers.tagging_settings import content_of_run
from models import registry
from models.registry import NOTHING, Architecture, Backbone, Checkpoint, defaults, grad_checkpointing_of

RUN_ENTRY = "tagger"  # the key of our own weights files that holds the state dict
AUDIOSET_CLASSES = 527
POOLINGS = ("mean", "attention")
BACKBONE = "backbone."  # what the names of a network below a pooling head begin with
ATTENTION, HEAD = (r"^attention\.",), (r"^(attention|classifier)\.",)  # names of a pooling head
SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")


class Tagger(nn.Module):
    """Features of a clip in, logits and an embedding out.

    Attributes:
        n_classes: number of classes.
        embed_dim: size of the clip embedding.
        classifier_names: regular expression of the state-dict names whose shape may hang on the number of classes.
    """

    n_classes: int
    embed_dim: int
    classifier_names = r"^classifier\."

    def tag(self, mel, rng=None):
        """Clip-wise classification.

        Args:
            mel: features of the front end, [batch, 1, bands, frames].
            rng: numpy Generator for the draws of training mode, as for :meth:`models.registry.Backbone.forward`.

        Returns:
            logits [batch, n_classes], before the sigmoid or softmax, and the embedding [batch, embed_dim].
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it tags a clip")

    def unused_in_tagging(self) -> list[nn.Parameter]:
        """Parameters without part in :meth:`tag`."""
        return []

    def start_epoch(self, epoch: int):
        """Follows the schedule that a network has of its own; to be called before every epoch, the first is 0."""

    def receptive_layers(self):
        """(kernel, stride, dilation) of the convolutions one after the other, numbers or pairs (frequency, time).

        None for a network that sees its whole input at once.
        """
        return None


class ClipTagger(Backbone, Tagger):
    """A tagger from any backbone: its frame embeddings are pooled over time and classified by one linear layer.

    Args:
        backbone: the network.
        n_classes: number of classes.
        pooling: ``mean``, or ``attention``: a mean with one learned weight per frame, which starts as the plain mean
            (Ilse et al., "Attention-based Deep Multiple Instance Learning", ICML 2018, section 2.4, without gate).

    Raises:
        ValueError: unknown pooling.
    """

    grad_checkpointing = grad_checkpointing_of("backbone")

    def __init__(self, backbone: Backbone, n_classes: int, pooling: str = "mean"):
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling: '{pooling}' is none of {', '.join(POOLINGS)}")
        self.backbone = backbone
        self.n_classes, self.embed_dim = n_classes, backbone.embed_dim
        self.attention = None
        if pooling == "attention":
            self.attention = nn.Linear(self.embed_dim, 1)
            nn.init.zeros_(self.attention.weight)
        self.classifier = nn.Linear(self.embed_dim, n_classes)

    def forward(self, mel, rng=None):
        """Frame embeddings of the backbone."""
        return self.backbone(mel, rng)

    def tag(self, mel, rng=None):
        """See :class:`Tagger`; the embedding is the pooled frame embedding."""
        frames = self.backbone(mel, rng)
        if self.attention is None:
            embedding = frames.mean(1)
        else:
            weights = torch.softmax(self.attention(frames).float(), dim=1)  # over time, also under autocast
            embedding = (weights.to(frames.dtype) * frames).sum(1)
        return self.classifier(embedding), embedding

    def layer_groups(self):
        """Groups of the backbone; the layers of the head join the last one."""
        *lower, top = self.backbone.layer_groups()
        return [*lower, [*top, *self._head()]]

    def idle_parameters(self):
        """Those of the backbone and of the head."""
        return [*self.backbone.idle_parameters(), *self._head()]

    def start_epoch(self, epoch):
        """The schedule of the backbone, where it has one."""
        if isinstance(self.backbone, Tagger):
            self.backbone.start_epoch(epoch)

    def unused_in_tagging(self):
        """Those without part in the frame embeddings."""
        return self.backbone.idle_parameters()

    def receptive_layers(self):
        """Those of the backbone, where it has any."""
        layers = getattr(self.backbone, "receptive_layers", None)
        return layers() if layers else None

    def _head(self):
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("backbone.")]


def build_tagger(
    arch: str,
    config: Mapping[str, Mapping[str, object]] = NOTHING,
    n_classes: int | None = None,
    pooling: str | None = None,
) -> tuple[nn.Module, Tagger]:
    """Front end and randomly initialised tagger of any registered architecture.

    Args:
        arch: a registered name.
        config: section name -> entries, as in :func:`models.registry.sections`; entries left out have their defaults.
        n_classes: number of classes; None means what the config or the network says, 527 without either.
        pooling: ``mean`` or ``attention`` put a :class:`ClipTagger` on the frame embeddings; None does so, with the
            mean, only where the network has no classifier of its own.

    Returns:
        the mel front end and the tagger; what has no part in tagging is frozen, so every parameter that is left gets
        a gradient in every step.

    Raises:
        ValueError: unknown architecture or pooling, no class, or an entry that does not fit.
    """
    if n_classes is not None and n_classes < 1:
        raise ValueError(f"n_classes: a tagger needs at least one class, got {n_classes}")
    architecture = registry.get(arch)
    own_head = pooling is None and "num_classes" in defaults(architecture.net, architecture.preset)
    if own_head and n_classes is not None:
        section = {**config.get(architecture.section, NOTHING), "num_classes": n_classes}
        config = {**config, architecture.section: section}
    mel, net = registry.build(arch, config)
    tagger = net if own_head else ClipTagger(net, n_classes or AUDIOSET_CLASSES, pooling or "mean")
    for parameter in tagger.unused_in_tagging():
        parameter.requires_grad_(False)
    return mel, tagger


def load_tagger(tagger: Tagger, arch: str, pretrained_name: str | None, folder) -> Loaded | None:
    """Loads weights into a tagger. A classifier for another number of classes keeps its initial values.

    Args:
        tagger: what :func:`build_tagger` made for ``arch``.
        arch: a registered name.
        pretrained_name: a file, published or of one of our runs; a published name of the architecture or of another
            one with the same config section; ``"own"`` for that of ``arch``; None loads nothing.
        folder: the resources folder, where published files are.

    Returns:
        the names restored and left at their initial values; None where nothing was loaded.

    Raises:
        FileNotFoundError: no such file; the message has the download command.
        ValueError: unknown name, or a file that is damaged, does not fit or is of a run whose network does not tag
            clips; the message names it.
    """
    checkpoint, path = published_checkpoint(arch, pretrained_name), local_file(pretrained_name)
    if path is not None:
        content = read(path)
        if RUN_ENTRY in content:
            return _load_run(tagger, content[RUN_ENTRY], str(path))
        if content_of_run(path):
            trained_on = config_of_run(content).get("dataset")
            raise ValueError(f"{pretrained_name} holds a frame-wise model of {trained_on}, expected a tagger")
        checkpoint = replace(_layout(registry.get(arch), path), file=str(path.absolute()))
    if checkpoint is None:
        return None
    net = tagger.backbone if isinstance(tagger, ClipTagger) else tagger
    return load_pretrained(net, checkpoint, folder, prefix="model.")


def _load_run(tagger, state, name) -> Loaded:
    """The tagger of a run. Where that pools in another way, its head is left out, and the network below is loaded."""
    pooled = isinstance(tagger, ClipTagger)
    theirs = any(entry.startswith(BACKBONE) for entry in state)
    if pooled and not theirs:
        state = {f"{BACKBONE}{entry}": tensor for entry, tensor in state.items()}
    elif theirs and not pooled:
        state = {entry.removeprefix(BACKBONE): state[entry] for entry in state if entry.startswith(BACKBONE)}
    other_head = HEAD if pooled != theirs else ATTENTION if pooled else ()
    resized = [tagger.classifier_names]
    if pooled and isinstance(tagger.backbone, Tagger):
        resized.append(tagger.backbone.classifier_names.replace("^", r"^backbone\."))
    return load_exact(tagger, state, missing=other_head, ignored=other_head, resized=resized, name=name)


def published_checkpoint(arch: str, pretrained_name: str | None) -> Checkpoint | None:
    """The published file that :func:`load_tagger` reads for this name; None for a local file, or none at all.

    Raises:
        ValueError: unknown name.
    """
    if local_file(pretrained_name) is not None:
        return None
    architecture = registry.get(arch)
    for member in _family(architecture):
        if pretrained_name in member.checkpoints:
            return member.checkpoints[pretrained_name]
    return architecture.checkpoint(pretrained_name)


def local_file(name) -> Path | None:
    """The file that a value of ``pretrained_name`` is; None for a published name, or none at all."""
    if name is None:
        return None
    path = Path(name)
    return path if path.suffix in SUFFIXES or len(path.parts) > 1 or path.is_file() else None


def _family(architecture) -> list[Architecture]:
    """The architecture and all others that share its config section."""
    others = map(registry.get, registry.names())
    return [architecture, *(other for other in others if other.section == architecture.section)]


def _layout(architecture, path) -> Checkpoint:
    """How the tensors of a published file become ours: by its file name, else as in the architecture's own file."""
    known = [checkpoint for member in _family(architecture) for checkpoint in member.checkpoints.values()]
    same_file = [checkpoint for checkpoint in known if Path(checkpoint.file).name == path.name]
    own = architecture.checkpoint(registry.OWN)
    bare = Checkpoint(path.name, entry=None, rename=((r"^", "model."),))
    return next(iter([*same_file, *filter(None, [own]), *known, bare]))
