"""Frame-wise models of AudioSet-strong pre-training: backbone, sequence model, and heads for sound events.

Source: Schmid et al., "Effective pre-training of audio transformers for sound event detection" (ICASSP 2025). Names
of tensors are those of its published files: ``model.*``, ``seq_model.*``, ``strong_head.*``, ``weak_head.*``.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from helpers.checkpoints import Loaded, load_pretrained, rename
from models import registry
from models.layers import BiGRU, BiLSTM, attention_pool, interpolate_time, pool_time
from models.registry import NOTHING, Checkpoint, grad_checkpointing_of

HEADS = ("strong_head", "weak_head")
SEQUENCE = "seq_model"
ON_TOP = tuple(rf"^{part}\." for part in (*HEADS, SEQUENCE))
AUDIOSET_HEAD = (r"^head_linear_layer\.", r"^att_linear_layer\.")
EPS = torch.finfo(torch.float32).eps  # logits of probabilities stay finite
OF_RUN = "net_strong."  # in front of all names in checkpoints of our runs, as stages expect it

CHOICES = {
    "head_type": ("linear", "attention", None),
    "seq_model_type": ("rnn", None),
    "rnn_type": ("BiGRU", "BiLSTM"),
}


class StrongPredictions(NamedTuple):
    """``strong`` [batch, n_classes, frames] and ``weak`` [batch, n_classes_weak], float32."""

    strong: Tensor
    weak: Tensor


class StrongModel(nn.Module):
    """Frame and clip logits of sound events on top of a backbone.

    Args:
        model: the backbone itself, not one inside an ``AudioSetHead``: stages would refuse its names.
        n_classes: sound events, 447 in AudioSet-strong's training set.
        n_classes_weak: classes of the clip-wise head; None means ``n_classes``.
        seq_len: frames of the output, 250 of 40 ms in ten seconds. More tokens are averaged, fewer interpolated.
        head_type: ``linear``; ``attention``, whose clip predictions are a weighted mean over frames; or None, for
            :meth:`sequence` alone.
        seq_model_type: ``rnn`` or None, the layers between backbone and heads.
        rnn_type: ``BiGRU`` or ``BiLSTM``.
        rnn_dim: units each way; the heads see twice as many.
        rnn_layers: stacked layers.
        rnn_dropout: between these layers.

    Raises:
        ValueError: an unknown choice, or an attention head whose two class numbers differ.
    """

    grad_checkpointing = grad_checkpointing_of("model")

    def __init__(
        self,
        model,
        n_classes=447,
        n_classes_weak=None,
        seq_len=250,
        head_type="linear",
        seq_model_type=None,
        rnn_type="BiGRU",
        rnn_dim=2048,
        rnn_layers=2,
        rnn_dropout=0.0,
    ):
        super().__init__()
        for entry, value in (("head_type", head_type), ("seq_model_type", seq_model_type), ("rnn_type", rnn_type)):
            if value not in CHOICES[entry]:
                raise ValueError(f"{entry}: {value!r} is none of {', '.join(map(repr, CHOICES[entry]))}")
        n_classes_weak = n_classes if n_classes_weak is None else n_classes_weak
        if head_type == "attention" and n_classes_weak != n_classes:
            raise ValueError(f"n_classes_weak: an attention head has {n_classes} of them too, got {n_classes_weak}")
        self.model = model
        self.seq_len = seq_len
        self.head_type = head_type
        self.seq_model, width = None, model.embed_dim
        if seq_model_type is not None:
            n_in, width = width, 2 * rnn_dim
            sizes = (n_in, rnn_dim) if rnn_type == "BiGRU" else (n_in, rnn_dim, width)
            layers = {"BiGRU": BiGRU, "BiLSTM": BiLSTM}[rnn_type]
            self.seq_model = layers(*sizes, num_layers=rnn_layers, dropout=rnn_dropout)
        self.strong_head = None if head_type is None else nn.Linear(width, n_classes)
        self.weak_head = None if head_type is None else nn.Linear(width, n_classes_weak)

    def sequence(self, mel, rng=None):
        """[batch, 1, bands, frames] -> what the heads see, [batch, seq_len, dim]; ``rng`` is for the backbone."""
        x = self.model(mel, rng)
        x = pool_time(x, self.seq_len) if x.shape[1] >= self.seq_len else interpolate_time(x, self.seq_len, "linear")
        return x if self.seq_model is None else self.seq_model(x)

    def forward(self, mel, rng=None) -> StrongPredictions:
        """Logits, [batch, 1, bands, frames] -> strong [batch, classes, seq_len], weak [batch, classes].

        Raises:
            ValueError: the model was built without heads.
        """
        x = self.sequence(mel, rng)
        strong, weak = self._logits(x)
        if self.head_type == "attention":
            weak = torch.logit(attention_pool(strong.sigmoid(), weak), eps=EPS)
        return StrongPredictions(strong.transpose(1, 2), weak)

    def predict(self, mel, rng=None) -> StrongPredictions:
        """Probabilities, shapes and errors as in :meth:`forward`."""
        return StrongPredictions(*map(torch.sigmoid, self(mel, rng)))

    def layer_groups(self):
        """Groups of the backbone; the layers on top of it join the last one."""
        *lower, top = self.model.layer_groups()
        return [*lower, [*top, *self.head_parameters()]]

    def head_parameters(self):
        """Parameters of the layers on top of the backbone."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("model.")]

    def idle_parameters(self):
        """Those of the backbone."""
        return self.model.idle_parameters()

    def _logits(self, x):
        """Frame logits [batch, frames, classes] and those of the weak head: of the mean frame, or of every frame."""
        if self.head_type is None:
            raise ValueError("this StrongModel has head_type=None: it has a sequence, but no classes")
        clip = x if self.head_type == "attention" else x.mean(1)
        return self.strong_head(x).float(), self.weak_head(clip).float()


def build_strong(
    arch, config: Mapping[str, Mapping] = NOTHING, n_classes=447, seq_model_type=None, **options
) -> tuple[nn.Module, StrongModel]:
    """Front end and randomly initialised model of a registered architecture.

    Args:
        arch: a registered name.
        config: the config sections of the architecture by name, as for :func:`models.registry.build`. The entries of
            the front end with which the published model was trained are ``Checkpoint.mel`` in the table.
        n_classes, seq_model_type, **options: as for :class:`StrongModel`.

    Raises:
        ValueError: unknown architecture, or a bad choice.
    """
    mel, backbone = registry.build(arch, config)
    return mel, StrongModel(backbone, n_classes, seq_model_type=seq_model_type, **options)


def published(stem, *renaming, ignored=(), mel=NOTHING) -> dict[str, Checkpoint]:
    """The table of what PretrainedSED publishes for one transformer, for the checkpoints of its plugin.

    Args:
        stem: how file names begin.
        *renaming: (regular expression, replacement) pairs.
        ignored: regular expressions of names that have no counterpart here, the tables of a front end.
        mel: entries of the front end's section.

    Returns:
        ``<stem>_strong_1`` (trained on AudioSet-strong), ``<stem>_weak`` (on AudioSet) and ``<stem>_ssl`` (without
        labels). With an ``AudioSetHead`` around it the backbone alone is used, by a :class:`StrongModel` all that fits.
    """
    return {
        name: Checkpoint(
            f"pretrained_models/{name}.pt",
            entry=None,
            rename=renaming,
            missing=AUDIOSET_HEAD,
            ignored=(*ON_TOP, *ignored),
            mel=mel,
        )
        for name in (f"{stem}_strong_1", f"{stem}_weak", f"{stem}_ssl")
    }


def load_strong(model: StrongModel, checkpoint: Checkpoint, folder) -> Loaded:
    """Loads weights into a model: of AudioSet-strong, or of the backbone alone.

    The heads start anew where the file has none or has other classes, and where the sequence model below them is new.

    Args:
        model: the model.
        checkpoint: any of the architecture's, or one of a run (:func:`checkpoint_of_run`).
        folder: the resources folder.

    Raises:
        FileNotFoundError, ValueError: as :func:`helpers.checkpoints.load_pretrained`: no backbone is loaded in part,
            and no sequence model is dropped.
    """
    return load_pretrained(model, _for_strong(model, checkpoint), folder)


def checkpoint_of_run(file) -> Checkpoint:
    """How a file of :func:`for_stages` is read, by :func:`load_strong` or into an ``AudioSetHead``."""
    return Checkpoint(
        str(file),
        select=rf"^{OF_RUN}",
        rename=((rf"^{OF_RUN}", ""),),
        missing=AUDIOSET_HEAD,
        ignored=ON_TOP,
    )


def for_stages(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """A checkpoint from which stage 1 starts, with the backbone under the names of the published ``*_as_strong``.

    Args:
        state: the state dict of a :class:`StrongModel`.

    Returns:
        the contents of the file; the caller may add entries.

    Raises:
        ValueError: names which the published loader rejects, those of a backbone inside an ``AudioSetHead``.
    """
    foreign = [name for name in state if name.startswith(("model.head_linear_layer.", "model.att_linear_layer."))]
    if foreign:
        raise ValueError(f"{foreign[0]}: the state is not of a StrongModel around the backbone itself")
    return {"state_dict": {f"{OF_RUN}{name}": tensor for name, tensor in state.items()}}


def _for_strong(model, checkpoint):
    """The table's description of a file, with the rules of this module for what stands on top of the backbone."""
    if checkpoint is None:
        return None

    def convert(state):
        state = state if checkpoint.convert is None else checkpoint.convert(state)
        return _fitting(model, rename(state, checkpoint.rename))

    return replace(
        checkpoint,
        convert=convert,
        rename=(),
        missing=(*checkpoint.missing, *ON_TOP),
        ignored=(*(pattern for pattern in checkpoint.ignored if pattern not in ON_TOP), *AUDIOSET_HEAD),
        otherwise=_for_strong(model, checkpoint.otherwise),
    )


def _fitting(model, state):
    """The state without heads for other classes, or for other features than those of this model."""
    own = model.state_dict()
    new_sequence = model.seq_model is not None and not _part(state, SEQUENCE)
    dropped = []
    for head in HEADS:
        weights = [tensors.get(f"{head}.weight") for tensors in (own, state)]
        if new_sequence or any(weight is None for weight in weights) or len(weights[0]) != len(weights[1]):
            dropped += _part(state, head)
    state = {name: tensor for name, tensor in state.items() if name not in dropped}
    for part in (*HEADS, SEQUENCE):
        absent = [name for name in _part(own, part) if name not in state]
        if absent and _part(state, part):
            raise ValueError(f"{absent[0]} is missing, {part} can only be loaded as a whole")
    return state


def _part(state, part):
    return [name for name in state if name.startswith(f"{part}.")]
