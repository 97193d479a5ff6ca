"""The network of fPaSST, and its start from an image model."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from models.registry import Backbone, groups_by_depth
from models.vit import Block, check_mel, init_weights, random_embedding, run_block, time_positions

ARCH = "passt_deit_bd_p16_384"
STEM_CHANNELS, STEM_STRIDE = 64, 4
PATCH_FRAMES = 2
DEIT_HEADS = ("head.", "head_dist.")


class PatchEmbed(nn.Module):
    """All bands of two neighbouring frames to one token, [batch, channels, bands, time] -> [batch, dim, 1, time].

    Token t sees the frames t and t + 1: of a convolution with one zero frame at both ends the first output is dropped.
    """

    def __init__(self, channels, bands, dim):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, (bands, PATCH_FRAMES))

    def forward(self, x):
        return self.proj(F.pad(x, (0, 1)))


class FPaSST(Backbone):
    """Frame-wise PaSST (Schmid et al., DCASE 2024 technical report): one embedding per 40 ms.

    PaSST (Koutini et al., Interspeech 2022) whose patches span all bands, behind three convolutions. Shorter inputs
    than ten seconds use a part of the time embedding (the first entries, or a random window in training); for longer
    ones it is stretched.

    Args:
        arch: only "passt_deit_bd_p16_384", the size of the distilled DeiT base model.
        embed_dim: width; the published weights have 768.
        pos_embed_length: entries of the time embedding, one per four mel frames.
        frame_patchout: tokens that training leaves out at random (structured patchout, section 2.2 of PaSST); the
            output has as many fewer.
        in_channels: channels in front of the patch embedding: 16, which is what the three convolutions give.
        input_fdim: mel bands.
        input_tdim: mel frames of a clip, which the time embedding must cover.
        depth: transformer blocks; the published weights have 12.
        num_heads: attention heads; the published weights have 12.
        grad_checkpointing: compute the activations of each block again in the backward pass, to save memory.

    Raises:
        ValueError: another ``arch``, or sizes that do not fit together.
    """

    def __init__(
        self,
        arch=ARCH,
        embed_dim=768,
        pos_embed_length=250,
        frame_patchout=0,
        in_channels=16,
        input_fdim=128,
        input_tdim=998,
        depth=12,
        num_heads=12,
        grad_checkpointing=False,
    ):
        super().__init__()
        _check_sizes(arch, pos_embed_length, frame_patchout, in_channels, input_fdim, input_tdim)
        self.embed_dim = embed_dim
        self.frame_patchout = frame_patchout
        self.input_fdim = input_fdim
        self.grad_checkpointing = grad_checkpointing
        self.cls_token = random_embedding(1, 1, embed_dim)
        self.dist_token = random_embedding(1, 1, embed_dim)
        self.new_pos_embed = random_embedding(1, 2, embed_dim)
        self.freq_new_pos_embed = random_embedding(1, embed_dim, 1, 1)
        self.time_new_pos_embed = random_embedding(1, embed_dim, 1, pos_embed_length)
        self.conv_in_1 = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.conv_in_2 = nn.Conv2d(16, 32, 3, stride=1, padding=1)
        self.conv_in_3 = nn.Conv2d(32, STEM_CHANNELS, 3, stride=2, padding=1)
        self.patch_embed = PatchEmbed(in_channels, input_fdim, embed_dim)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.apply(init_weights)
        for stem in (self.conv_in_1, self.conv_in_2, self.conv_in_3):
            # Few inputs per output: 0.02 would shrink the signal to nothing within three layers.
            nn.init.kaiming_normal_(stem.weight)

    def forward(self, mel, rng=None):
        """[batch, 1, input_fdim, frames] -> [batch, ceil(frames / 4), embed_dim].

        Args:
            mel: log mel.
            rng: numpy Generator for the draws of training mode; without it the first time embeddings are used.

        Raises:
            ValueError: another shape; ``frame_patchout`` in training without ``rng``, or as long as the input.
        """
        check_mel(mel, "fpasst", self.input_fdim, 1)
        rng = rng if self.training else None
        x = self._tokens(mel, rng)
        if self.frame_patchout and self.training:
            x = self._patchout(x, rng)
        x = torch.cat([self._special(self.cls_token, 0, x), self._special(self.dist_token, 1, x), x], dim=1)
        for block in self.blocks:
            x = run_block(block, x, checkpointing=self.grad_checkpointing)
        return self.norm(x[:, 2:])

    def layer_groups(self):
        """Convolutions, tokens and position embeddings, then the blocks, then the final norm."""
        return groups_by_depth(self, blocks=r"^blocks\.(\d+)\.", last=r"^norm\.")

    def _tokens(self, mel, rng):
        """Frame tokens with their positions, [batch, time, dim]."""
        x = F.gelu(self.conv_in_1(mel))
        x = F.gelu(self.conv_in_2(x))
        x = F.gelu(self.conv_in_3(x))
        # [batch, 64, 32, time] in memory order, so that there are as many "bands" as the image patches had pixels.
        x = self.patch_embed(x.reshape(x.shape[0], -1, self.input_fdim, x.shape[3]))
        positions = self.time_new_pos_embed[:, :, 0]
        spare = positions.shape[2] - x.shape[3]
        offset = int(rng.integers(spare + 1)) if rng is not None and spare > 0 else 0
        x = x[:, :, 0] + time_positions(positions, x.shape[3], offset) + self.freq_new_pos_embed[:, :, 0]
        return x.transpose(1, 2)

    def _patchout(self, x, rng):
        tokens = x.shape[1]
        if rng is None:
            raise ValueError(f"fpasst.frame_patchout={self.frame_patchout} needs a random generator in training")
        if self.frame_patchout >= tokens:
            raise ValueError(f"fpasst.frame_patchout={self.frame_patchout} leaves none of {tokens} tokens")
        kept = rng.permutation(tokens)[: tokens - self.frame_patchout]
        kept.sort()
        return x[:, torch.from_numpy(kept).to(x.device)]

    def _special(self, token, entry, x):
        return (token + self.new_pos_embed[:, entry : entry + 1]).expand(x.shape[0], -1, -1)


def _check_sizes(arch, pos_embed_length, frame_patchout, in_channels, input_fdim, input_tdim):
    if arch != ARCH:
        raise ValueError(f"fpasst.arch: '{arch}' is not '{ARCH}', the only size there is")
    expected = STEM_CHANNELS // STEM_STRIDE
    if in_channels != expected:
        raise ValueError(f"fpasst.in_channels: the convolutions give {expected} channels, got {in_channels}")
    if input_fdim < STEM_STRIDE or input_fdim % STEM_STRIDE:
        raise ValueError(f"fpasst.input_fdim: {input_fdim} bands are not a multiple of {STEM_STRIDE}")
    if pos_embed_length * STEM_STRIDE < input_tdim:
        needed = math.ceil(input_tdim / STEM_STRIDE)
        raise ValueError(f"fpasst.pos_embed_length: {input_tdim} frames need {needed}, got {pos_embed_length}")
    if not 0 <= frame_patchout < pos_embed_length:
        raise ValueError(f"fpasst.frame_patchout: {frame_patchout} is not within 0 and {pos_embed_length - 1}")


def from_deit(state: Mapping, pos_embed_length=250, in_channels=16, input_fdim=128) -> dict:
    """State of the distilled DeiT base model (Touvron et al., ICML 2021) at 384 pixels as a start for fPaSST.

    The three convolutions in front have no counterpart there. The frequency embedding is the mean of the resized
    grid over time, so it adds the same to every token.

    Args:
        state: name -> tensor of the image model.
        pos_embed_length: entries of the time embedding.
        in_channels: channels in front of the patch embedding; the three colours are repeated for them.
        input_fdim: mel bands.

    Returns:
        name -> tensor of :class:`FPaSST` without ``conv_in_*``.

    Raises:
        ValueError: no distilled image model with patches that have as many pixels as two frames have bands.
    """
    absent = [name for name in ("pos_embed", "patch_embed.proj.weight", "dist_token") if name not in state]
    if absent:
        raise ValueError(f"not the state of a distilled image transformer: {', '.join(absent)} missing")
    result = {name: tensor for name, tensor in state.items() if not name.startswith(DEIT_HEADS)}
    positions = result.pop("pos_embed")
    result["new_pos_embed"] = positions[:, :2]
    side = math.isqrt(positions.shape[1] - 2)
    grid = positions[:, 2:].transpose(1, 2).unflatten(2, (side, side))
    time = F.interpolate(grid, size=(1, pos_embed_length), mode="bicubic", align_corners=False)
    result["time_new_pos_embed"] = time
    result["freq_new_pos_embed"] = time.mean(3, keepdim=True)
    pixels = result["patch_embed.proj.weight"]
    if pixels[0, 0].numel() != input_fdim * PATCH_FRAMES:
        raise ValueError(f"patches of {list(pixels.shape[2:])} pixels do not fit {PATCH_FRAMES} x {input_fdim} bands")
    colours = pixels.shape[1]
    # The sum over channels keeps the scale that it had over colours.
    pixels = pixels[:, torch.arange(in_channels) % colours] * (colours / in_channels)
    result["patch_embed.proj.weight"] = pixels.reshape(len(pixels), in_channels, input_fdim, PATCH_FRAMES)
    return result
