"""Sound event detectors for a mean teacher: student and teacher of any registered architecture, with their features."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import nn

from helpers.checkpoints import initialise_from_run, load_pretrained
from models import registry
from models.crnn import Task4CRNN
from models.frontends import CrnnMel, Scaler
from models.heads import AudioSetHead
from models.registry import OWN, Checkpoint, defaults

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

# The checkpoint whose layout the files of config entries `atst_checkpoint` and `beats_checkpoint` have.
IMAGE_MODEL = "deit_base_distilled_patch16_384"
BACKBONE_ONLY = {"atst_frame": "atst_as", "beats": "beats_as"}


def build_detectors(
    arch,
    config: Mapping[str, Mapping],
    resources,
    *,
    sample_rate=16000,
    frozen=True,
    backbone_file=None,
    random_weights=False,
) -> Detectors:
    """Student and teacher of an architecture, with published weights as far as the config names any.

    Args:
        arch: a registered architecture.
        config: the config sections by name: those of the architecture, ``t4_wrapper``, ``mel`` and ``scaler``.
        resources: the resources folder.
        sample_rate: of the audio that the front ends will get, in Hz.
        frozen: student and teacher share one backbone, which is not trained.
        backbone_file: file below ``pretrained_models`` that is loaded where ``pretrained_name`` names no checkpoint, in
            the layout of the architecture's checkpoint without AudioSet head.
        random_weights: a weights file that is not there is a warning instead of an error.

    Raises:
        ValueError: unknown architecture, or a file that does not fit it.
        FileNotFoundError: a weights file is missing; the message has the download command.
    """
    architecture = registry.get(arch)
    wrapper = dict(config.get("t4_wrapper", {}))
    loading = {key: wrapper.pop(key, default) for key, default in LOADING.items()}
    mel, backbone = registry.build(arch, config)
    _check_section(architecture, config, mel, wrapper.get("audioset_classes", defaults(Task4CRNN)["audioset_classes"]))
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
        checkpoint = _chosen(architecture, config, loading["pretrained_name"], backbone_file)
        with _Missing(random_weights):
            load_backbone(student.as_model, checkpoint, resources)
        teacher.load_state_dict(student.state_dict())
    mel.input_rate = sample_rate
    crnn_mel = CrnnMel(**config.get("mel", {}))
    crnn_mel.input_rate = sample_rate
    return Detectors(student, teacher, crnn_mel, mel, Scaler(**config.get("scaler", {})))


def load_backbone(model, checkpoint, resources):
    """Loads published weights into an AudioSet wrapper or a bare backbone; None loads nothing."""
    if checkpoint is not None:
        prefix = "" if isinstance(model, AudioSetHead) else "model."
        loaded = load_pretrained(model, checkpoint, resources, prefix=prefix)
        log.info("%d tensors from %s", len(loaded.restored), checkpoint.file)


def _chosen(architecture, config, pretrained_name, backbone_file):
    """The checkpoint which the config names, None where it names none."""
    section = config.get(architecture.section, {})
    if section.get("wandb_id"):
        return _of_run(section["wandb_id"])
    checkpoint = architecture.checkpoint(pretrained_name or section.get("pretrained_name", OWN))
    if checkpoint is None and section.get("pretrained"):
        return architecture.checkpoint(IMAGE_MODEL)
    if checkpoint is None and backbone_file is not None:
        rules = architecture.checkpoint(BACKBONE_ONLY[architecture.name])
        return replace(rules, file=f"pretrained_models/{backbone_file}")
    return checkpoint


def _of_run(wandb_id, outputs="outputs"):
    """The backbone of one of our own runs, by its wandb id."""
    found = sorted(Path(outputs).glob(f"*/*/wandb/*run-*-{wandb_id}"))
    if not found:
        raise FileNotFoundError(f"wandb_id={wandb_id}: no run of that id below {outputs}/*/*/wandb")
    file = (found[-1].parents[1] / "checkpoints" / "last.ckpt").resolve()
    rename = ((r"^as_model\.", ""), (r"^(?!model\.|head_linear_layer\.)", "model."))
    head = (r"^(head|att)_linear_layer\.",)
    return Checkpoint(str(file), entry="student", select=r"^as_model\.", rename=rename, missing=head)


def _check_section(architecture, config, mel, audioset_classes):
    """Entries that say what a network is must agree with what is built."""
    section = config.get(architecture.section, {})
    for entry, built in (("n_classes", audioset_classes), ("sample_rate", mel.sample_rate)):
        if entry in architecture.loading and section.get(entry, built) != built:
            raise ValueError(f"{architecture.section}.{entry} is {section[entry]}, but {built} is what is built")


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
