"""The sound event detector of task 4: CNN features and frame embeddings, joined, through a GRU to 27 classes.

Source: Schmid et al., "Multi-iteration multi-stage fine-tuning of transformers for sound event detection with
heterogeneous datasets" (DCASE 2024), section 3; the CNN and the GRU are those of the DESED baseline.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.heads import AudioSetHead
from models.layers import (
    BiGRU,
    ContextGate,
    GatedLinear,
    attention_pool,
    drop_steps,
    interpolate_time,
    pool_time,
)

ACTIVATIONS = {"cg": ContextGate, "glu": GatedLinear, "relu": lambda channels: nn.ReLU()}
ACCEPTED = {
    "activation": tuple(ACTIVATIONS),
    "rnn_type": ("BGRU",),
    "embed_pool": ("aap", "int", "conv"),
    "interpolation_mode": ("nearest", "nearest-exact", "linear"),
    "aggregation_type": ("pool1d",),
    "embedding_type": ("frame",),
    "use_embeddings": (True,),
    "name": ("Task4CRNNEmbeddingsWrapper",),
}
ANY_EMBEDDING_SIZE = (None, 768)  # values of `embedding_size` that leave the width to the backbone
CONV_POOL_KERNEL = 95  # brings 250 tokens to 156 frames; the shape of a stored weight
MASKED_LOGIT = -1e30  # a class outside the mask gets no attention


class Predictions(NamedTuple):
    """Probabilities: ``strong`` [batch, classes, frames] and ``weak`` [batch, classes], float32."""

    strong: Tensor
    weak: Tensor


class CNN(nn.Module):
    """Convolution, batch norm, activation, dropout and average pooling per block.

    [batch, n_in_channel, time, bands] -> [batch, nb_filters[-1], time', bands'].
    """

    def __init__(self, n_in_channel, activation, dropout, kernel_size, padding, stride, nb_filters, pooling):
        super().__init__()
        per_block = {"kernel_size": kernel_size, "padding": padding, "stride": stride, "pooling": pooling}
        for entry, values in per_block.items():
            if len(values) != len(nb_filters):
                raise ValueError(
                    f"t4_wrapper.{entry}: {len(values)} entries, expected {len(nb_filters)}, as many as nb_filters"
                )
        self.cnn = nn.Sequential()
        for i, channels in enumerate(nb_filters):
            self.cnn.add_module(f"conv{i}", nn.Conv2d(n_in_channel, channels, kernel_size[i], stride[i], padding[i]))
            # the published statistics follow almost only the last batch (momentum 0.99); kept, runs depend on it
            self.cnn.add_module(f"batchnorm{i}", nn.BatchNorm2d(channels, eps=1e-3, momentum=0.99))
            self.cnn.add_module(f"{activation}{i}", ACTIVATIONS[activation](channels))
            self.cnn.add_module(f"dropout{i}", nn.Dropout(dropout))
            self.cnn.add_module(f"pooling{i}", nn.AvgPool2d(tuple(pooling[i])))
            n_in_channel = channels

    def forward(self, x):
        return self.cnn(x)

    def output_size(self, time, bands):
        """(time, bands) that come out of an input of that size; 0 or less where it is too small."""
        size = [time, bands]
        for layer in self.cnn:
            if isinstance(layer, nn.Conv2d):
                for axis in (0, 1):
                    padded = size[axis] + 2 * layer.padding[axis]
                    size[axis] = (padded - layer.kernel_size[axis]) // layer.stride[axis] + 1
            elif isinstance(layer, nn.AvgPool2d):
                size = [length // kernel for length, kernel in zip(size, layer.kernel_size)]
        return tuple(size)


class Task4CRNN(nn.Module):
    """CNN on the log mel, a pretrained backbone beside it, and a GRU over both; section ``t4_wrapper``.

    State names are those of the published stage checkpoints (below ``student.`` and ``teacher.``).

    Args:
        as_model: the pretrained backbone; an :class:`AudioSetHead` around it is put on unless ``no_wrapper``. One
            that is an AudioSetHead already is taken as it is, so that student and teacher can share it.
        n_in_channel: channels of the log mel.
        nclass: number of classes.
        activation: ``cg`` (context gate), ``glu`` or ``relu``.
        dropout: rate in the CNN, before the joining layer and after the GRU.
        attention: clip probabilities by attention, else the mean over time.
        n_RNN_cell: GRU units each way, also the width of the joining layer.
        n_layers_RNN: layers of the GRU.
        rnn_type: ``BGRU``.
        dropout_recurrent: dropout between the layers of the GRU.
        dropstep_recurrent: in training, the largest share of a clip's frames that is dropped before the joining
            layer (one run of frames in the CNN features, another in the embeddings); 0 drops none.
        dropstep_recurrent_len: the largest number of frames in such a run.
        embedding_size: width of the frame embeddings. The public default 768 and None take whatever ``as_model``
            gives (527 behind the AudioSet head, 960 for a MobileNet); any other value must be that width.
        kernel_size, padding, stride, nb_filters: one entry per block of the CNN.
        pooling: (time, bands) per block; the bands must come down to 1.
        embed_pool: how embeddings come to the frames of the CNN: ``aap`` (adaptive average pooling), ``int``
            (interpolation) or ``conv`` (one depth-wise convolution, for 10 s clips at 250 tokens only).
        interpolation_mode: of ``int``: ``nearest``, ``nearest-exact`` or ``linear``.
        audioset_classes: width of the AudioSet head.
        no_wrapper: joins the embeddings of the backbone itself, without AudioSet head.
        aggregation_type, embedding_type, use_embeddings, name: public entries with one accepted value each.

    Raises:
        ValueError: an entry has a value that is not supported; the message begins with ``t4_wrapper.<entry>``.
    """

    def __init__(
        self,
        as_model,
        n_in_channel=1,
        nclass=27,
        activation="cg",
        dropout=0.3,
        attention=True,
        n_RNN_cell=256,
        n_layers_RNN=2,
        rnn_type="BGRU",
        dropout_recurrent=0,
        dropstep_recurrent=0.0,
        dropstep_recurrent_len=16,
        embedding_size=768,
        kernel_size=(3, 3, 3, 3, 3, 3, 3),
        padding=(1, 1, 1, 1, 1, 1, 1),
        stride=(1, 1, 1, 1, 1, 1, 1),
        nb_filters=(16, 32, 64, 128, 128, 128, 128),
        pooling=((2, 2), (2, 2), (1, 2), (1, 2), (1, 2), (1, 2), (1, 2)),
        embed_pool="aap",
        interpolation_mode="nearest",
        audioset_classes=527,
        no_wrapper=False,
        aggregation_type="pool1d",
        embedding_type="frame",
        use_embeddings=True,
        name="Task4CRNNEmbeddingsWrapper",
    ):
        super().__init__()
        _check(activation=activation, rnn_type=rnn_type, embed_pool=embed_pool, interpolation_mode=interpolation_mode)
        _check(aggregation_type=aggregation_type, embedding_type=embedding_type, name=name)
        _check(use_embeddings=use_embeddings)
        self.embed_pool = embed_pool
        self.interpolation_mode = interpolation_mode
        self.dropstep = (dropstep_recurrent_len, dropstep_recurrent)

        self.as_model = _wrapped(as_model, no_wrapper, audioset_classes)
        _freeze_for_good(self.as_model)
        embed_dim = self.as_model.embed_dim
        _one_of("embedding_size", embedding_size, (embed_dim, *ANY_EMBEDDING_SIZE))
        self.cnn = CNN(n_in_channel, activation, dropout, kernel_size, padding, stride, nb_filters, pooling)
        if embed_pool == "conv":
            self.pool_conv = nn.Sequential(nn.Conv1d(embed_dim, embed_dim, CONV_POOL_KERNEL, groups=embed_dim))
        self.dropout = nn.Dropout(dropout)
        self.cat_tf = nn.Linear(nb_filters[-1] + embed_dim, n_RNN_cell)
        self.rnn = BiGRU(n_RNN_cell, n_RNN_cell, n_layers_RNN, dropout_recurrent)
        self.dense = nn.Linear(2 * n_RNN_cell, nclass)
        self.dense_softmax = nn.Linear(2 * n_RNN_cell, nclass) if attention else None

    def layer_groups(self):
        """Parameters of the pretrained backbone by depth, input side first, without those of the AudioSet head."""
        backbone = self.as_model.model if isinstance(self.as_model, AudioSetHead) else self.as_model
        return backbone.layer_groups()

    def embed(self, mel, rng=None):
        """Features of the backbone's front end [batch, 1, bands, frames] -> tokens [batch, time, dim].

        Args:
            mel: the features.
            rng: numpy Generator for what the backbone draws in training mode (patchout, windows, skipped layers).
        """
        return self.as_model(mel, rng)

    def hidden(self, x, tokens):
        """What the output layers see, after dropout.

        Args:
            x: scaled log mel [batch, n_in_channel, mels, frames] of the CNN.
            tokens: what :meth:`embed` gave for the same clips, [batch, time, dim] of any time resolution.

        Returns:
            [batch, T, 2 * n_RNN_cell]; T is what the poolings leave of ``frames``, 156 of 626.
        """
        frames, bands = self.cnn.output_size(x.shape[3], x.shape[2])
        if bands != 1 or frames < 1:
            raise ValueError(
                f"t4_wrapper.pooling leaves {bands} bands and {frames} frames of {x.shape[2]} mel bands and "
                f"{x.shape[3]} frames, expected 1 band and at least 1 frame"
            )
        features = self.cnn(x.transpose(2, 3)).squeeze(3).transpose(1, 2)
        tokens = self._to_length(tokens, frames)
        if self.training and self.dropstep[1] > 0:
            features, tokens = drop_steps(features, *self.dropstep), drop_steps(tokens, *self.dropstep)
        joined = self.cat_tf(self.dropout(torch.cat((features, tokens), dim=2)))
        return self.dropout(self.rnn(joined))

    def logits(self, hidden):
        """Strong logits [batch, T, classes] of :meth:`hidden`, in float32 also under autocast."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.dense(hidden.float())

    def head(self, hidden, classes_mask=None):
        """Probabilities in float32, also under autocast.

        Args:
            hidden: [batch, T, 2 * n_RNN_cell].
            classes_mask: [batch, classes] bool, the classes in use: the others get no attention and probability 0.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            strong = torch.sigmoid(self.logits(hidden))
            if self.dense_softmax is None:
                weak = strong.mean(1)
            else:
                attention = self.dense_softmax(hidden)
                if classes_mask is not None:
                    attention = attention.masked_fill(~classes_mask[:, None].bool(), MASKED_LOGIT)
                weak = attention_pool(strong, attention)
        strong = strong.transpose(1, 2)
        if classes_mask is not None:
            others = ~classes_mask.bool()
            strong, weak = strong.masked_fill(others[..., None], 0.0), weak.masked_fill(others, 0.0)
        return Predictions(strong, weak)

    def forward(self, x, mel, classes_mask=None, rng=None):
        """:class:`Predictions` of clips, given both kinds of features."""
        return self.head(self.hidden(x, self.embed(mel, rng)), classes_mask)

    def _to_length(self, tokens, length):
        if self.embed_pool == "aap":
            return pool_time(tokens, length)
        if self.embed_pool == "int":
            return interpolate_time(tokens, length, self.interpolation_mode)
        frames = tokens.shape[1] - CONV_POOL_KERNEL + 1
        if frames != length:
            raise ValueError(
                f"t4_wrapper.embed_pool=conv makes {max(frames, 0)} frames of {tokens.shape[1]} tokens where the CNN "
                f"has {length}: it is for 250 tokens and 156 frames, use aap or int"
            )
        return self.pool_conv(tokens.transpose(1, 2)).transpose(1, 2)


def _wrapped(as_model, no_wrapper, audioset_classes):
    if not isinstance(as_model, AudioSetHead):
        return as_model if no_wrapper else AudioSetHead(as_model, audioset_classes)
    if no_wrapper:
        raise ValueError("t4_wrapper.no_wrapper: the backbone has an AudioSet head already")
    return as_model


def _freeze_for_good(as_model):
    """Freezes what no training of this network touches; distributed training expects gradients of all the rest.

    The layers of the AudioSet head keep their random or loaded values in the published systems too.
    """
    head = as_model.head_parameters() if isinstance(as_model, AudioSetHead) else []
    for parameter in (*head, *as_model.idle_parameters()):
        parameter.requires_grad_(False)


def _check(**entries):
    for entry, value in entries.items():
        _one_of(entry, value, ACCEPTED[entry])


def _one_of(entry, value, accepted):
    if value not in accepted:
        raise ValueError(f"t4_wrapper.{entry}: {value!r}, expected {' or '.join(repr(each) for each in accepted)}")
