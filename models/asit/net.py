"""The network of ASiT, and its filter bank."""

import torch
import torch.nn.functional as F

from models.frontends import BeatsFbank
from models.registry import Backbone, groups_by_depth
from models.vit import PatchTransformer, check_mel

PATCH = 16
BANDS = 128
ROWS = BANDS // PATCH
TABLE_STEPS = 37  # time steps of a clip in pre-training


class AsitFbank(BeatsFbank):
    """Kaldi filter bank of ASiT (Atito et al., IEEE/ACM TASLP 2024): as that of BEATs, but with a Hann window, samples
    in [-1, 1] and without the clip's mean."""

    MEAN, STD = -4.2677393, 4.5689974

    def __init__(self):
        super().__init__()
        self.window = torch.hann_window(self.FRAME, periodic=False)

    def features(self, waveform, rng=None):
        waveform = waveform - waveform.mean(1, keepdim=True)
        return super().features(waveform / 2**15)  # which BEATs multiplies by


class Asit(Backbone):
    """ASiT (Atito et al., IEEE/ACM TASLP 2024, https://arxiv.org/abs/2211.13189): patches of 160 ms by 16 bands.

    The output is the class token, then eight tokens per 160 ms, one per group of bands, time first: 497 tokens for ten
    seconds. The published systems pool these as if all of them followed each other in time. Inputs may have any
    length, the position table is resampled.

    Args:
        embed_dim: width; the published weights have 768.
        depth: transformer blocks; the published weights have 12.
        num_heads: attention heads; the published weights have 12.
        grad_checkpointing: compute the activations of each block again in the backward pass, to save memory.
    """

    min_frames = PATCH

    def __init__(self, embed_dim=768, depth=12, num_heads=12, grad_checkpointing=False):
        super().__init__()
        self.embed_dim = embed_dim
        self.grad_checkpointing = grad_checkpointing
        self.asit = PatchTransformer(embed_dim, depth, num_heads, ROWS * TABLE_STEPS, PATCH)

    def forward(self, mel, rng=None):
        """[batch, 1, 128, frames] -> [batch, 1 + 8 * (frames // 16), embed_dim]; nothing is drawn from ``rng``.

        Raises:
            ValueError: another shape, or fewer frames than a patch.
        """
        check_mel(mel, "asit", BANDS, self.min_frames)
        patches = self.asit.patch_embed(mel.transpose(2, 3))
        positions = self.positions(patches.shape[2])
        return self.asit(patches.flatten(2).transpose(1, 2), positions, self.grad_checkpointing)

    def positions(self, steps):
        """Position embeddings of that many time steps, time first, [1, 8 * steps, embed_dim]."""
        # The table is a grid of bands by time, and is stretched as one of time by bands: so the weights were trained.
        grid = self.asit.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (ROWS, TABLE_STEPS))
        resampled = F.interpolate(grid, size=(steps, ROWS), mode="bicubic", align_corners=False)
        return resampled.flatten(2).transpose(1, 2)

    def layer_groups(self):
        """Patch and position embeddings, then the blocks, then the final norm."""
        return groups_by_depth(self, blocks=r"\bblocks\.(\d+)\.", last=r"\basit\.norm\.")
