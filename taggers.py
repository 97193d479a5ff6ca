"""What ex_audioset does with trained taggers: found by name or file, loaded, combined, and run on recordings."""

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import rich
import torch

import configs
import models
import strong_stage
from data_util.class_tables import class_names
from data_util.streaming import find_audio, stream
from helpers import onnx_export, tagging_inference
from helpers.checkpoints import config_of_run
from helpers.inference import numbered
from helpers.ingredients import plain
from helpers.tagging_inference import Cut
from helpers.tagging_report import costs_table
from helpers.tagging_runners import Member, make_runner
from helpers.tagging_settings import content_of_run, with_settings_of_run
from models.complexity import Complexity
from models.complexity import complexity as costs
from models.tagging import build_tagger, load_tagger, local_file, published_checkpoint
from published import provide_weights

log = logging.getLogger(__name__)

ONNX_FOLDER = f"{configs.RESOURCES_PATH}/onnx"


@dataclass(frozen=True)
class Trained:
    """A network with its weights.

    Attributes:
        member: the network and its front end.
        classes: names of its classes.
        multi_label: whether a recording may have several of them.
        classifies: whether its weights say anything about classes: those of ImageNet, or of a backbone, do not.
    """

    member: Member
    classes: tuple[str, ...]
    multi_label: bool
    classifies: bool


def named(config: Mapping, given: Collection[str]) -> list[dict]:
    """One config per network that the command line means: those of ``ensemble``, or the one of ``arch``.

    A member of ``ensemble`` is an architecture, a published name of its weights, or a file.

    Raises:
        ValueError: an unknown name.
    """
    if not config["ensemble"]:
        asked = "pretrained_name" in given or config["pretrained_name"] is not None
        return [config if asked else {**config, "pretrained_name": "own"}]
    members = [config["ensemble"]] if isinstance(config["ensemble"], str) else config["ensemble"]
    return [{**config, **_meant(name, config["arch"])} for name in members]


def load_weights(tagger, arch, name):
    """As :func:`models.tagging.load_tagger`, from the resources folder or, what is not there, from where it comes."""
    provide_weights(published_checkpoint(arch, name))
    return load_tagger(tagger, arch, name, configs.RESOURCES_PATH)


def load(config: Mapping, given: Collection[str]) -> Trained:
    """The network of one config.

    Args:
        config: of the run, see :func:`named`.
        given: dotted names of the entries that the user set.

    Raises:
        FileNotFoundError: no weights; the message has the download command.
        ValueError: weights that do not fit, or of classes that have no names.
    """
    name = config["pretrained_name"]
    content = content_of_run(name)
    given = set(given) - ({"arch"} if config["ensemble"] else set())
    config = with_settings_of_run(config, given, content, models.sections())
    arch = config["arch"]
    n_classes = len(content["classes"]) if content else None
    mel, tagger = build_tagger(arch, config, n_classes, config["pooling"])
    loaded = load_weights(tagger, arch, name)
    if loaded is None:
        log.warning("pretrained_name=%s: %s has random weights", name, arch)
    called = arch if name in (None, "own") else Path(name).stem
    classes = tuple(content.get("classes", class_names("audioset")))
    if tagger.n_classes != len(classes):
        expected = f"the {len(classes)} of AudioSet, or a checkpoint of a run, which names its classes"
        raise ValueError(f"{called} has {tagger.n_classes} classes without names, expected {expected}")
    classifies = loaded is None or not any(re.search(tagger.classifier_names, left) for left in loaded.left)
    return Trained(Member(called, mel, tagger), classes, content.get("multi_label", True), classifies)


def load_all(config: Mapping, given: Collection[str]) -> list[Trained]:
    """The network of ``arch``, or all of ``ensemble``."""
    return [load(one, given) for one in named(config, given)]


def require_classifiers(trained: Sequence[Trained]):
    """Raises ValueError where weights say nothing about classes."""
    for one in trained:
        if not one.classifies:
            raise ValueError(f"the weights of {one.member.name} know no classes: expected those of a trained tagger")


def require_taggers(config: Mapping, command: str):
    """Raises ValueError where frame-wise models are asked for, which a command does not know."""
    if _with_dataset(config)["dataset"] == strong_stage.DATASET:
        raise ValueError(f"{command} knows taggers only, not the frame-wise models of {strong_stage.DATASET}")


def runner_of(config: Mapping, given: Collection[str], classify=False):
    """The network or ensemble of a command line as a function of waveforms.

    Args:
        config: of the run.
        given: dotted names of the entries that the user set.
        classify: whether its classes are needed.

    Returns:
        the runner (see :func:`helpers.tagging_runners.make_runner`), the names of its classes, and whether a
        recording may have several of them.

    Raises:
        ValueError: members of an ensemble that do not go together, weights without the classifier that is needed; see
            also :func:`load`.
    """
    trained = load_all(config, given)
    first = trained[0]
    if classify:
        require_classifiers(trained)
    runner = make_runner(
        [one.member for one in trained], config["backend"], config["precision"],
        device=config["device"] or ("cuda" if torch.cuda.is_available() else "cpu"), onnx_folder=ONNX_FOLDER,
    )  # fmt: skip
    for other in trained[1:]:
        if (other.classes, other.multi_label) != (first.classes, first.multi_label):
            raise ValueError(f"ensemble: {other.member.name} has other classes than {first.member.name}")
    return runner, first.classes, first.multi_label


def recordings_of(config: Mapping) -> list[Path]:
    """The recordings of ``audio_path``.

    Raises:
        ValueError: it is not set.
        DataMissing: there is no such file, or none in the folder.
    """
    if not config["audio_path"]:
        raise ValueError("audio_path is not set, expected a recording, a folder of them, or a list of both")
    return find_audio(config["audio_path"])


def cut_of(config: Mapping) -> Cut:
    """How recordings are cut into windows."""
    return Cut(config["window_size"], config["hop_length"])


def costs_of(config: Mapping, given: Collection[str]) -> dict[str, Complexity]:
    """Costs by name of every network of a command line, for clips of ``data.clip_length`` seconds.

    Raises:
        ValueError: that is no length.
    """
    found = {}
    for one in named(config, given):
        content = content_of_run(one["pretrained_name"])
        one = with_settings_of_run(one, set(given) - {"arch"}, content, models.sections())
        n_classes = len(content["classes"]) if content else None
        seconds = one["data"]["clip_length"]
        if not isinstance(seconds, int | float) or seconds <= 0:
            raise ValueError(f"data.clip_length is {seconds!r}, expected the seconds of a clip, more than 0")
        found[one["arch"]] = costs(one["arch"], one, n_classes, one["pooling"], seconds)
    return found


def _with_dataset(config) -> dict:
    """The config, where no data set is chosen with that of the run whose weights are used."""
    of_run = config_of_run(content_of_run(config["pretrained_name"])).get("dataset")
    return {**config, "dataset": config["dataset"] or of_run}


def _meant(name, arch) -> dict:
    """Architecture and weights that the name of a member stands for."""
    if local_file(name) is not None:
        return {"arch": arch, "pretrained_name": name}
    if name in models.names():
        return {"arch": name, "pretrained_name": "own"}
    for candidate in models.names():
        if name in models.get(candidate).checkpoints:
            return {"arch": candidate, "pretrained_name": name}
    models.get(name)  # says which names there are


def add_commands(ex):
    """Gives an experiment the commands ``inference``, ``embed``, ``export`` and ``complexity``.

    Args:
        ex: the experiment, whose config has the entries that this module reads.
    """

    @ex.command(unobserved=True)
    def inference(_config):
        """Tags recordings of any length and format: audio_path=FILE, folder or list; out= and plot= keep results."""
        config = plain(_config)
        if strong_stage.asked_for(_with_dataset(config)):
            (config,) = named(config, ex.given)
            strong_stage.detect_events(config, ex.given, recordings_of(config))
            return
        runner, classes, multi_label = runner_of(config, ex.given, classify=True)
        tagging_inference.inference(
            recordings_of(config), runner, stream, classes, cut_of(config),
            batch_size=config["inference_batch_size"], multi_label=multi_label, out=config["out"], plot=config["plot"],
        )  # fmt: skip

    @ex.command(unobserved=True)
    def embed(_config):
        """Writes embeddings of recordings, and of their windows where window_size is set, to out=FILE.h5 or .npz."""
        config = plain(_config)
        require_taggers(config, "embed")
        runner, _, _ = runner_of(config, ex.given)
        out = config["out"] or "embeddings.h5"
        tagging_inference.embed(
            recordings_of(config), runner, stream, out, cut_of(config), batch_size=config["inference_batch_size"]
        )
        print(f"embeddings of {runner.embed_dim} dimensions: {out}")

    @ex.command(unobserved=True)
    def export(_config):
        """Writes networks as ONNX, waveforms in and logits out: out=FILE.onnx, or <name>.onnx."""
        config = plain(_config)
        require_taggers(config, "export")
        if config["out"] and config["ensemble"]:
            raise ValueError("out is one file, but ensemble names several networks: leave out= away, or name one arch")
        trained = load_all(config, ex.given)
        require_classifiers(trained)
        for one, name in zip(trained, numbered(one.member.name for one in trained)):
            path = onnx_export.export(one.member, config["out"] or f"{name}.onnx", one.classes)
            print(f"equal to PyTorch within {onnx_export.TOLERANCE}: {path}")

    @ex.command(unobserved=True)
    def complexity(_config):
        """Parameters, multiply-accumulates, peak memory and receptive field of arch, or of all networks of ensemble."""
        config = plain(_config)
        require_taggers(config, "complexity")
        rich.print(costs_table(costs_of(config, ex.given)))
