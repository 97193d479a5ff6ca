"""Frame-wise training on AudioSet-strong, and the detection of its events in recordings, for ex_audioset.

Schmid et al., "Effective Pre-Training of Audio Transformers for Sound Event Detection", ICASSP 2025.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

import configs
import models
from data_util.class_tables import class_names
from data_util.streaming import stream
from helpers.event_inference import Detection, detect
from helpers.frame_runner import FrameRunner
from helpers.ingredients import Section, keyword_defaults
from helpers.strong import StrongAugmentation, StrongModule, StrongObjective
from helpers.strong_metrics import StrongMetrics
from helpers.tagging_runners import Member
from helpers.tagging_schedules import make_strong_optimizer, make_strong_schedule
from helpers.tagging_settings import content_of_run, with_settings_of_run
from models.registry import OWN
from models.strong import StrongModel, build_strong, checkpoint_of_run, load_strong
from models.tagging import local_file
from published import provide_weights

DATASET = "audioset_strong"
FROM_DATA = ("n_classes", "n_classes_weak", "seq_len")
OF_RECORDINGS = ("window_size", "hop_length")


def without(entries, names):
    """The entries but for these."""
    return {key: value for key, value in entries.items() if key not in names}


class Sections:
    """The config sections: training, model, optimizer, detection."""

    def __init__(self):
        self.strong = Section("strong", StrongAugmentation, StrongObjective, {"median_window": 9})
        self.strong_model = Section("strong_model", without(keyword_defaults(StrongModel), FROM_DATA))
        self.strong_optimizer = Section("strong_optimizer", make_strong_optimizer, make_strong_schedule)
        self.detection = Section("detection", without(keyword_defaults(Detection), OF_RECORDINGS))

    def __iter__(self):
        return iter(vars(self).values())


def taught(config) -> bool:
    """Whether there is a teacher."""
    return config["strong"]["distillation_loss_weight"] > 0


def checkpoint_of(arch, name, trained):
    """How the weights called ``name`` are read; None for none.

    Args:
        arch: a registered architecture.
        name: a published name, a file, ``"own"`` or None.
        trained: what ``"own"`` stands for: weights trained on AudioSet-strong, else those on AudioSet to start from.

    Raises:
        ValueError: an unknown name, or a file that is neither.
    """
    architecture = models.get(arch)
    if name == OWN:
        suffix = "_strong_1" if trained else "_weak"
        name = next((key for key in architecture.checkpoints if key.endswith(suffix)), architecture.pretrained_name)
    path = local_file(name)
    if path is None:
        return architecture.checkpoint(name)
    published = [entry for entry in architecture.checkpoints.values() if Path(entry.file).name == path.name]
    return replace(published[0], file=str(path.absolute())) if published else checkpoint_of_run(path.absolute())


def make_model(config, given, classes, trained, seq_len=250):
    """Front end and model with the weights of ``pretrained_name``.

    Args:
        config: of the run.
        given: dotted names of the entries that the user set.
        classes: names of the classes.
        trained: whether it is used as it is: then its heads must know these classes.
        seq_len: frames of the output.

    Raises:
        FileNotFoundError: no weights.
        ValueError: weights that do not fit, or whose heads know other classes.
    """
    arch, name = config["arch"], config["pretrained_name"]
    checkpoint, mel_section = checkpoint_of(arch, name, trained), models.get(arch).mel_section
    if checkpoint is not None:  # features as the weights know them
        of_weights = {key: value for key, value in checkpoint.mel.items() if f"{mel_section}.{key}" not in given}
        config = {**config, mel_section: {**config[mel_section], **of_weights}}
    mel, model = build_strong(arch, config, len(classes), seq_len=seq_len, **config["strong_model"])
    provide_weights(checkpoint)
    loaded = checkpoint and load_strong(model, checkpoint, configs.RESOURCES_PATH)
    if trained and loaded and any(left.startswith("strong_head.") for left in loaded.left):
        raise ValueError(f"{checkpoint.file} has no frame-wise head for {len(classes)} classes: expected weights of it")
    return mel, model


def make_module(config, sections, given, clips, trained):
    """The module of a run.

    Args:
        config, given, trained: as for :func:`make_model`.
        sections: its :class:`Sections`.
        clips: of the test, a :class:`data_util.strong_clips.StrongClips`.
    """
    content = content_of_run(config["pretrained_name"]) if trained else {}
    if tuple(content.get("classes", clips.classes)) != clips.classes:
        raise ValueError(f"{config['pretrained_name']} was trained for other classes than those of {DATASET}")
    mel, model = make_model(config, given, clips.classes, trained, clips.grid.n_frames)
    mel.input_rate = clips.sample_rate
    if config["compile"]:
        model.compile()
    window = config["strong"]["median_window"]
    metrics = {
        role: StrongMetrics(clips.classes, *clips.truth, median_window=window, name=f"{DATASET} {role}")
        for role in ("validation", "test")
    }
    return StrongModule(
        mel, model, sections.strong(target=StrongAugmentation), sections.strong(target=StrongObjective),
        partial(sections.strong_optimizer, target=make_strong_optimizer),
        partial(sections.strong_optimizer, target=make_strong_schedule),
        metrics, clips.classes, config["seed"], config,
    )  # fmt: skip


def detect_events(config, given, recordings):
    """Events in recordings, see :func:`helpers.event_inference.detect`.

    Raises:
        ValueError: an ensemble or a backend other than torch is asked for; see :func:`make_model` for the rest.
    """
    if config["ensemble"] or config["backend"] != "torch":
        raise ValueError("audioset_strong: inference takes one arch and backend=torch, leave ensemble and backend away")
    content = content_of_run(config["pretrained_name"])
    config = with_settings_of_run(config, given, content, models.sections())
    classes = tuple(content.get("classes", class_names(DATASET)))
    mel, model = make_model(config, given, classes, trained=True)
    runner = FrameRunner(
        Member(config["arch"], mel, model), workers=torch.get_num_threads(), precision=config["precision"],
        device=config["device"] or ("cuda" if torch.cuda.is_available() else "cpu"),
    )  # fmt: skip
    windows = {name: config[name] for name in OF_RECORDINGS}
    return detect(
        recordings, runner, stream, classes, Detection(**config["detection"], **windows),
        batch_size=config["inference_batch_size"], out=config["out"], labels=config["labels"], plot=config["plot"],
        scores=config["scores"],
    )  # fmt: skip
