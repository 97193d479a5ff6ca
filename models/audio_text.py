"""Audio encoder and text projection for language-based audio retrieval.

The published system is the baseline of DCASE 2023, task 6b (CNN14 and Sentence-BERT), after Xie et al., "Language-based
Audio Retrieval Task in DCASE 2022 Challenge" (DCASE Workshop 2022). Here any architecture is the audio encoder.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

from helpers.checkpoints import Loaded, load_exact, read, rename
from models.cnn14 import ENCODER_NAMES
from models.registry import NOTHING
from models.tagging import Tagger, build_tagger, load_tagger, local_file
from models.text import SentenceEncoder

RUN_ENTRY = "audio_text"  # the key of our own weights files that holds the state dict of an AudioTextEncoder
MPNET_DIM = 768

# Names of the published dual encoders (2023 and 2024) -> ours.
BASELINE_NAMES = (
    (r"^text_enc\.fc\.", "text_projection."),
    *((rf"^audio_enc\.{theirs.removeprefix('^')}", f"audio_encoder.{ours}") for theirs, ours in ENCODER_NAMES),
    (r"^audio_enc\.", "audio_encoder."),
)
BASELINE_TABLE = r"^text_enc\.embedding\."  # sentence embeddings of the captions of one data set, by row


class AudioTextEncoder(nn.Module):
    """Embeddings of unit length of clips and captions; their dot product is the similarity.

    The classifier of the audio encoder is the projection: its classes are the dimensions of the common space.

    Names in the state dict: ``audio_encoder.*``, ``text_projection.*``, ``tau``; with ``audio_units``
    ``audio_projection.*``, with a text encoder ``text_encoder.*``.

    Args:
        audio_encoder: a tagger, whose classifier is trained.
        text_dim: dimensions of sentence embeddings.
        dim: of the common space; None: the classes of the audio encoder.
        audio_units: whether the audio encoder's classes are a hidden layer instead, with a second linear one to
            ``dim`` behind it.
        text_units: size of a hidden layer between sentence embedding and common space, None for none.
        text_encoder: of captions; None: sentence embeddings are computed elsewhere.
        freeze: how many of the audio encoder's layer groups are not trained, from the input on, or "all" for all but
            the classifier. They stay in evaluation mode, with their running statistics. The published
            ``conv_fine_tune_from=k`` means the first k groups of CNN14 (norm and blocks before k), and 1 means none.
        temperature: of the contrastive loss, its initial value.
        trainable_temperature: whether it is trained.

    Attributes:
        dim: of the embeddings.

    Raises:
        ValueError: a number that means nothing.
    """

    def __init__(
        self,
        audio_encoder: Tagger,
        text_dim: int = MPNET_DIM,
        dim: int | None = None,
        audio_units: int | None = None,
        text_units: int | None = None,
        text_encoder: SentenceEncoder | None = None,
        freeze: int | str = 0,
        temperature: float = 0.07,
        trainable_temperature: bool = False,
    ):
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}, expected a number above 0")
        self.dim = dim or audio_encoder.n_classes
        self.audio_encoder, self.text_encoder = audio_encoder, text_encoder
        self.audio_projection = None
        if audio_units is not None:
            self.audio_projection = nn.Sequential(nn.ReLU(), nn.Linear(audio_encoder.n_classes, self.dim))
        self.text_projection = nn.Linear(text_dim, self.dim)
        if text_units is not None:
            hidden = nn.Linear(text_dim, text_units), nn.ReLU(), nn.Linear(text_units, self.dim)
            self.text_projection = nn.Sequential(*hidden)
        self.tau = nn.Parameter(torch.tensor([float(temperature)]), requires_grad=trainable_temperature)
        self.partly_frozen = self._freeze(freeze)
        self.train()

    def _freeze(self, freeze):
        """Freezes layer groups of the audio encoder; returns whether there are any."""
        groups = [group for group in self.audio_encoder.layer_groups() if group]
        if freeze == "all":
            chosen = [p for _, p in self.audio_encoder.named_parameters()]
        elif type(freeze) is int and 0 <= freeze < len(groups):
            chosen = [p for group in groups[:freeze] for p in group]
        else:
            raise ValueError(f"freeze is {freeze!r}, expected 'all', or 0 to {len(groups) - 1} layer groups")
        kept = {id(p) for p in self._classifier()} if freeze == "all" else set()
        for parameter in chosen:
            if id(parameter) not in kept:
                parameter.requires_grad_(False)
        return bool(chosen)

    def _classifier(self):
        names = self.audio_encoder.classifier_names
        return [p for name, p in self.audio_encoder.named_parameters() if re.search(names, name)]

    def train(self, mode: bool = True):
        super().train(mode)
        if self.partly_frozen:
            for module in self.audio_encoder.modules():
                parameters = list(module.parameters())
                if parameters and not any(parameter.requires_grad for parameter in parameters):
                    module.training = False
        return self

    def trained_parameters(self) -> dict[str, list[nn.Parameter]]:
        """What is trained: ``audio`` (the encoder without its classifier), ``text`` (its encoder), ``projection``."""
        audio = {id(p) for p in self.audio_encoder.parameters()} - {id(p) for p in self._classifier()}
        text = set() if self.text_encoder is None else {id(p) for p in self.text_encoder.parameters()}
        groups = {"audio": [], "text": [], "projection": []}
        for parameter in self.parameters():
            if parameter.requires_grad:
                inside = "audio" if id(parameter) in audio else "text" if id(parameter) in text else "projection"
                groups[inside].append(parameter)
        return groups

    def encode_audio(self, mel, rng=None):
        """Embeddings of clips.

        Args:
            mel: features of the front end, [batch, 1, bands, frames].
            rng: numpy Generator for the draws of training mode.

        Returns:
            [batch, dim] float32 of unit length.
        """
        embedding, _ = self.audio_encoder.tag(mel, rng)
        return _normalised(embedding if self.audio_projection is None else self.audio_projection(embedding))

    def encode_text(self, captions):
        """Embeddings of captions.

        Args:
            captions: [batch, text_dim] sentence embeddings; or texts, for the text encoder.

        Returns:
            [batch, dim] float32 of unit length.

        Raises:
            ValueError: texts without a text encoder.
        """
        if not isinstance(captions, torch.Tensor):
            if self.text_encoder is None:
                raise ValueError("captions are texts, but there is no text encoder: expected sentence embeddings")
            captions = self.text_encoder(self.text_encoder.tokens(captions))
        return _normalised(self.text_projection(captions))


def _normalised(embedding):
    with torch.autocast(embedding.device.type, enabled=False):
        return functional.normalize(embedding.float(), dim=1)


def build_audio_text(
    arch: str = "cnn14_clotho",
    config: Mapping[str, Mapping[str, object]] = NOTHING,
    pooling: str | None = None,
    text_encoder: SentenceEncoder | None = None,
    text_dim: int | None = None,
    *,
    dim: int = 300,
    audio_units: int | None = None,
    text_units: int | None = None,
    freeze: int | str = 0,
    temperature: float = 0.07,
    trainable_temperature: bool = False,
) -> tuple[nn.Module, AudioTextEncoder]:
    """Front end and randomly initialised encoder of any registered architecture.

    Args:
        arch, config, pooling: as for :func:`models.tagging.build_tagger`.
        text_encoder: see :class:`AudioTextEncoder`.
        text_dim: dimensions of sentence embeddings; None: those of the text encoder, or of all-mpnet-base-v2.
        dim: of the common space.
        audio_units, text_units: sizes of hidden layers in front of it, None for none. The second linear layer of the
            2024 audio encoder is ``cnn14_clotho.projection``.
        freeze, temperature, trainable_temperature: see :class:`AudioTextEncoder`.

    Returns:
        the front end, whose ``input_rate`` is to be set to the rate of the audio, and the encoder.

    Raises:
        ValueError: as in both, or a size below 1.
    """
    for name, size in (("dim", dim), ("audio_units", audio_units), ("text_units", text_units)):
        if size is not None and size < 1:
            raise ValueError(f"{name} is {size}, expected a number of dimensions")
    if text_dim is None:
        text_dim = MPNET_DIM if text_encoder is None else text_encoder.dim
    mel, tagger = build_tagger(arch, config, audio_units or dim, pooling)
    model = AudioTextEncoder(
        tagger, text_dim, dim, audio_units, text_units, text_encoder, freeze, temperature, trainable_temperature
    )
    return mel, model


def load_audio_text(model: AudioTextEncoder, arch: str, pretrained_name: str | None, folder) -> Loaded | None:
    """Loads weights: those of a tagger into the audio encoder, or all of a trained retrieval system.

    Args:
        model: what :func:`build_audio_text` made for ``arch``.
        arch: a registered name.
        pretrained_name: as for :func:`models.tagging.load_tagger`; or the file of a retrieval system: one of our runs,
            or a published dual encoder, whose table of sentence embeddings is left out. Its temperature is not in it.
        folder: the resources folder.

    Returns:
        the names restored and left at their initial values; None where nothing was loaded.

    Raises:
        FileNotFoundError, ValueError: as there.
    """
    path = local_file(pretrained_name)
    state = {} if path is None else audio_text_state(read(path))
    if not state:
        return load_tagger(model.audio_encoder, arch, pretrained_name, folder)
    return load_exact(
        model, state, missing=(r"^tau$", r"^text_encoder\."), ignored=(BASELINE_TABLE,), name=str(path)
    )  # fmt: skip


def audio_text_state(content: Mapping) -> dict:
    """The state dict of an :class:`AudioTextEncoder` in a weights file; empty where it holds something else.

    A published dual encoder is known by its names: the file of a 2024 run has them below ``model_state_dict``.
    """
    for state in (content.get(RUN_ENTRY), content.get("model_state_dict"), content):
        if isinstance(state, Mapping) and _starts(state, "audio_encoder.") and _starts(state, "text_projection."):
            return dict(state)
        if isinstance(state, Mapping) and _starts(state, "audio_enc.") and _starts(state, "text_enc."):
            return rename(state, BASELINE_NAMES)
    return {}


def _starts(state: Sequence | Mapping, beginning: str) -> bool:
    return any(isinstance(name, str) and name.startswith(beginning) for name in state)
