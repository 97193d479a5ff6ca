"""The network of ATST-Frame."""

from torch import nn

from models.registry import Backbone, groups_by_depth
from models.vit import Block, check_mel, init_weights, random_embedding, run_block, time_positions

BANDS, PATCH_FRAMES = 64, 4
MAX_TOKENS = 250  # ten seconds


class PatchEmbed(nn.Module):
    """All bands of four frames to one token, [batch, 1, 64, frames] -> [batch, frames // 4, dim]."""

    def __init__(self, dim):
        super().__init__()
        self.patch_embed = nn.Linear(BANDS * PATCH_FRAMES, dim)

    def forward(self, mel):
        tokens = mel.shape[3] // PATCH_FRAMES
        patches = mel[:, 0, :, : tokens * PATCH_FRAMES].unflatten(2, (tokens, PATCH_FRAMES))
        # The values of a patch are in the order band, then frame.
        return self.patch_embed(patches.transpose(1, 2).flatten(2))


class FrameTransformer(nn.Module):
    """The student or teacher encoder of ATST-Frame without its projection heads."""

    def __init__(self, dim, depth, num_heads):
        super().__init__()
        # Stands for masked frames in pre-training; kept for the state dict.
        self.mask_embed = random_embedding(1, 1, dim)
        self.pos_embed = random_embedding(1, MAX_TOKENS + 1, dim)  # entry 0 was meant for a class token
        self.patch_embed = PatchEmbed(dim)
        self.blocks = nn.ModuleList(Block(dim, num_heads, qkv_bias=False) for _ in range(depth))
        self.norm_frame = nn.LayerNorm(dim, eps=1e-6)
        self.apply(init_weights)

    def forward(self, mel, checkpointing=False):
        x = self.patch_embed(mel)
        x = x + time_positions(self.pos_embed[:, 1:].transpose(1, 2), x.shape[1]).transpose(1, 2)
        for block in self.blocks:
            x = run_block(block, x, checkpointing=checkpointing)
        return self.norm_frame(x)


class AtstFrame(Backbone):
    """ATST-Frame (Li et al., IEEE/ACM TASLP 2024, https://arxiv.org/abs/2306.04186): one embedding per 40 ms.

    Shorter inputs than ten seconds use the first position embeddings; for longer ones they are stretched.

    Args:
        embed_dim: width; the published weights have 768.
        depth: transformer blocks; the published weights have 12.
        num_heads: attention heads; the published weights have 12.
        grad_checkpointing: compute the activations of each block again in the backward pass, to save memory.
    """

    def __init__(self, embed_dim=768, depth=12, num_heads=12, grad_checkpointing=False):
        super().__init__()
        self.embed_dim = embed_dim
        self.grad_checkpointing = grad_checkpointing
        self.atst = FrameTransformer(embed_dim, depth, num_heads)

    def forward(self, mel, rng=None):
        """[batch, 1, 64, frames] -> [batch, frames // 4, embed_dim]; nothing is drawn from ``rng``.

        Raises:
            ValueError: another shape, or fewer than four frames.
        """
        check_mel(mel, "atst_frame", BANDS, PATCH_FRAMES)
        return self.atst(mel, self.grad_checkpointing)

    def layer_groups(self):
        """Patch and position embeddings, then the blocks, then the final norm."""
        return groups_by_depth(self, blocks=r"\bblocks\.(\d+)\.", last=r"\bnorm_frame\.")

    def idle_parameters(self):
        """The embedding of masked frames."""
        return [self.atst.mask_embed]
