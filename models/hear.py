"""Any tagger under the interface of HEAR, the Holistic Evaluation of Audio Representations.

    python -m heareval.embeddings.runner models.hear --model resources/pretrained_models/mn10_as_mAP_471.pt

Turian et al., "HEAR: Holistic Evaluation of Audio Representations", NeurIPS 2021 competition track. Windows and time
stamps are those of the published HEAR code of the MobileNets: 160 ms every 50 ms, and for a sound that is longer than
10 s, 10 s every 2.5 s; a window is centred on its time stamp, and the sound is reflected at both ends.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import models
from helpers.checkpoints import config_of_run, read
from helpers.tagging_runners import fewest_samples
from models.registry import NOTHING
from models.tagging import RUN_ENTRY, build_tagger, load_tagger

SCENE_WINDOW, SCENE_HOP = 10_000, 2_500  # ms
BATCH_SAMPLES = 64 * 5120  # in windows that are embedded at once, at least one


class HearModel(nn.Module):
    """A tagger as HEAR knows models.

    Args:
        mel: front end.
        tagger: network.
        window, hop: of time-stamped embeddings, in milliseconds.

    Attributes:
        sample_rate: Hz of the sounds.
        scene_embedding_size, timestamp_embedding_size: of the embeddings.

    Raises:
        ValueError: the window is shorter than a frame of the front end, or the hop shorter than a sample.
    """

    def __init__(self, mel: nn.Module, tagger: nn.Module, window: float = 160, hop: float = 50):
        super().__init__()
        self.mel, self.tagger = mel.eval(), tagger.eval()
        if hasattr(mel, "per_clip_range"):
            mel.per_clip_range = True  # what a sound gets must not depend on its neighbours
        self.sample_rate, self.window, self.hop = mel.sample_rate, window, hop
        self.scene_embedding_size = self.timestamp_embedding_size = tagger.embed_dim
        self.min_samples = fewest_samples(self.mel, self.tagger)
        shortest = 1000 * mel.min_samples / self.sample_rate
        if window < shortest or hop * self.sample_rate < 1000:
            raise ValueError(f"windows of {window} ms every {hop} ms, expected windows of at least {shortest:.1f} ms")

    def forward(self, audio):
        """Embeddings [sounds, size] of waveforms [sounds, samples]; short ones are filled up with zeros."""
        missing = self.min_samples - audio.shape[1]
        audio = F.pad(audio, (0, missing)) if missing > 0 else audio
        return self.tagger.tag(self.mel(audio))[1].float()


def load_model(model_file_path: str = "", arch: str | None = None, window: float = 160, hop: float = 50) -> HearModel:
    """A model with its weights.

    Args:
        model_file_path: weights file of one of our runs or a published one, or nothing: the published weights of
            ``arch`` in the folder ``resources``.
        arch: architecture; None: that of the run, or the one that the file was published for, or else ``mn10_as``.
        window, hop: see :class:`HearModel`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that does not fit the architecture or holds a frame-wise model, or an unknown architecture.
    """
    content = read(model_file_path) if model_file_path else {}
    config = config_of_run(content) if RUN_ENTRY in content else NOTHING
    arch = arch or config.get("arch") or _published_for(model_file_path) or "mn10_as"
    n_classes = len(content["classes"]) if config else None
    mel, tagger = build_tagger(arch, config, n_classes, config.get("pooling"))
    load_tagger(tagger, arch, model_file_path or "own", "resources")
    return HearModel(mel, tagger, window, hop)


def get_scene_embeddings(audio: torch.Tensor, model: HearModel) -> torch.Tensor:
    """One embedding of every sound: of the whole, or the mean of its windows where it is longer than 10 s.

    Args:
        audio: [sounds, samples] at ``model.sample_rate``, in [-1, 1].
        model: what :func:`load_model` gave.

    Returns:
        [sounds, size] float32.

    Raises:
        ValueError: audio of another shape, or empty.
    """
    _require_audio(audio)
    if audio.shape[1] > SCENE_WINDOW * model.sample_rate // 1000:
        return _embed_windows(audio, model, SCENE_WINDOW, SCENE_HOP)[0].mean(1)
    with torch.no_grad():
        return model(audio.to(next(model.parameters()).device))


def get_timestamp_embeddings(audio: torch.Tensor, model: HearModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of the windows around time stamps.

    Args:
        audio, model: see :func:`get_scene_embeddings`.

    Returns:
        embeddings [sounds, time stamps, size] float32, and the time stamps [sounds, time stamps] in milliseconds.

    Raises:
        ValueError: audio of another shape, or empty.
    """
    _require_audio(audio)
    return _embed_windows(audio, model, model.window, model.hop)


def _embed_windows(audio, model, window, hop):
    device, per_ms = next(model.parameters()).device, model.sample_rate / 1000
    size, step = int(window * per_ms), int(hop * per_ms)
    margin = size // 2
    # A sound of less than half a window has not enough samples to be reflected.
    padded = F.pad(audio, (margin, size - margin), mode="reflect" if audio.shape[1] > size - margin else "constant")
    starts = torch.arange(0, audio.shape[1] + 1, step)
    places = [(sound, start) for sound in range(len(audio)) for start in starts.tolist()]
    at_once = max(BATCH_SAMPLES // size, 1)
    found = []
    for first in range(0, len(places), at_once):
        windows = [padded[sound, start : start + size] for sound, start in places[first : first + at_once]]
        with torch.no_grad():
            found.append(model(torch.stack(windows).to(device)))
    embeddings = torch.cat(found).view(len(audio), len(starts), -1)
    return embeddings, (starts / per_ms).float().to(device).repeat(len(audio), 1)


def _require_audio(audio):
    if audio.dim() != 2 or 0 in audio.shape:
        raise ValueError(f"audio has shape {tuple(audio.shape)}, expected [sounds, samples] with at least one of both")


def _published_for(path) -> str | None:
    """The architecture that a published file of this name is for."""
    for name in models.names():
        for checkpoint in models.get(name).checkpoints.values():
            if path and Path(checkpoint.file).name == Path(path).name:
                return name
    return None
