"""The mean-teacher module: who shares the backbone, what trains, the moving average, a stored training step."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import ex_stage1
from helpers.ema import ema_update
from helpers.mean_teacher import MeanTeacher, Stage, to_cnn_input
from helpers.objective import Losses, Rules, combine, public_names
from helpers.views import FilterAugment, MixAugment, Recipe, TimeAugment
from models.frontends import Scaler, amplitude_to_db
from models.sed import build_detectors
from tests.golden.named_weights import golden_waveform, set_named_weights
from tests.reference import golden

SHORT = {"test": {"test": False}, "validation": {"validate": False}}


@pytest.fixture
def trained(stage1, monkeypatch):
    """Function: trains with these updates while `watch(module)` is called before; the module."""
    modules = []
    course = ex_stage1.runs.course

    def run(watch=lambda module: None, **updates):
        def watched(trainer, module, *arguments, **options):
            modules.append(module)
            watch(module)
            return course(trainer, module, *arguments, **options)

        monkeypatch.setattr(ex_stage1.runs, "course", watched)
        stage1.run(**updates)
        return modules[-1]

    return run


def calls(module):
    """A list that grows with every forward pass of a module."""
    seen = []
    module.register_forward_hook(lambda *_: seen.append(None))
    return seen


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


QUIET = {"mix_augment": {"apply_mixup": False, "apply_mixstyle": False}, "filter_augment": {"apply": 0}}


@pytest.mark.parametrize(
    ("n_transform", "trainable", "passes"),
    [(0, 0, 5), (2, 0, 5), (0, "all", 10)],  # the filters are for the CNN branch; the backbone's input stays common
)
def test_frozen_backbone_is_one_and_runs_once(trained, n_transform, trainable, passes):
    seen = {}

    def watch(module):
        seen["backbone"] = [calls(model.as_model) for model in (module.student, module.teacher)]

    updates = {"filter_augment": {"apply": 1, "p": 1.0, "n_transform": n_transform}}
    module = trained(watch, optimizer={"pt_trainable_layers": trainable}, **updates, **SHORT)
    frozen = trainable == 0
    assert module.frozen == frozen
    assert (module.student.as_model is module.teacher.as_model) == frozen
    lists = seen["backbone"][:1] if frozen else seen["backbone"]
    assert sum(map(len, lists)) == (2 if frozen else 1) * passes  # both hooks are on the one backbone
