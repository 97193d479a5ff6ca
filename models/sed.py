"""Sound event detectors of any registered architecture: student and teacher to train, or one of them to predict."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from helpers.checkpoints import config_of_run, initialise_from_run, load_pretrained, read, stage_file
from models import registry
from models.crnn import Task4CRNN
from models.frontends import CnnInput, CrnnMel, Scaler
from models.heads import AudioSetHead
from models.registry import OWN, Checkpoint, defaults
from models.settings import CHECKED, require_architecture
from models.strong import checkpoint_of_run
from models.tagging import local_file

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


class Detector(nn.Module):
    """A trained task-4 model with its front ends, for predictions: always in evaluation mode, without gradients.

    Args:
        model: the task-4 model.
        crnn_mel: linear mel of the CNN branch.
        mel: front end of the backbone.
        scaler: of the CNN branch.
    """

    def __init__(self, model, crnn_mel, mel, scaler):
        super().__init__()
        self.model, self.crnn_mel, self.mel, self.to_cnn = model, crnn_mel, mel, CnnInput(scaler)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode=True):
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, audio):
        """Waveforms at the ``input_rate`` of the front ends, [batch, samples], to strong logits.

        Returns:
            [batch, frames, classes] float32, of all classes: no class mask is applied. The front ends and the output
            layer compute in float32 also under autocast.
        """
        tokens = self.model.embed(self.mel(audio))
        return self.model.logits(self.model.hidden(self.to_cnn(self.crnn_mel(audio)), tokens))


def build_detector(config: Mapping, name, folder, mode="student") -> Detector:
    """A detector with the weights of a stage checkpoint. No other file is read.

    Args:
        config: the config sections by name, with ``arch`` and the ``sample_rate`` of the audio in Hz, as
            :func:`models.settings.with_settings_of` gives them.
        name: the checkpoint, see :func:`helpers.checkpoints.stage_file`.
        folder: where stage checkpoints are.
        mode: ``student`` or ``teacher``.

    Raises:
        ValueError: unknown architecture or mode, or a file that does not fit.
        FileNotFoundError: no such checkpoint; the message has the download command.
    """
    path = stage_file(name, folder)
    require_architecture(config["arch"], path, config_of_run(read(path)))
    model, mel = build_model(config["arch"], config)
    initialise_from_run(model, path, mode, key="mode")
    return Detector(model, *_front_ends(config, mel, config.get("sample_rate", 16000)))


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
    loading = {key: config.get("t4_wrapper", {}).get(key, default) for key, default in LOADING.items()}
    student, mel = build_model(arch, config)
    teacher = Task4CRNN(student.as_model, **_wrapper(config)) if frozen else build_model(arch, config)[0]

    if loading["model_init_id"]:
        path = stage_file(loading["model_init_id"], Path(resources) / "pretrained_models")
        with _Missing(random_weights):
            require_architecture(arch, path, config_of_run(read(path)))
            initialise_from_run(student, path, "student")
            initialise_from_run(teacher, path, loading["model_init_mode"])
    else:
        checkpoint = _chosen(architecture, config, loading["pretrained_name"], backbone_file)
        with _Missing(random_weights):
            load_backbone(student.as_model, checkpoint, resources)
        teacher.load_state_dict(student.state_dict())
    crnn_mel, mel, scaler = _front_ends(config, mel, sample_rate)
    return Detectors(student, teacher, crnn_mel, mel, scaler)


def build_model(arch, config: Mapping[str, Mapping]) -> tuple[Task4CRNN, nn.Module]:
    """A task-4 model with random weights, and the front end of its backbone.

    Args:
        arch: a registered architecture.
        config: the config sections by name: those of the architecture and ``t4_wrapper``.

    Raises:
        ValueError: unknown architecture, or entries that do not fit together.
    """
    mel, backbone = registry.build(arch, config)
    wrapper = _wrapper(config)
    classes = wrapper.get("audioset_classes", defaults(Task4CRNN)["audioset_classes"])
    _check_section(registry.get(arch), config, mel, classes)
    return Task4CRNN(backbone, **wrapper), mel


def _wrapper(config):
    """The entries of section ``t4_wrapper`` that are those of Task4CRNN."""
    return {key: value for key, value in config.get("t4_wrapper", {}).items() if key not in LOADING}


def _front_ends(config, mel, sample_rate):
    """Front end of the CNN branch, that of the backbone, and the scaler, for audio of that rate."""
    crnn_mel = CrnnMel(**config.get("mel", {}))
    crnn_mel.input_rate = mel.input_rate = sample_rate
    return crnn_mel, mel, Scaler(**config.get("scaler", {}))


def load_backbone(model, checkpoint, resources):
    """Loads published weights into an AudioSet wrapper or a bare backbone; None loads nothing."""
    if checkpoint is not None:
        prefix = "" if isinstance(model, AudioSetHead) else "model."
        loaded = load_pretrained(model, checkpoint, resources, prefix=prefix)
        log.info("%d tensors from %s", len(loaded.restored), checkpoint.file)


def _chosen(architecture, config, pretrained_name, backbone_file):
    """The checkpoint which the config names, None where it names none; a file is one of AudioSet-strong training."""
    section = config.get(architecture.section, {})
    if section.get("wandb_id"):
        return _of_run(section["wandb_id"])
    name = pretrained_name or section.get("pretrained_name", OWN)
    if local_file(name) is not None:
        return checkpoint_of_run(Path(name).absolute())
    checkpoint = architecture.checkpoint(name)
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
    for entry, built in zip(CHECKED, (audioset_classes, mel.sample_rate)):
        if entry in architecture.loading and section.get(entry, built) != built:
            raise ValueError(f"{architecture.section}.{entry} is {section[entry]}, but {built} is what is built")


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
