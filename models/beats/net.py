"""The network of BEATs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from models.registry import Backbone, groups_by_depth
from models.vit import check_mel, init_weights, run_block

BANDS = 128
# What the published weights say in their own configuration, as far as it differs from the defaults there.
PUBLISHED = {
    "input_patch_size": 16,
    "deep_norm": True,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
    "max_distance": 800,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}


@dataclass(frozen=True)
class BeatsConfig:
    """Entries of the configuration that a checkpoint carries; an entry that it lacks has the default given here."""

    input_patch_size: int = -1
    embed_dim: int = 512
    conv_bias: bool = False
    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    activation_fn: str = "gelu"
    layer_wise_gradient_decay_ratio: float = 1.0
    layer_norm_first: bool = False
    deep_norm: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    encoder_layerdrop: float = 0.0
    dropout_input: float = 0.0
    conv_pos: int = 128
    conv_pos_groups: int = 16
    relative_position_embedding: bool = False
    num_buckets: int = 320
    max_distance: int = 1280
    gru_rel_pos: bool = False

    @classmethod
    def read(cls, entries: Mapping) -> "BeatsConfig":
        """The configuration in a checkpoint; entries of other parts (tokenizer, predictor) are left out.

        Raises:
            ValueError: a variant of the network that no published checkpoint uses.
        """
        known = {field.name for field in fields(cls)}
        config = cls(**{key: value for key, value in entries.items() if key in known})
        only = {
            "activation_fn": "gelu",
            "conv_bias": False,
            "layer_norm_first": False,
            "relative_position_embedding": True,
            "gru_rel_pos": True,
        }
        for key, value in only.items():
            if getattr(config, key) != value:
                raise ValueError(f"beats: {key}={getattr(config, key)!r} in cfg, this network has {key}={value!r}")
        if config.input_patch_size < 1 or BANDS % config.input_patch_size:
            raise ValueError(f"beats: input_patch_size={config.input_patch_size} in cfg does not divide {BANDS} bands")
        return config


TRAINING_ONLY = (
    "layer_wise_gradient_decay_ratio",
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "encoder_layerdrop",
    "dropout_input",
)


class ScaleGradient(torch.autograd.Function):
    """The identity, with the gradient times a factor."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.factor, None


class GatedAttention(nn.Module):
    """Self-attention with a gated relative position bias (WavLM, Chen et al., 2022, section III-B)."""

    def __init__(self, config, relative_attention_bias):
        super().__init__()
        dim, self.num_heads = config.encoder_embed_dim, config.encoder_attention_heads
        if dim % self.num_heads:
            raise ValueError(f"encoder_embed_dim={dim} is not a multiple of encoder_attention_heads={self.num_heads}")
        self.grep_a = nn.Parameter(torch.ones(1, self.num_heads, 1, 1))
        self.relative_attention_bias = relative_attention_bias  # the same table in every layer
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.q_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.grep_linear = nn.Linear(dim // self.num_heads, 8)

    def forward(self, x, bias, dropout=0.0):
        """[batch, tokens, dim] and a position bias [heads, tokens, tokens] -> [batch, tokens, dim]."""
        q, k, v = (
            proj(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        mask = self._gate(q) * bias
        dropout = dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype), dropout_p=dropout)
        return self.out_proj(x.transpose(1, 2).flatten(2))

    def _gate(self, q):
        """Factor of the bias for every query, [batch, heads, tokens, head_dim] -> [batch, heads, tokens, 1]."""
        # The layer's eight outputs only occur as two sums of four, so its rows are summed instead.
        weight = self.grep_linear.weight.unflatten(0, (2, 4)).sum(1)
        update, reset = torch.sigmoid(F.linear(q, weight, self.grep_linear.bias.view(2, 4).sum(1))).chunk(2, dim=-1)
        return update * (reset * self.grep_a - 1) + 2


class EncoderLayer(nn.Module):
    """Post-norm transformer layer with the residual scaling of DeepNet (Wang et al., 2022, section 3)."""

    def __init__(self, config, relative_attention_bias):
        super().__init__()
        dim, hidden = config.encoder_embed_dim, config.encoder_ffn_embed_dim
        self.residual = (2 * config.encoder_layers) ** 0.25 if config.deep_norm else 1.0
        self.self_attn = GatedAttention(config, relative_attention_bias)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.final_layer_norm = nn.LayerNorm(dim)

    def forward(self, x, bias, config):
        """[batch, tokens, dim], position bias, dropout rates -> [batch, tokens, dim]."""
        attended = self.self_attn(x, bias, config.attention_dropout)
        x = self.self_attn_layer_norm(self.residual * x + F.dropout(attended, config.dropout, self.training))
        hidden = F.dropout(F.gelu(self.fc1(x)), config.activation_dropout, self.training)
        return self.final_layer_norm(self.residual * x + F.dropout(self.fc2(hidden), config.dropout, self.training))


class Encoder(nn.Module):
    """Convolutional positions, then transformer layers that share one table of relative positions."""

    def __init__(self, config):
        super().__init__()
        dim = config.encoder_embed_dim
        conv = nn.Conv1d(dim, dim, config.conv_pos, padding=config.conv_pos // 2, groups=config.conv_pos_groups)
        nn.init.normal_(conv.weight, std=math.sqrt(4 / (config.conv_pos * dim)))
        nn.init.zeros_(conv.bias)
        # Files that name the two tensors `weight_g` and `weight_v` load as well: torch renames them.
        self.pos_conv = nn.Sequential(weight_norm(conv, dim=2))
        table = nn.Embedding(config.num_buckets, config.encoder_attention_heads)
        nn.init.trunc_normal_(table.weight, std=0.02)
        self.layers = nn.ModuleList(EncoderLayer(config, table) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, x, config, rng=None, checkpointing=False):
        """[batch, tokens, dim] -> the same shape. With ``rng``, layers are skipped at random."""
        # An even kernel with half its length as padding gives one output too many.
        positions = F.gelu(self.pos_conv(x.transpose(1, 2))[..., : x.shape[1]])
        x = self.layer_norm(x + positions.transpose(1, 2))
        x = F.dropout(x, config.dropout, self.training)
        bias = self.position_bias(x.shape[1], config.max_distance)
        for layer in self.layers:
            if config.layer_wise_gradient_decay_ratio != 1:
                x = ScaleGradient.apply(x, config.layer_wise_gradient_decay_ratio)
            if rng is None or rng.random() >= config.encoder_layerdrop:
                x = run_block(layer, x, bias, config, checkpointing=checkpointing)
            else:
                # Its parameters get a gradient of zeros: distributed training waits for one of every parameter.
                x = x + 0.0 * sum(parameter.flatten()[0] for parameter in layer.parameters())
        return x

    def position_bias(self, tokens, max_distance):
        """Bias of every pair of tokens, [heads, tokens, tokens]."""
        table = self.layers[0].self_attn.relative_attention_bias
        distance = torch.arange(1 - tokens, tokens, device=table.weight.device)
        of_distance = table(relative_buckets(distance, table.num_embeddings, max_distance)).T
        # Row i holds the distances -i ... tokens - 1 - i.
        position = torch.arange(tokens, device=distance.device)
        return of_distance[:, position - position[:, None] + tokens - 1]


def relative_buckets(distance, n_buckets, max_distance):
    """Bucket of a signed distance (T5, Raffel et al., 2020): exact up to a quarter, then logarithmic, by sign.

    Args:
        distance: integers, position of the key minus position of the query.
        n_buckets: even; the upper half is for positive distances.
        max_distance: from here on there is one bucket.

    Returns:
        integers of the same shape.
    """
    half = n_buckets // 2
    exact = half // 2
    size = distance.abs()
    # The order of these operations decides the bucket of distances at a border.
    far = exact + (torch.log(size.clamp(min=1) / exact) / math.log(max_distance / exact) * (half - exact)).long()
    return (distance > 0) * half + torch.where(size < exact, size, far.clamp(max=half - 1))


class PatchEncoder(nn.Module):
    """Patches of the filter bank to tokens, and the transformer on them."""

    def __init__(self, config):
        super().__init__()
        size = config.input_patch_size
        wider = config.embed_dim != config.encoder_embed_dim
        self.post_extract_proj = nn.Linear(config.embed_dim, config.encoder_embed_dim) if wider else nn.Identity()
        self.patch_embedding = nn.Conv2d(1, config.embed_dim, size, stride=size, bias=False)
        self.encoder = Encoder(config)
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        init_weights(self.patch_embedding)
        self.apply(lambda module: init_weights(module) if isinstance(module, nn.Linear) else None)
        if config.deep_norm:
            self._init_deep_norm(config)

    def _init_deep_norm(self, config):
        beta = (8 * config.encoder_layers) ** -0.25
        for layer in self.encoder.layers:
            attention = layer.self_attn
            for linear in (attention.q_proj, attention.k_proj):
                nn.init.xavier_normal_(linear.weight)
            for linear in (attention.v_proj, attention.out_proj, layer.fc1, layer.fc2):
                nn.init.xavier_normal_(linear.weight, gain=beta)

    def forward(self, mel, config, rng=None, checkpointing=False):
        """[batch, 1, 128, frames] -> [batch, tokens, dim], time before frequency."""
        x = self.patch_embedding(mel.transpose(2, 3)).flatten(2).transpose(1, 2)
        x = self.post_extract_proj(self.layer_norm(x))
        return self.encoder(F.dropout(x, config.dropout_input, self.training), config, rng, checkpointing)


class Beats(Backbone):
    """BEATs (Chen et al., ICML 2023, https://arxiv.org/abs/2212.09058): patches of 160 ms by 16 bands.

    The output has eight tokens per 160 ms, one per group of bands, time first: 496 tokens for ten seconds. The
    published task-4 systems pool these as if all of them followed each other in time; ``tokens_per_frame=1`` folds
    them into true frames. Inputs may have any length, positions are relative.

    Args:
        tokens_per_frame: 8 gives all tokens, a divisor of 8 their means over neighbouring groups of bands.
        grad_checkpointing: compute the activations of each layer again in the backward pass, to save memory.
        encoder_layers: transformer layers; the published weights have 12.
        encoder_embed_dim: width; the published weights have 768.
        encoder_ffn_embed_dim: hidden units of a layer; the published weights have 3072.
        encoder_attention_heads: attention heads; the published weights have 12.
        **further: other entries of :class:`BeatsConfig`.

    Raises:
        ValueError: sizes that do not fit together, or a variant that no published checkpoint uses.
    """

    def __init__(
        self,
        tokens_per_frame=8,
        grad_checkpointing=False,
        encoder_layers=12,
        encoder_embed_dim=768,
        encoder_ffn_embed_dim=3072,
        encoder_attention_heads=12,
        **further,
    ):
        super().__init__()
        self.config = BeatsConfig.read(
            PUBLISHED
            | {
                "encoder_layers": encoder_layers,
                "encoder_embed_dim": encoder_embed_dim,
                "encoder_ffn_embed_dim": encoder_ffn_embed_dim,
                "encoder_attention_heads": encoder_attention_heads,
            }
            | further
        )
        self.patches_per_frame = BANDS // self.config.input_patch_size
        if tokens_per_frame < 1 or self.patches_per_frame % tokens_per_frame:
            raise ValueError(f"beats.tokens_per_frame: {tokens_per_frame} does not divide {self.patches_per_frame}")
        self.embed_dim = self.config.encoder_embed_dim
        self.tokens_per_frame = tokens_per_frame
        self.grad_checkpointing = grad_checkpointing
        self.model = PatchEncoder(self.config)

    @classmethod
    def from_checkpoint_config(cls, cfg: Mapping, **options) -> "Beats":
        """A network as the ``cfg`` of a checkpoint says.

        Args:
            cfg: entries as in :class:`BeatsConfig`.
            **options: ``tokens_per_frame``, ``grad_checkpointing``.

        Raises:
            ValueError: a variant that no published checkpoint uses.
        """
        config = BeatsConfig.read(cfg)
        return cls(**options, **{field.name: getattr(config, field.name) for field in fields(config)})

    def use_config(self, cfg: Mapping):
        """Takes the rates of training mode (dropout, gradient decay) from the ``cfg`` of a checkpoint.

        Raises:
            ValueError: ``cfg`` describes another network than this one.
        """
        config = BeatsConfig.read(cfg)
        for field in fields(config):
            own, other = getattr(self.config, field.name), getattr(config, field.name)
            if field.name not in TRAINING_ONLY and own != other:
                raise ValueError(f"beats: the checkpoint's cfg has {field.name}={other!r}, this network {own!r}")
        self.config = config

    @property
    def min_frames(self) -> int:
        """Fewest frames of a clip: those of a patch."""
        return self.config.input_patch_size

    def forward(self, mel, rng=None):
        """[batch, 1, 128, frames] -> [batch, frames // 16 * tokens_per_frame, embed_dim].

        Args:
            mel: filter bank.
            rng: numpy Generator for the layers which training leaves out (``encoder_layerdrop``); without it none is.

        Raises:
            ValueError: another shape, or fewer frames than a patch.
        """
        check_mel(mel, "beats", BANDS, self.min_frames)
        x = self.model(mel, self.config, rng if self.training else None, self.grad_checkpointing)
        if self.tokens_per_frame == self.patches_per_frame:
            return x
        folded = self.patches_per_frame // self.tokens_per_frame
        return x.unflatten(1, (-1, folded)).mean(2)

    def layer_groups(self):
        """All that comes before the layers, their norm included; the layers; an empty group, as nothing follows them.

        The table of relative positions belongs to the first layer.
        """
        return groups_by_depth(self, blocks=r"\blayers\.(\d+)\.", last=r"(?!)")
