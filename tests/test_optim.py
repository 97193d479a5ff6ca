"""Optimizer groups, learning-rate schedules and the moving average of the teacher."""

import copy
import re

import pytest
import torch
from torch import nn

from helpers.ema import ema_update
from helpers.optim import make_optimizer, make_schedule, parameter_groups
from models import registry
from models.crnn import Task4CRNN
from tests.golden.named_weights import set_named_weights
from tests.reference import golden

ARCHITECTURES = ("atst_frame", "fpasst", "beats")
STAGE_2_DEFAULTS = {"cnn_lr": 1e-4, "rnn_lr": 1e-3, "pt_lr": 1e-4, "adamw": False, "pt_trainable_layers": "all"}


def settings(arch, configuration):
    """The `optimizer` entries of a stored configuration: defaults or the published command of that stage."""
    cnn_lr = 1e-5 if arch == "atst_frame" else 5e-5
    stage2 = {**STAGE_2_DEFAULTS, "cnn_lr": cnn_lr, "rnn_lr": 10 * cnn_lr, "adamw": True, "weight_decay": 1e-3}
    return {
        "stage1": {"crnn_lr": 5e-4},
        "stage1_default": {},
        "stage2": {**stage2, "pt_lr_scale": 0.5},
        "stage2_4_trainable_layers": {**stage2, "pt_lr_scale": 0.5, "pt_trainable_layers": 4},
        "stage2_default": STAGE_2_DEFAULTS,
    }[configuration]


def stored_rates(arch, configuration):
    """Learning rate by name, with the blocks 10 and 11 of fPaSST at their own depth.

    The published code finds `blocks.1` in their names too, and gives them the rate of block 1.
    """
    stored = golden(f"sed/optimizer_{arch}.json")[configuration]
    rates = dict(stored["lr"])
    if arch == "fpasst" and configuration.startswith("stage2"):
        scale = settings(arch, configuration).get("pt_lr_scale", 1.0)
        for name in golden("sed/optimizer_fpasst.json")["stage2"]["lr"]:
            if block := re.search(r"\.blocks\.(10|11)\.", name):
                rates[name] = 1e-4 * scale ** (12 - int(block.group(1)))
    return stored, rates


@pytest.mark.parametrize(
    "configuration", ["stage1", "stage1_default", "stage2", "stage2_4_trainable_layers", "stage2_default"]
)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_parameter_has_the_published_rate(arch, configuration):
    # the published commands for BEATs leave the AudioSet head out
    bare = arch == "beats" and not configuration.endswith("default")
    with torch.device("meta"):
        model = Task4CRNN(registry.get(arch).net(), no_wrapper=bare)
    optimizer = make_optimizer(model.named_parameters(), model.layer_groups(), **settings(arch, configuration))
    stored, expected = stored_rates(arch, configuration)

    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates == pytest.approx(expected, rel=1e-9)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    idle = {"as_model.model.atst.mask_embed"}  # stored as trainable, but no gradient ever reaches it
    assert trainable == set(expected) - set(stored["in_the_optimizer_without_gradient"]) - idle
    assert type(optimizer).__name__ == stored["optimizer"]
    for group in optimizer.param_groups:
        assert group["weight_decay"] == stored["groups"][0]["weight_decay"]
        assert list(group["betas"]) == stored["betas"]
        assert group["eps"] == stored["eps"]


def test_defaults_train_everything_but_the_backbone():
    model = nn.ModuleDict({"as_model": nn.Linear(2, 2), "cnn": nn.Linear(2, 2), "dense": nn.Linear(2, 2)})
    backbone = list(model["as_model"].parameters())
    optimizer = make_optimizer(model.named_parameters(), [backbone])
    (group,) = optimizer.param_groups
    assert (group["name"], group["lr"], len(group["params"])) == ("crnn", 1e-3, 4)
    assert not any(parameter.requires_grad for parameter in backbone)


def test_one_of_two_rates_leaves_the_other_at_crnn_lr():
    model = nn.ModuleDict({"cnn": nn.Linear(2, 2), "dense": nn.Linear(2, 2)})
    rates = {g["name"]: g["lr"] for g in parameter_groups(model.named_parameters(), crnn_lr=3.0, rnn_lr=0.5)}
    assert rates == {"cnn": 3.0, "rnn": 0.5}


def test_crnn_lr_none_means_lr():
    model = nn.Linear(2, 2)
    assert make_optimizer(model.named_parameters(), (), lr=0.25, crnn_lr=None).param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("layers", ["some", -1, 4, 1.5, True, None])
def test_a_wrong_number_of_trainable_layers_is_named(layers):
    model = nn.Linear(2, 2)
    groups = [[model.weight], [], [model.bias]]
    with pytest.raises(ValueError, match=r"optimizer\.pt_trainable_layers: .* expected 'all' or 0 to 3"):
        make_optimizer(model.named_parameters(), groups, pt_trainable_layers=layers)


def test_empty_groups_keep_their_place():
    model = nn.Linear(2, 2)
    optimizer = make_optimizer(
        model.named_parameters(),
        [[model.weight], [], [model.bias]],
        pt_lr=1.0,
        pt_lr_scale=0.5,
        pt_trainable_layers="all",
    )
    assert [(g["name"], g["lr"]) for g in optimizer.param_groups] == [("pt0", 1.0), ("pt2", 0.25)]


def test_layer_groups_of_another_model_are_refused():
    with pytest.raises(ValueError, match="layer_groups"):
        parameter_groups(nn.Linear(2, 2).named_parameters(), [list(nn.Linear(2, 2).parameters())], crnn_lr=1.0)


def rates_at(steps, base_lrs, **entries):
    parameters = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in base_lrs]
    optimizer = torch.optim.SGD(parameters)
    schedule = make_schedule(optimizer, **entries)
    result = {}
    for step in range(max(steps) + 1):
        if step in steps:
            result[step] = schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    return result


@pytest.mark.parametrize("mode", ["cos", "cosine", "linear", "exp"])
def test_schedules_give_the_published_rates(mode):
    stored = golden("sed/ema_and_schedules.json")["schedules"]["cos" if mode == "cosine" else mode]
    total = stored["num_training_steps"]
    base_lrs = stored["base_lrs"]
    if mode == "linear":
        # published `linear` has the shape of a group at the optimizer's default rate, whatever the group's own is
        base_lrs = [stored["optimizer_default_lr"]]
    last = total if mode.startswith("cos") else max(map(int, stored["lr_at_step"]))
    wanted = {int(step): rates for step, rates in stored["lr_at_step"].items() if int(step) <= last}
    options = {key: stored[key] for key in ("num_training_steps", "num_warmup_steps", "gamma", "lr_end")}
    found = rates_at([*wanted], base_lrs, schedule_mode=mode, **options)
    for step, rates in wanted.items():
        factors = [rate / base for rate, base in zip(rates, stored["base_lrs"])]
        assert found[step] == pytest.approx([f * b for f, b in zip(factors, base_lrs)], rel=1e-9, abs=1e-15), step


def test_cos_stays_at_its_end_value():
    rates = rates_at([100, 101, 150], [1.0], num_training_steps=100, num_warmup_steps=10)
    assert rates == {100: [0.0], 101: [0.0], 150: [0.0]}


def test_linear_ends_at_lr_end_in_every_group():
    base_lrs = [1e-5, 1e-3, 5e-8, 0.0]
    options = {"schedule_mode": "linear", "num_training_steps": 100, "num_warmup_steps": 10, "lr_end": 1e-7}
    rates = rates_at([10, 55, 100, 120], base_lrs, **options)
    assert rates[10] == pytest.approx(base_lrs)
    assert rates[55] == pytest.approx([(1e-5 + 1e-7) / 2, (1e-3 + 1e-7) / 2, 5e-8, 0.0])
    assert rates[100] == rates[120] == pytest.approx([1e-7, 1e-7, 5e-8, 0.0])


def test_a_run_shorter_than_its_warm_up_only_warms_up():
    rates = rates_at([0, 5], [1.0], num_training_steps=5, num_warmup_steps=10)
    assert rates == {0: [0.0], 5: [0.5]}


def test_no_warm_up_starts_at_the_full_rate():
    assert rates_at([0], [1.0], num_training_steps=5, num_warmup_steps=0) == {0: [1.0]}


def test_a_restored_schedule_continues():
    def start():
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        return optimizer, make_schedule(optimizer, 50, num_warmup_steps=5)

    optimizer, schedule = start()
    for _ in range(20):
        optimizer.step()
        schedule.step()
    resumed_optimizer, resumed = start()
    resumed_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    resumed.load_state_dict(schedule.state_dict())
    for each in (optimizer, resumed_optimizer):
        each.step()
    schedule.step()
    resumed.step()
    assert resumed_optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_unknown_schedule_is_named():
    with pytest.raises(ValueError, match=r"optimizer\.schedule_mode: 'step', expected one of cos, cosine, linear, exp"):
        rates_at([0], [1.0], num_training_steps=5, schedule_mode="step")


def test_ema_gives_the_published_weights():
    stored = golden("sed/ema_and_schedules.json")["ema"]
    student, teacher = (
        nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2, bias=False)) for _ in range(2)
    )
    for step, after in zip(stored["steps"], stored["after"]):
        set_named_weights(student, stored["student_seed"])
        set_named_weights(teacher, stored["teacher_seed"])
        ema_update(teacher.parameters(), student.parameters(), step, stored["alpha"])
        for name, tensor in teacher.state_dict().items():
            torch.testing.assert_close(tensor.float(), torch.tensor(after[name]), rtol=1e-6, atol=1e-7, msg=name)
    assert not any(parameter.grad_fn for parameter in teacher.parameters())


def test_ema_first_step_copies_and_leaves_shared_tensors_alone():
    shared = nn.Parameter(torch.rand(3))
    student = [nn.Parameter(torch.rand(2)), shared]
    teacher = [nn.Parameter(torch.rand(2)), shared]
    before = shared.clone()
    ema_update(teacher, student, 0)
    assert torch.equal(teacher[0], student[0])
    ema_update(teacher, student, 3)
    assert torch.equal(shared, before)
    assert shared._version == 0
    ema_update([shared], [shared], 5)


def test_ema_of_different_models_is_refused():
    with pytest.raises(ValueError, match="teacher has 1 parameters, student 2"):
        ema_update([torch.zeros(1)], [torch.zeros(1), torch.zeros(1)], 0)
