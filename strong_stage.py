"""Frame-wise training on AudioSet-strong, and the detection of its events in recordings, for ex_audioset.

Schmid et al., "Effective Pre-Training of Audio Transformers for Sound Event Detection", ICASSP 2025.
"""

import logging
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
from helpers.tagging_settings import content_of_run, require_classes, with_settings_of_run
from models.registry import OWN
from models.strong import StrongModel, build_strong, checkpoint_of_run, load_strong
from models.tagging import RUN_ENTRY, local_file
from published import provide_weights

log = logging.getLogger(__name__)

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


def asked_for(config) -> bool:
    """Whether the data set is AudioSet-strong: then events are found, and clips not tagged.

    Raises:
        ValueError: it is, and so is an ensemble, or a backend other than torch.
    """
    if config["dataset"] != DATASET:
        return False
    if config["ensemble"] or config["backend"] != "torch":
        raise ValueError(f"{DATASET} takes one arch and backend=torch, leave ensemble and backend away")
    return True


def checkpoint_of(arch, name, trained):
    """How the weights called ``name`` are read; None for none.

    Args:
        arch: a registered architecture.
        name: a published name, a file, ``"own"`` or None.
        trained: what ``"own"`` stands for: weights trained on AudioSet-strong, else those on AudioSet to start from.

    Raises:
        ValueError: an unknown name, or the file of a tagger.
    """
    architecture = models.get(arch)
    if name == OWN:
        suffix = "_strong_1" if trained else "_weak"
        name = next((key for key in architecture.checkpoints if key.endswith(suffix)), architecture.pretrained_name)
    path = local_file(name)
    if path is None:
        return architecture.checkpoint(name)
    content = content_of_run(path)
    if RUN_ENTRY in content:
        raise ValueError(f"{name} holds a tagger, expected a frame-wise model: the checkpoint of a run on {DATASET}")
    published = [entry for entry in architecture.checkpoints.values() if Path(entry.file).name == path.name]
    # A checkpoint of ours is whole also under a name from which a stage takes the backbone alone.
    own = content or not published
    return checkpoint_of_run(path.absolute()) if own else replace(published[0], file=str(path.absolute()))


def with_front_end_of(checkpoint, config, given):
    """The config, in which the features are those that the weights know unless the user set them.

    Args:
        checkpoint: see :func:`checkpoint_of`.
        config: of the run.
        given: dotted names of the entries that the user set.
    """
    section = models.get(config["arch"]).mel_section
    known = {} if checkpoint is None else checkpoint.mel
    open_ones = {entry: value for entry, value in known.items() if f"{section}.{entry}" not in given}
    return {**config, section: {**config[section], **open_ones}}


def make_model(config, checkpoint, n_classes, seq_len=250):
    """Front end and model, and what was loaded into it.

    Args:
        config: of the run.
        checkpoint: the weights, see :func:`checkpoint_of`; None: random ones.
        n_classes: number of classes.
        seq_len: frames of the output.

    Returns:
        the front end, the model, and the :class:`helpers.checkpoints.Loaded` names; None without weights.

    Raises:
        FileNotFoundError: no weights.
        ValueError: weights that do not fit.
    """
    mel, model = build_strong(config["arch"], config, n_classes, seq_len=seq_len, **config["strong_model"])
    provide_weights(checkpoint)
    return mel, model, checkpoint and load_strong(model, checkpoint, configs.RESOURCES_PATH)


def require_trained(checkpoint, loaded, content, classes):
    """Raises ValueError where weights have no frame-wise head for these classes.

    Args:
        checkpoint, loaded: see :func:`make_model`.
        content: of the file, where it is of a run, see :func:`helpers.tagging_settings.content_of_run`.
        classes: names.
    """
    of_head = loaded and loaded._replace(left=[name for name in loaded.left if name.startswith("strong_head.")])
    require_classes(checkpoint and checkpoint.file, of_head, content, classes, DATASET)


def make_module(config, sections, given, clips, trained, validation=None):
    """The module of a run.

    Args:
        config: of the run.
        sections: its :class:`Sections`.
        given: dotted names of the entries that the user set.
        clips: of the test, a :class:`data_util.strong_clips.StrongClips`.
        trained: whether the weights are evaluated as they are: then their heads must know the classes.
        validation: clips of the validation; None: those of the test.

    Raises:
        FileNotFoundError, ValueError: as :func:`make_model` and :func:`require_trained`.
    """
    checkpoint = checkpoint_of(config["arch"], config["pretrained_name"], trained)
    config = with_front_end_of(checkpoint, config, given)
    mel, model, loaded = make_model(config, checkpoint, len(clips.classes), clips.grid.n_frames)
    if trained:
        require_trained(checkpoint, loaded, content_of_run(config["pretrained_name"]), clips.classes)
    mel.input_rate = clips.sample_rate
    if config["compile"]:
        model.compile()
    window = config["strong"]["median_window"]
    metrics = {
        role: StrongMetrics(part.classes, *part.truth, median_window=window, name=f"{DATASET} {role}")
        for role, part in (("validation", validation or clips), ("test", clips))
    }
    return StrongModule(
        mel, model, sections.strong(target=StrongAugmentation), sections.strong(target=StrongObjective),
        partial(sections.strong_optimizer, target=make_strong_optimizer),
        partial(sections.strong_optimizer, target=make_strong_schedule),
        metrics, clips.classes, config["seed"], config,
    )  # fmt: skip


def detect_events(config, given, recordings):
    """Events in recordings, see :func:`helpers.event_inference.detect`.

    Args:
        config: of the run, in which ``pretrained_name`` says where the weights are.
        given: dotted names of the entries that the user set.
        recordings: paths.

    Raises:
        FileNotFoundError, ValueError: as :func:`make_model` and :func:`require_trained`.
    """
    content = content_of_run(config["pretrained_name"])
    config = with_settings_of_run(config, given, content, models.sections())
    classes = tuple(content.get("classes", class_names(DATASET)))
    checkpoint = checkpoint_of(config["arch"], config["pretrained_name"], trained=True)
    config = with_front_end_of(checkpoint, config, given)
    mel, model, loaded = make_model(config, checkpoint, len(classes))
    if loaded is None:
        log.warning("pretrained_name=%s: %s has random weights", config["pretrained_name"], config["arch"])
    else:
        require_trained(checkpoint, loaded, content, classes)
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
