"""The mean-teacher module: who shares the backbone, what trains, the moving average, a stored training step."""

import numpy as np
import pytest
import torch

from helpers import runs
from helpers.mean_teacher import MeanTeacher, Stage
from helpers.objective import Losses, Rules, combine, public_names
from helpers.views import FilterAugment, MixAugment, Recipe, TimeAugment
from models.frontends import CnnInput
from models.sed import build_detectors
from tests.golden.named_weights import golden_waveform, set_named_weights
from tests.reference import golden

STEPS = 5  # of an epoch
NO_TEST = {"test": {"test": False}}
NO_EVALUATION = NO_TEST | {"validation": {"validate": False}}


@pytest.fixture
def train(stage1, monkeypatch):
    """Function: trains after a call of ``watch(module)``; the module."""
    course = runs.course

    def run(watch, **updates):
        modules = []

        def watched(trainer, module, *arguments, **options):
            modules.append(module)
            watch(module)
            return course(trainer, module, *arguments, **options)

        monkeypatch.setattr(runs, "course", watched)
        stage1.run(**updates)
        return modules[0]

    return run


# -- one backbone -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("trainable", "passes"), [(0, STEPS), ("all", 2 * STEPS)])
def test_frozen_backbone_exists_once_and_runs_once(train, trainable, passes):
    seen = []

    def watch(module):
        for backbone in {module.student.as_model, module.teacher.as_model}:
            backbone.register_forward_hook(lambda *_: seen.append(None))

    # Two filters, for the CNN branch: the backbone still sees the same in student and teacher.
    filters = {"apply": 1, "p": 1.0, "n_transform": 2}
    module = train(watch, optimizer={"pt_trainable_layers": trainable}, filter_augment=filters, **NO_EVALUATION)
    assert module.frozen == (module.student.as_model is module.teacher.as_model) == (trainable == 0)
    assert len(seen) == passes


def test_validation_runs_it_once_per_batch(train):
    seen = []
    module = train(
        lambda module: module.student.as_model.register_forward_hook(lambda *_: seen.append(module.training)), **NO_TEST
    )
    assert seen == [True] * STEPS + [False]
    assert module.training


# -- training ---------------------------------------------------------------------------------------------------------


def test_modes(train, monkeypatch):
    modes = []
    predict = MeanTeacher.predict

    def recorded(module, views, rng):
        parts = (module.student.cnn, module.teacher.cnn, module.student.as_model, module.mel)
        modes.append([layer.training for part in parts for layer in part.modules()])
        sizes = [len(list(part.modules())) for part in parts]
        assert modes[-1] == [True] * sum(sizes[:2]) + [False] * sum(sizes[2:])
        return predict(module, views, rng)

    monkeypatch.setattr(MeanTeacher, "predict", recorded)
    # A test and a validation before have had everything in evaluation mode.
    train(lambda module: None, test_untrained=True, trainer={"max_epochs": 2})
    assert len(modes) == 2 * STEPS


def test_moving_average_and_what_trains(train):
    first, students = {}, []

    def watch(module):
        first.update({name: tensor.clone() for name, tensor in module.state_dict().items()})
        update = module.on_before_zero_grad

        def recorded(optimizer):
            students.append((module.global_step, [p.detach().clone() for p in module.student.parameters()]))
            update(optimizer)

        module.on_before_zero_grad = recorded

    module = train(watch, ema_factor=0.6, **NO_EVALUATION)
    assert [step for step, _ in students] == list(range(STEPS))
    expected = [first[f"teacher.{name}"].double() for name, _ in module.teacher.named_parameters()]
    for step, parameters in students:
        memory = min(1 - 1 / (step + 1), 0.6)
        expected = [memory * old + (1 - memory) * new for old, new in zip(expected, parameters)]
    for (name, parameter), value in zip(module.teacher.named_parameters(), expected):
        torch.testing.assert_close(parameter.double(), value, rtol=1e-6, atol=1e-7, msg=name)

    last = module.state_dict()
    for name, tensor in first.items():
        role, part = name.split(".")[:2]
        frozen = part == "as_model" or role in ("mel", "crnn_mel")
        assert torch.equal(last[name], tensor) == frozen, name


def test_accumulated_batches_make_one_step(train, stage1):
    steps = []

    def watch(module):
        update = module.on_before_zero_grad
        module.on_before_zero_grad = lambda optimizer: (steps.append(module.global_step), update(optimizer))

    train(watch, trainer={"accumulate_grad_batches": 2}, **NO_EVALUATION)
    assert steps == [0, 1, 2]  # of two batches, two, and the one that is left
    assert list(stage1.metrics()) == [0, 1, 2]


# -- a stored step ----------------------------------------------------------------------------------------------------


def test_stored_step():
    """Total and gradients of a training step from the waveform on."""
    stored = golden("sed/training_stage1.npz")
    step = golden("sed/training_stage1.json")
    variant, loss_weights = step["variants"]["plain_half_warmup"], step["loss_weights_of_the_example_command"]
    quiet = Recipe(MixAugment(apply_mixup=False, apply_mixstyle=False), TimeAugment(), FilterAugment(apply=0))
    stage = Stage(1, quiet, Losses(), Rules(ssl_no_class_mask=True), loss_weights, 14000, 2.0)
    detectors = build_detectors("atst_frame", {"atst_frame": {"pretrained_name": None}}, "", frozen=False)
    to_cnn = CnnInput(detectors.scaler)
    module = MeanTeacher(*detectors[:4], to_cnn, stage, None, None, {}).eval()
    set_named_weights(module.student, 0)
    set_named_weights(module.teacher, 1000)
    module.student.as_model.requires_grad_(False)

    strong = torch.from_numpy(stored["labels"])
    batch = {
        "strong": strong,
        "weak": (strong.sum(-1) > 0).float(),
        "pseudo": torch.from_numpy(stored["pseudo_strong"]).transpose(1, 2),
        "valid": torch.from_numpy(stored["valid_class_mask"]),
        "source": torch.repeat_interleave(torch.arange(5), torch.from_numpy(stored["batch_sizes"])),
    }
    features = module.features(torch.from_numpy(golden_waveform(10.0, 16000, seed=0, batch=12)))
    views = stage.views(*features, batch, np.random.default_rng(0))
    terms = stage.terms(*module.predict(views), views)
    weights, grown = stage.weights(variant["global_step"], mixed=False)
    total = combine(terms, weights)
    total.backward()

    assert total.item() == pytest.approx(variant["total_loss"], rel=1e-4)
    assert grown == pytest.approx(variant["logged"]["train/ssl_weight"])
    for name, value in public_names(terms, weights, 1).items():
        assert value.item() == pytest.approx(variant["logged"][name], rel=1e-4), name
    gradients = {name: parameter.grad for name, parameter in module.student.named_parameters()}
    assert {name for name, gradient in gradients.items() if gradient is None} == set(variant["grad_absent"])
    for name, norm in variant["grad_norm"].items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-6), name
    assert all(parameter.grad is None for parameter in module.teacher.parameters())


# -- options ----------------------------------------------------------------------------------------------------------


def test_compiled_parts_keep_names_and_results(train):
    """With the backend that compiles nothing, so that no compiler is needed."""

    def watch(module):
        before = module.state_dict().keys()
        audio = torch.randn(2, 20480, generator=torch.Generator().manual_seed(0))
        x, mel = module.eval().features(audio)
        view = type("View", (), {"x": x, "mel": mel})

        def predict(role):
            tokens = getattr(module, role).embed(mel)
            return getattr(module, role).head(module.hidden(role, view, tokens))

        plain = [predict(role) for role in ("student", "teacher")]
        module.compile_parts(backend="eager")
        for role, expected in zip(("student", "teacher"), plain):
            torch.testing.assert_close(predict(role), expected)
        assert module.state_dict().keys() == before
        assert module.teacher.embed is module.student.embed

    train(watch, trainer={"limit_train_batches": 1}, **NO_EVALUATION)
