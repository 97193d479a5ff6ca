"""Search in folders of sounds for ex_qvim and ex_clotho: index, query, web page, and the files of a challenge."""

import json
import logging
import os
from functools import partial
from pathlib import Path

import numpy as np
import rich
import torch

import models
from data_util.streaming import find_audio, stream
from helpers import qvim_submission, sound_server
from helpers.files import AUDIO_SUFFIXES, replacing
from helpers.ingredients import Section, plain
from helpers.listening_page import listened, write_listening_page
from helpers.local_server import serve as serve_pages
from helpers.sound_building import build_index
from helpers.sound_encoder import SoundEncoder
from helpers.sound_index import load_index
from helpers.sound_query import Query, as_json, recording_query, table

log = logging.getLogger(__name__)

PAGE = "listening.html"
LONGEST, SHORTEST = 30.0, 0.1  # seconds of a recording that an audio-text model encodes at once; those of Clotho
# What decides on the vectors of a trained pair of encoders, beside its weights.
OF_ENCODERS = (
    "arch", "pooling", "shared", "projection", "initial_tau", "tau_trainable", "mel", "data.sample_rate",
    "data.duration", *models.sections(),
)  # fmt: skip


class Sections:
    """The config sections ``index`` and ``serve``."""

    def __init__(self):
        self.index = Section("index", build_index, {"folder": "outputs/index", "sounds": None})
        self.serve = Section("serve", serve_pages, sound_server.Limits, {"names": []})

    def __iter__(self):
        return iter((self.index, self.serve))


def encoders(config, build):
    """Encoders of sounds and of queries, by side.

    Args:
        config: of the run.
        build: callable (config) -> front end and :class:`models.retrieval.DualEncoder` with their weights.
    """
    _require_weights(config)
    mel, dual = build(config)
    return {
        side: SoundEncoder(
            mel, dual, partial(dual, side=side), dual.embed_dim, config["data"]["sample_rate"],
            config["data"]["duration"], _about(config), _device(config),
        )
        for side in ("reference", "imitation")
    }  # fmt: skip


def text_encoders(config, build):
    """The same of an audio-text model: sounds and recorded queries have one encoder, and "text" is callable
    sentence -> [dim] float32. A sound is encoded as in an evaluation, at its own length.

    Args:
        config: of the run.
        build: callable (config) -> front end, :class:`models.audio_text.AudioTextEncoder` with its weights, and
            sentence encoder.
    """
    _require_weights(config)
    mel, model, sentences = build(config)
    parts = torch.nn.ModuleDict({"model": model, "sentences": sentences})  # queries depend on either
    entries, device = config["data"], _device(config)
    sounds = SoundEncoder(
        mel, parts, model.encode_audio, model.dim, entries["sample_rate"], entries["eval_clip_length"] or LONGEST,
        _about(config) | {"text": config["text"]["model"]}, device, SHORTEST,
    )  # fmt: skip

    @torch.inference_mode()
    def text(sentence):
        captions = [sentence]
        if model.text_encoder is None:
            captions = torch.from_numpy(sentences.embed(captions)).to(device)
        return model.encode_text(captions)[0].cpu().numpy()

    return {"reference": sounds, "imitation": sounds, "text": text}


def _device(config):
    return config["device"] or ("cuda" if torch.cuda.is_available() else "cpu")


def _require_weights(config):
    if config["ckpt_path"]:
        raise ValueError("ckpt_path is where a training or its test goes on, expected that file as pretrained_name")


def _about(config):
    return {"arch": config["arch"], "weights": str(config["pretrained_name"])}


def read_any(path, sample_rate):
    """The blocks of a sound as :func:`data_util.streaming.stream` gives them, however short it is."""
    return stream(path, sample_rate, short=True)


def similarity_of(encoder, paths, batch_size):
    """Vectors [paths, dim] of the starts of recordings."""
    vectors, samples = [], round(encoder.max_seconds * encoder.sample_rate)
    for first in range(0, len(paths), batch_size):
        waveforms = [first_samples(path, encoder.sample_rate, samples) for path in paths[first : first + batch_size]]
        vectors.append(encoder(np.stack(waveforms)))
    return np.concatenate(vectors)


def first_samples(path, sample_rate, samples):
    """[samples] float32: the start of a recording, zeros behind its end."""
    taken, count = [], 0
    for block in read_any(path, sample_rate):
        taken.append(block)
        count += len(block)
        if count >= samples:
            break
    waveform = np.concatenate(taken)[:samples]
    return np.pad(waveform, (0, samples - len(waveform)))


def write_page(path, name, found, truth, classes=None):
    """A page on which one hears the queries of an evaluation and what was found, the hardest first.

    Args:
        path: of the page, or a folder for ``listening.html``.
        name: of the system.
        found: :class:`helpers.retrieval_metrics.Similarities` of files.
        truth: {query: its right sound}.
        classes: {sound: class}; None where not known.

    Returns:
        the path of the page.
    """
    targets = [truth[query] for query in found.queries]
    labels = [classes[target] for target in targets] if classes else ()
    entries = listened(found.scores, found.queries, found.items, targets, labels)
    path = Path(path).expanduser()
    page = path if path.suffix.lower() in (".html", ".htm") else path / PAGE
    return write_listening_page(page, entries, f"Query by vocal imitation: {name}")


def write_submission(folder, root, both, batch_size):
    """The files of the challenge for a folder with ``Items`` and ``Queries``, checked, and a page to listen to them.

    Args:
        folder: where they go.
        root: of the evaluation set.
        both: see :func:`encoders`.
        batch_size: clips.

    Raises:
        ValueError: see :mod:`helpers.qvim_submission`.
    """
    items, queries = qvim_submission.evaluation_files(root)
    vectors = {
        side: similarity_of(both[side], list(files.values()), batch_size)
        for side, files in (("reference", items), ("imitation", queries))
    }
    similarity = vectors["imitation"] @ vectors["reference"].T
    qvim_submission.write_submission(folder, similarity, list(queries), list(items))
    found = qvim_submission.validate_submission(folder, queries, items)
    entries = listened(similarity, list(queries.values()), list(items.values()), [None] * len(queries))
    page = write_listening_page(Path(folder) / PAGE, entries, "Submission")
    print(f"{found['queries']} queries x {found['items']} items: {folder}, to listen to: {page}")


def query_of(text, encoders):
    """The vector of a query: a recording, or a sentence where there is an encoder of texts and it names no recording.

    Args:
        text: path or sentence.
        encoders: see :func:`encoders` and :func:`text_encoders`.
    """
    is_file = os.path.isfile(text) or os.path.splitext(text)[1].lower() in AUDIO_SUFFIXES
    if "text" in encoders and not is_file:
        return Query(encoders["text"](text), ())
    return recording_query(text, encoders["imitation"], stream)


def require_whole(entries):
    """Raises ValueError where an entry, name -> value, is no whole number."""
    for name, value in entries.items():
        if type(value) is not int:
            raise ValueError(f"{name} is {value!r}, expected a whole number")


def add_search(ex, sections, made):
    """Gives an experiment the commands ``index``, ``search`` and ``serve``.

    Args:
        ex: the experiment.
        sections: its :class:`Sections`.
        made: callable (config) -> the config with the settings of the weights' run, and :func:`encoders` or
            :func:`text_encoders`.
    """

    def opened(config, both):
        return load_index(config["index"]["folder"], both["imitation"], root=config["index"]["sounds"])

    @ex.command(unobserved=True)
    def index(_config):
        """Makes the index index.folder of the sounds below index.sounds, or brings it up to date."""
        config, both = made(plain(_config))
        sounds = config["index"]["sounds"]
        if not sounds:
            raise ValueError("index.sounds is not set, expected the folder of the sounds")
        folder, root = config["index"]["folder"], Path(sounds).expanduser()
        found = sections.index(folder, root, find_audio(root), both["reference"], read_any)
        for path, reason in found["skipped"].items():
            log.warning("skipped: %s", reason if path in reason else f"{path}: {reason}")
        counts = f"{found['embedded']} new, {found['kept']} kept, {len(found['skipped'])} skipped"
        print(f"{found['files']} sounds, {found['windows']} vectors ({counts}): {folder}")

    @ex.command(unobserved=True)
    def search(_config):
        """Ranks the sounds of an index for a query, a recording or a sentence; out=FILE.json keeps the result."""
        require_whole({"top": _config["top"]})
        config, both = made(plain(_config))
        asked = "" if config["query"] is None else str(config["query"]).strip()
        if not asked:
            kinds = "a recording or a sentence" if "text" in both else "a recording"
            raise ValueError(f"query is not set, expected {kinds}")
        there = opened(config, both)
        query = query_of(asked, both)
        hits = there.search(query.vector, config["top"])
        for notice in query.notices:
            log.warning(notice)
        rich.print(table(hits, asked))
        if config["out"]:
            with replacing(config["out"]) as temporary:
                text = json.dumps(as_json(there, hits, asked, query.notices), indent=1, ensure_ascii=False)
                temporary.write_text(text, encoding="utf-8")

    @ex.command(unobserved=True)
    def serve(_config):
        """Opens a web page on which one hums, writes or drops a file, and hears what is found."""
        require_whole({f"serve.{name}": _config["serve"][name] for name in ("port", "top", "most")})
        config, both = made(plain(_config))
        limits = sections.serve(target=sound_server.Limits)
        app = sound_server.make_app(
            opened(config, both), both["imitation"], stream, limits,
            embed_text=both.get("text"), names=config["serve"]["names"],
        )  # fmt: skip
        sections.serve(app, target=serve_pages)


def add_commands(ex, sections, build, configured):
    """Gives an experiment the commands of :func:`add_search`, and ``submission``.

    Args:
        ex: the experiment.
        sections: its :class:`Sections`.
        build: see :func:`encoders`.
        configured: callable (config) -> the config with the settings of the weights' run.
    """

    def made(config):
        config = configured(config)
        return config, encoders(config, build)

    add_search(ex, sections, made)

    @ex.command(unobserved=True)
    def submission(_config):
        """Writes the files of the challenge for data.test_root to out=FOLDER."""
        config, both = made(plain(_config))
        if not config["data"]["test_root"]:
            raise ValueError("data.test_root is not set, expected the evaluation set with Items and Queries")
        out = config["out"] or "outputs/submission"
        root = Path(config["data"]["test_root"]).expanduser()
        write_submission(out, root, both, config["training"]["batch_size"])
