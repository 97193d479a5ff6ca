"""Heads on top of a backbone: AudioSet tags as frame features, and sound events by a recurrent layer."""

import torch
from torch import nn

from models.layers import BiGRU, attention_pool, pool_time
from models.registry import Backbone, grad_checkpointing_of


class AudioSetHead(Backbone):
    """A backbone with a linear layer to AudioSet classes; its raw logits are the frame embeddings of a new backbone.

    Published systems join these logits with CNN features, although the layer kept its random initial values where the
    checkpoint has none: it is frozen by the optimizer (see ``helpers.optim``), and stored with every run.

    Args:
        model: the backbone.
        audioset_classes: number of classes.
        seq_len: frames of the output; another number of tokens is brought to it by adaptive average pooling.
        attention: adds the attention layer which :meth:`predict` needs.
    """

    grad_checkpointing = grad_checkpointing_of("model")

    def __init__(self, model, audioset_classes=527, seq_len=250, attention=False):
        super().__init__()
        self.model = model
        self.seq_len = seq_len
        self.embed_dim = audioset_classes
        self.head_linear_layer = nn.Linear(model.embed_dim, audioset_classes)
        self.att_linear_layer = nn.Linear(model.embed_dim, audioset_classes) if attention else None

    def tokens(self, mel, rng=None):
        """[batch, 1, bands, frames] -> embeddings of the backbone [batch, seq_len, dim]."""
        return pool_time(self.model(mel, rng), self.seq_len)

    def forward(self, mel, rng=None):
        """[batch, 1, bands, frames] -> logits [batch, seq_len, audioset_classes]; ``rng`` is for the backbone."""
        return self.head_linear_layer(self.tokens(mel, rng))

    def predict(self, mel, rng=None):
        """Tag probabilities, [batch, 1, bands, frames] -> strong [batch, classes, seq_len], weak [batch, classes].

        Raises:
            ValueError: the head was built without attention.
        """
        if self.att_linear_layer is None:
            raise ValueError("clip probabilities need an AudioSetHead with attention=True")
        tokens = self.tokens(mel, rng)
        strong = torch.sigmoid(self.head_linear_layer(tokens).float())
        return strong.transpose(1, 2), attention_pool(strong, self.att_linear_layer(tokens).float())

    def layer_groups(self):
        """Groups of the backbone; the layers of the head join the last one."""
        *lower, top = self.model.layer_groups()
        return [*lower, [*top, *self.head_parameters()]]

    def head_parameters(self):
        """Parameters of the layers on top of the backbone."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("model.")]

    def idle_parameters(self):
        """Those of the backbone, and the attention layer, which only :meth:`predict` uses."""
        attention = () if self.att_linear_layer is None else self.att_linear_layer.parameters()
        return [*self.model.idle_parameters(), *attention]


class RnnHead(nn.Module):
    """Sound events of AudioSet-strong: bidirectional GRU on frame embeddings, then frame and clip probabilities.

    Args:
        model: a backbone, which an :class:`AudioSetHead` is too.
        n_classes: number of sound events.
        n_RNN_cell: units each way.
        n_layers_RNN: stacked layers.
        attention: clip probabilities are a weighted mean over time, else the plain mean.
    """

    def __init__(self, model, n_classes=456, n_RNN_cell=1024, n_layers_RNN=2, attention=True):
        super().__init__()
        self.model = model
        self.rnn = BiGRU(model.embed_dim, n_RNN_cell, n_layers_RNN)
        self.sigmoid_dense = nn.Linear(2 * n_RNN_cell, n_classes)
        self.softmax_dense = nn.Linear(2 * n_RNN_cell, n_classes) if attention else None

    def forward(self, mel, rng=None):
        """[batch, 1, bands, frames] -> probabilities strong [batch, classes, time], weak [batch, classes]."""
        hidden = self.rnn(self.model(mel, rng))
        strong = torch.sigmoid(self.sigmoid_dense(hidden).float())
        if self.softmax_dense is None:
            return strong.transpose(1, 2), strong.mean(1)
        return strong.transpose(1, 2), attention_pool(strong, self.softmax_dense(hidden).float())
