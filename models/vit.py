"""Pre-norm transformer blocks (Dosovitskiy et al., ICLR 2021), and helpers that the transformer plugins share."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

INIT_STD = 0.02


class Attention(nn.Module):
    """Multi-head self-attention, [batch, tokens, dim] -> the same shape."""

    def __init__(self, dim, num_heads, qkv_bias):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"embed_dim={dim} is not a multiple of num_heads={num_heads}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with GELU, [..., dim] -> the same shape."""

    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and MLP, each behind a layer norm and beside a residual, [batch, tokens, dim] -> the same shape."""

    def __init__(self, dim, num_heads, qkv_bias):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, qkv_bias)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchTransformer(nn.Module):
    """Square patches of one channel behind a class token; how positions are laid out is the caller's matter.

    Args:
        dim: width.
        depth: blocks.
        num_heads: attention heads.
        positions: entries of the position table, without that of the class token, which comes first.
        patch: rows and columns of a patch.
    """

    def __init__(self, dim, depth, num_heads, positions, patch=16):
        super().__init__()
        self.cls_token = random_embedding(1, 1, dim)
        self.pos_embed = random_embedding(1, 1 + positions, dim)
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(1, dim, patch, stride=patch)))
        self.blocks = nn.ModuleList(Block(dim, num_heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.apply(init_weights)

    def forward(self, patches, positions, checkpointing=False):
        """Patches [batch, tokens, dim] with their positions [1, tokens, dim] -> [batch, 1 + tokens, dim]."""
        first = self.cls_token + self.pos_embed[:, :1]
        x = torch.cat([first.expand(len(patches), -1, -1), patches + positions], dim=1)
        for block in self.blocks:
            x = run_block(block, x, checkpointing=checkpointing)
        return self.norm(x)


def run_block(block, *inputs, checkpointing):
    """``block(*inputs)``; with ``checkpointing`` its activations are computed again in the backward pass."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)


def init_weights(module):
    """Truncated normal weights and zero biases for linear and convolution layers, for ``Module.apply``."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def random_embedding(*shape):
    """A parameter with truncated normal values."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=INIT_STD))


def time_positions(table, length, offset=0):
    """Position embeddings for an input of any length.

    A shorter input takes the entries from ``offset`` on. For a longer one the table is stretched by linear
    interpolation, so that every position is one that was seen in training.

    Args:
        table: [1, dim, n].
        length: tokens of the input.
        offset: first entry, at most n - length.

    Returns:
        [1, dim, length].
    """
    if length <= table.shape[2]:
        return table[:, :, offset : offset + length]
    return F.interpolate(table, size=length, mode="linear", align_corners=False)


def check_mel(mel, name, bands, min_frames):
    """Raises ValueError unless ``mel`` is [batch, 1, bands, at least min_frames]."""
    if mel.dim() != 4 or mel.shape[1:3] != (1, bands) or mel.shape[3] < min_frames:
        expected = f"[batch, 1, {bands}, at least {min_frames} frames]"
        raise ValueError(f"{name} expects features of shape {expected}, got {list(mel.shape)}")
