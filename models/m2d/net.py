"""The network of M2D, and its mel front end."""

import torch
import torch.nn.functional as F
from torch import nn
from torchaudio.transforms import MelSpectrogram

from models.frontends import FrontEnd, centred_minimum
from models.registry import Backbone, groups_by_depth
from models.spectrum import mel_spectrogram
from models.vit import PatchTransformer, check_mel

PATCH = 16
BANDS = 80
ROWS = BANDS // PATCH
PIECE_FRAMES = 1001  # ten seconds
PIECE_STEPS = PIECE_FRAMES // PATCH
NORM_STATS = (-7.1, 4.2)  # mean and deviation of the log mel in pre-training


class M2dMel(FrontEnd):
    """Log mel of M2D (Niizumi et al., IEEE/ACM TASLP 2024): 80 Slaney bands, 50 to 8000 Hz, frames of 10 ms."""

    FLOOR = torch.finfo(torch.float32).eps

    def __init__(self):
        super().__init__()
        self.sample_rate = 16000
        self.min_samples = centred_minimum(400)
        self.mel_transform = MelSpectrogram(
            self.sample_rate,
            n_fft=400,
            hop_length=160,
            f_min=50,
            f_max=8000,
            n_mels=BANDS,
            norm="slaney",
            mel_scale="slaney",
        )

    def features(self, waveform, rng=None):
        mel = mel_spectrogram(waveform, self.mel_transform.spectrogram, self.mel_transform.mel_scale)
        mean, deviation = NORM_STATS
        return (((mel + self.FLOOR).log() - mean) / deviation)[:, None]


class M2d(Backbone):
    """M2D (Niizumi et al., IEEE/ACM TASLP 2024, https://arxiv.org/abs/2404.06095): one embedding per 160 ms.

    Patches of 160 ms by 16 bands; the five of one time step are stacked, so an embedding is five times as wide as the
    transformer. Longer inputs than ten seconds are embedded in pieces of that length, which do not see each other.

    Args:
        embed_dim: width of the transformer; the published weights have 768.
        depth: transformer blocks; the published weights have 12.
        num_heads: attention heads; the published weights have 12.
        grad_checkpointing: compute the activations of each block again in the backward pass, to save memory.
    """

    def __init__(self, embed_dim=768, depth=12, num_heads=12, grad_checkpointing=False):
        super().__init__()
        self.embed_dim = ROWS * embed_dim
        self.grad_checkpointing = grad_checkpointing
        backbone = PatchTransformer(embed_dim, depth, num_heads, ROWS * PIECE_STEPS, PATCH)
        # Part of published files, but not used there either: the front end has these two numbers as constants.
        backbone.register_buffer("norm_stats", torch.tensor(NORM_STATS))
        self.m2d = nn.ModuleDict({"backbone": backbone})

    def forward(self, mel, rng=None):
        """[batch, 1, 80, frames] -> [batch, steps, 5 * embed_dim]; nothing is drawn from ``rng``.

        There are 62 steps for every 1001 frames, and ceil(rest / 16) but at most 62 for the rest.

        Raises:
            ValueError: another shape, or no frames.
        """
        check_mel(mel, "m2d", BANDS, 1)
        rest = mel.shape[3] % PIECE_FRAMES
        mel = F.pad(mel, (0, min(-rest % PATCH, -rest % PIECE_FRAMES)))
        return torch.cat([self._embed(piece) for piece in mel.split(PIECE_FRAMES, dim=3)], dim=1)

    def layer_groups(self):
        """Patch and position embeddings, then the blocks, then the final norm."""
        return groups_by_depth(self, blocks=r"\bblocks\.(\d+)\.", last=r"\bbackbone\.norm\.")

    def _embed(self, mel):
        """One piece [batch, 1, 80, frames] -> [batch, frames // 16, 5 * embed_dim]."""
        backbone = self.m2d["backbone"]
        patches = backbone.patch_embed(mel)
        steps = patches.shape[3]
        positions = backbone.pos_embed[:, 1:].unflatten(1, (ROWS, PIECE_STEPS))[:, :, :steps].flatten(1, 2)
        x = backbone(patches.flatten(2).transpose(1, 2), positions, self.grad_checkpointing)
        return x[:, 1:].unflatten(1, (ROWS, steps)).transpose(1, 2).flatten(2)
