"""Sound event detectors for a mean teacher: student and teacher of any registered architecture, with their features."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import nn

from helpers.checkpoints import initialise_from_run, load_pretrained
from models import registry
from models.crnn import Task4CRNN
from models.frontends import CrnnMel, Scaler
from models.heads import AudioSetHead
from models.registry import defaults

log = logging.getLogger(__name__)


class Detectors(NamedTuple):
    """Student and teacher, and the front ends of both branches."""

    student: Task4CRNN
    teacher: Task4CRNN
    crnn_mel: CrnnMel
    mel: nn.Module
    scaler: Scaler


# What is loaded into a detector; the other entries of section `t4_wrapper` are those of Task4CRNN.
LOADING = {"pretrained_name": None, "model_init_id": None, "model_init_mode": "student"}


def build_detectors(
    arch,
    config: Mapping[str, Mapping],
    resources,
    *,
    sample_rate=16000,
    frozen=True,
    random_weights=False,
) -> Detectors:
    """Student and teacher of an architecture, with published weights as far as the config names any.

    Args:
        arch: a registered architecture.
        config: the config sections by name: those of the architecture, ``t4_wrapper``, ``mel`` and ``scaler``.
        resources: the resources folder.
        sample_rate: of the audio that the front ends will get, in Hz.
        frozen: student and teacher share one backbone, which is not trained.
        random_weights: a weights file that is not there is a warning instead of an error.

    Raises:
        ValueError: unknown architecture, or a file that does not fit it.
        FileNotFoundError: a weights file is missing; the message has the download command.
    """
    architecture = registry.get(arch)
    wrapper = dict(config.get("t4_wrapper", {}))
    loading = {key: wrapper.pop(key, default) for key, default in LOADING.items()}
    mel, backbone = registry.build(arch, config)
    head = _with_head(backbone, wrapper)
    student = Task4CRNN(head, **wrapper)
    teacher = Task4CRNN(head if frozen else _with_head(registry.build(arch, config)[1], wrapper), **wrapper)

    if loading["model_init_id"]:
        path = Path(resources) / "pretrained_models" / f"{loading['model_init_id']}.ckpt"
        if Path(str(loading["model_init_id"])).is_file():
            path = Path(loading["model_init_id"])
        with _Missing(random_weights):
            initialise_from_run(student, path, "student")
            initialise_from_run(teacher, path, loading["model_init_mode"])
    else:
        chosen = loading["pretrained_name"] or config.get(architecture.section, {}).get(
            "pretrained_name", architecture.pretrained_name
        )
        with _Missing(random_weights):
            load_backbone(student.as_model, architecture, chosen, resources)
        teacher.load_state_dict(student.state_dict())
    mel.input_rate = sample_rate
    crnn_mel = CrnnMel(**config.get("mel", {}))
    crnn_mel.input_rate = sample_rate
    return Detectors(student, teacher, crnn_mel, mel, Scaler(**config.get("scaler", {})))


def load_backbone(model, architecture, name, resources):
    """Loads published weights by name into an AudioSet wrapper or a bare backbone; None loads nothing.

    Raises:
        ValueError: the architecture has no checkpoint of that name.
        FileNotFoundError: the file is missing.
    """
    checkpoint = architecture.checkpoint(name)
    if checkpoint is None:
        return
    prefix = "" if isinstance(model, AudioSetHead) else "model."
    loaded = load_pretrained(model, checkpoint, resources, prefix=prefix)
    log.info("%s: %d tensors from %s", architecture.name, len(loaded.restored), checkpoint.file)


def _with_head(backbone, wrapper):
    """The backbone, with the AudioSet head that the config asks for."""
    known = defaults(Task4CRNN)
    if wrapper.get("no_wrapper", known["no_wrapper"]):
        return backbone
    return AudioSetHead(backbone, wrapper.get("audioset_classes", known["audioset_classes"]))


class _Missing:
    """Turns the error of a missing weights file into a warning where random weights will do."""

    def __init__(self, tolerated):
        self.tolerated = tolerated

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if self.tolerated and kind is not None and issubclass(kind, FileNotFoundError):
            log.warning("weights are random: %s", error)
            return True
        return False

