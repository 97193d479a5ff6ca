"""CNN14 as a backbone of frame embeddings and as a tagger."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import nn

from models.convolutions import conv_norm, run_layer
from models.registry import Backbone, groups_by_depth
from models.tagging import Tagger

CHANNELS = (64, 128, 256, 512, 1024, 2048)


class ConvBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm and ReLU, average pooling and dropout; names are those of PANNs.

    Args:
        in_channels, out_channels: of the feature map.
        pool: halve both axes.
        dropout: share of the outputs that training drops.
    """

    def __init__(self, in_channels, out_channels, pool, dropout):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.pool, self.dropout = pool, dropout

    def forward(self, x):
        """[batch, in_channels, frames, bands] -> [batch, out_channels, frames', bands']."""
        x = F.relu_(conv_norm(self.conv1, self.bn1, x))
        x = F.relu_(conv_norm(self.conv2, self.bn2, x))
        if self.pool:
            x = F.avg_pool2d(x, 2)
        return F.dropout(x, self.dropout, self.training)


class Cnn14(Backbone, Tagger):
    """Frame embeddings by :meth:`forward`, clip logits and embedding by :meth:`tag`.

    Args:
        num_classes: size of the last layer.
        n_mels: bands of the input, for the norm in front.
        channels: of the six blocks.
        dropout: behind every block.
        fc_dropout: before the first linear layer.
        last_dropout: before the last linear layer.
        pool_last: pool behind the sixth block too; so does the retrieval baseline of DCASE 2023, unlike PANNs.
        projection: size of a linear layer without activation before the last one, None for none.
        grad_checkpointing: recompute the blocks in the backward pass instead of storing their activations.

    Raises:
        ValueError: not six numbers of channels.
    """

    classifier_names = r"^fc_audioset\."

    def __init__(
        self,
        num_classes: int = 527,
        n_mels: int = 64,
        channels: Sequence[int] = CHANNELS,
        dropout: float = 0.2,
        fc_dropout: float = 0.5,
        last_dropout: float = 0.0,
        pool_last: bool = False,
        projection: int | None = None,
        grad_checkpointing: bool = False,
    ):
        super().__init__()
        if len(channels) != len(CHANNELS):
            raise ValueError(f"cnn14.channels: {tuple(channels)} are not {len(CHANNELS)} numbers")
        self.n_classes, self.embed_dim = num_classes, channels[-1]
        self.fc_dropout, self.last_dropout = fc_dropout, last_dropout
        self.grad_checkpointing = grad_checkpointing
        self.pools = [True] * 5 + [pool_last]
        self.bn0 = nn.BatchNorm2d(n_mels)
        for number, (inputs, outputs, pool) in enumerate(zip((1, *channels), channels, self.pools), start=1):
            self.add_module(f"conv_block{number}", ConvBlock(inputs, outputs, pool, dropout))
        self.fc1 = nn.Linear(self.embed_dim, self.embed_dim)
        self.projection = None if projection is None else nn.Linear(self.embed_dim, projection)
        self.fc_audioset = nn.Linear(projection or self.embed_dim, num_classes)
        self.apply(_initialise)

    def frames(self, mel):
        """[batch, 1, bands, frames] -> [batch, channels, frames']: the last feature map averaged over frequency.

        A clip that is too short for all poolings is continued by its last frame.

        Raises:
            ValueError: another number of bands.
        """
        if mel.shape[2] != self.bn0.num_features:
            raise ValueError(f"cnn14 expects {self.bn0.num_features} mel bands, got {mel.shape[2]}: set cnn14.n_mels")
        missing = 2 ** sum(self.pools) - mel.shape[3]
        if missing > 0:
            mel = F.pad(mel, (0, missing, 0, 0), mode="replicate")
        x = self.bn0(mel.transpose(1, 2)).permute(0, 2, 3, 1)
        for number in range(1, 1 + len(self.pools)):
            x = run_layer(getattr(self, f"conv_block{number}"), x, checkpointing=self.grad_checkpointing)
        return x.mean(3)

    def forward(self, mel, rng=None):
        """[batch, 1, bands, frames] -> [batch, frames / 32, embed_dim]; nothing is drawn from ``rng``."""
        return self.frames(mel).transpose(1, 2)

    def tag(self, mel, rng=None):
        """See :class:`models.tagging.Tagger`; the embedding is what the first linear layer makes of the pooled frames.

        The frames are pooled by the sum of their maximum and their mean.
        """
        frames = self.frames(mel)
        pooled = F.dropout(frames.amax(2) + frames.mean(2), self.fc_dropout, self.training)
        embedding = F.relu(self.fc1(pooled))
        x = F.dropout(embedding, self.last_dropout, self.training)
        if self.projection is not None:
            x = self.projection(x)
        return self.fc_audioset(x), embedding

    def layer_groups(self):
        """The norm in front, the blocks, and the linear layers behind."""
        return groups_by_depth(self, r"\bconv_block(\d+)\.", r"\b(fc1|projection|fc_audioset)\.")

    def idle_parameters(self):
        """Those of the linear layers."""
        layers = filter(None, (self.fc1, self.projection, self.fc_audioset))
        return [parameter for layer in layers for parameter in layer.parameters()]

    def receptive_layers(self):
        """See :class:`models.tagging.Tagger`; pooling counts."""
        blocks = ([(3, 1, 1), (3, 1, 1), *([(2, 2, 1)] if pool else [])] for pool in self.pools)
        return [layer for block in blocks for layer in block]


def _initialise(module):
    """Initial values of PANNs; batch norms have theirs from torch."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
