"""Two encoders of one architecture for cross-modal retrieval of sounds, here vocal imitations and their references.

The published system is the baseline of the AES AIMLA Challenge 2025, "Query by Vocal Imitation", after Greif et al.,
"Improving Query-by-Vocal-Imitation with Contrastive Learning and Audio Pretraining" (DCASE Workshop 2024).
"""

import copy
import logging
import re
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from helpers.checkpoints import Loaded, load_exact, read, rename
from models import registry
from models.convolutions import run_layer
from models.registry import NOTHING, defaults
from models.tagging import Tagger, build_tagger, load_tagger, local_file

log = logging.getLogger(__name__)

RUN_ENTRY = "retrieval"  # the key of our own weights files that holds the state dict of a DualEncoder
SIDES = ("imitation", "reference")
SHORT_NAMES = ((r"^im\.", "imitation_encoder."), (r"^ref\.", "reference_encoder."))  # of the earlier published files
MEL_NAMES = {"sample_rate": "sr", "window_size": "win_length", "hop_size": "hopsize"}


def mel_options(
    sample_rate=None,
    window_size=None,
    hop_size=None,
    n_fft=None,
    n_mels=None,
    freqm=2,
    timem=200,
    fmin=None,
    fmax=None,
    fmin_aug_range=None,
    fmax_aug_range=None,
) -> dict:
    """Section ``mel``: the published names of what the section of a front end calls otherwise.

    Args:
        sample_rate: in Hz, at which features are computed.
        window_size, hop_size, n_fft: samples.
        n_mels: bands.
        freqm, timem: widest frequency and time masks of training, in bands and frames.
        fmin, fmax: edges in Hz.
        fmin_aug_range, fmax_aug_range: random shift of the edges in training, in Hz.

    Returns:
        the entries that are not None, by their name in the architecture's section. None stands for what is there.
    """
    return {MEL_NAMES.get(name, name): value for name, value in locals().items() if value is not None}


def with_mel(arch: str, config: Mapping, options: Mapping, given: Collection[str] = ()) -> dict:
    """A config whose section of the front end of ``arch`` has these options.

    Args:
        arch: a registered name.
        config: section name -> entries.
        options: see :func:`mel_options`.
        given: dotted names of the entries that the user set; what was set in the section itself wins.

    Raises:
        ValueError: an option that was asked for as ``mel.<name>`` and that the front end does not have. One that is
            merely a default (masks, for BEATs) is left out.
    """
    architecture = registry.get(arch)
    known, section = defaults(architecture.mel, architecture.mel_preset), architecture.mel_section
    published = {ours: theirs for theirs, ours in MEL_NAMES.items()}
    for name in sorted(set(options) - set(known)):
        if f"mel.{published.get(name, name)}" in given:
            raise ValueError(f"mel.{published.get(name, name)}: the front end of {arch} has no such option")
    fitting = {name: value for name, value in options.items() if name in known and f"{section}.{name}" not in given}
    return {**config, section: {**config.get(section, NOTHING), **fitting}}


class DualEncoder(nn.Module):
    """Embeddings of unit length of two kinds of clips; their dot product is the similarity.

    Names in the state dict are the published ones: ``imitation_encoder.*``, ``reference_encoder.*``, ``tau``. The
    classifiers stay there and are not trained.

    Args:
        encoder: a tagger, the initial values of both encoders; its clip embedding is used.
        shared: one encoder for both.
        projection: dimensions of a projection head with one hidden layer per encoder [Chen et al., "A Simple Framework
            for Contrastive Learning of Visual Representations", ICML 2020]; None: the clip embedding itself.
        initial_tau: temperature of the contrastive loss; its sign is ignored.
        tau_trainable: whether it is trained.

    Attributes:
        embed_dim: dimensions of the embeddings.

    Raises:
        ValueError: a temperature of 0, or no dimension.
    """

    def __init__(
        self,
        encoder: Tagger,
        shared: bool = False,
        projection: int | None = None,
        initial_tau: float = 0.07,
        tau_trainable: bool = False,
    ):
        super().__init__()
        if initial_tau == 0:
            raise ValueError("initial_tau is 0, expected the temperature of a softmax")
        if projection is not None and projection < 1:
            raise ValueError(f"projection is {projection}, expected a number of dimensions, or None")
        for name, parameter in encoder.named_parameters():
            if re.search(encoder.classifier_names, name):
                parameter.requires_grad_(False)
        self.shared, self.embed_dim = shared, projection or encoder.embed_dim
        self.imitation_encoder = encoder
        self.reference_encoder = encoder if shared else copy.deepcopy(encoder)
        self.imitation_projection = self.reference_projection = None
        if projection is not None:
            wide = encoder.embed_dim
            self.imitation_projection = nn.Sequential(nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, projection))
            same = self.imitation_projection if shared else copy.deepcopy(self.imitation_projection)
            self.reference_projection = same
        self.tau = nn.Parameter(torch.full((1,), float(initial_tau)), requires_grad=tau_trainable)

    @property
    def encoders(self) -> list[Tagger]:
        """The different encoders: two, or the shared one."""
        return [self.imitation_encoder] if self.shared else [self.imitation_encoder, self.reference_encoder]

    def pooled(self, mel, side: str, rng=None):
        """Log mels -> [batch, dimensions], before the projection and not normalised; arguments as for forward."""
        if side not in SIDES:
            raise ValueError(f"'{side}' is none of {', '.join(SIDES)}")
        return getattr(self, f"{side}_encoder").tag(mel, rng)[1]

    def forward(self, mel, side: str, rng=None):
        """Embeddings.

        Args:
            mel: features of the front end, [batch, 1, bands, frames].
            side: "imitation" or "reference".
            rng: for the draws of training mode: a numpy Generator, or the seed of one.

        Returns:
            [batch, embed_dim] float32 of unit length.
        """
        embedding = self.pooled(mel, side, np.random.default_rng(rng) if rng is not None else None)
        head = getattr(self, f"{side}_projection")
        embedding = embedding if head is None else head(embedding)
        with torch.autocast(embedding.device.type, enabled=False):
            return functional.normalize(embedding.float(), dim=1)

    def in_pieces(self, mel, side: str, size: int, seed: np.random.SeedSequence):
        """The same with the activations of ``size`` clips at a time, however large the batch.

        Embeddings are computed piece by piece and their activations forgotten. The backward pass computes those of a
        piece again, with the same random draws, once the gradient of the loss by all embeddings is known. So it goes
        through the large batch at the memory of a small one, and its gradient is that of the batch ["GradCache": Gao
        et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP 2021]. It is one
        backward pass to whoever calls it, a gradient scaler or DistributedDataParallel.

        Batch norms of training mode use the statistics of their piece; running statistics count every piece once.

        Args:
            mel, side: as for forward.
            size: most clips per piece; pieces differ by one at most.
            seed: of the draws; every piece has a generator of its own.

        Returns:
            [batch, embed_dim] float32 of unit length.
        """
        pieces = mel.tensor_split(-(-len(mel) // size))
        seeds = seed.spawn(len(pieces))
        parts = [run_layer(self, part, side, own, checkpointing=True) for part, own in zip(pieces, seeds)]
        return torch.cat(parts)


def build_dual(
    arch: str,
    config: Mapping[str, Mapping[str, object]] = NOTHING,
    pooling: str | None = None,
    *,
    shared: bool = False,
    projection: int | None = None,
    initial_tau: float = 0.07,
    tau_trainable: bool = False,
) -> tuple[nn.Module, DualEncoder]:
    """Front end and randomly initialised encoders of any registered architecture.

    Args:
        arch, config, pooling: as for :func:`models.tagging.build_tagger`.
        shared, projection, initial_tau, tau_trainable: of :class:`DualEncoder`.

    Returns:
        the front end, whose ``input_rate`` is to be set to the rate of the audio, and the encoders.

    Raises:
        ValueError: as in both.
    """
    mel, tagger = build_tagger(arch, config, pooling=pooling)
    return mel, DualEncoder(tagger, shared, projection, initial_tau, tau_trainable)


def load_dual(dual: DualEncoder, arch: str, pretrained_name: str | None, folder) -> Loaded | None:
    """Loads weights: those of a tagger into both encoders, or all of a trained retrieval system.

    Args:
        dual: what :func:`build_dual` made for ``arch``.
        arch: a registered name.
        pretrained_name: as for :func:`models.tagging.load_tagger`; or the file of a retrieval system: one of our runs,
            of the challenge baseline, or of its predecessor, whose temperature stays as it is.
        folder: the resources folder.

    Returns:
        the names restored and left at their initial values; None where nothing was loaded.

    Raises:
        FileNotFoundError, ValueError: as there; or the encoders of the file differ and ours are shared.
    """
    path = local_file(pretrained_name)
    state = {} if path is None else retrieval_state(read(path))
    if state:
        classifier = dual.imitation_encoder.classifier_names.removeprefix("^")
        if dual.shared:
            _require_equal_sides(state, classifier, path)
        return load_exact(
            dual,
            state,
            missing=(r"^tau$", r"^(imitation|reference)_projection\."),
            resized=(rf"^(imitation|reference)_encoder\.{classifier}",),
            name=str(path),
        )
    loaded = load_tagger(dual.imitation_encoder, arch, pretrained_name, folder)
    dual.reference_encoder.load_state_dict(dual.imitation_encoder.state_dict())
    return loaded


def warn_of_random_weights(arch: str, pretrained_name: str | None):
    """Says that a network begins from nothing, which for a name such as "own" is not what it reads like."""
    log.warning("pretrained_name=%s: %s has random weights", pretrained_name, arch)


def retrieval_state(content: Mapping) -> dict:
    """The state dict of a :class:`DualEncoder` in a weights file; empty where it holds something else."""
    for state in (content.get(RUN_ENTRY), content.get("state_dict"), content):
        if isinstance(state, Mapping) and _names_start(state, ("imitation_encoder.", "im.")):
            return rename(state, SHORT_NAMES)
    return {}


def _names_start(state: Iterable, beginnings: tuple[str, ...]) -> bool:
    return any(isinstance(name, str) and name.startswith(beginnings) for name in state)


def _require_equal_sides(state, classifier, path):
    for name, tensor in state.items():
        other = state.get(re.sub(r"^imitation_", "reference_", name))
        trained = not re.search(rf"^imitation_encoder\.{classifier}", name)
        if trained and other is not None and not torch.equal(tensor, other):
            raise ValueError(f"{path} has two different encoders ({name}), but shared=True expects one for both")
