"""Audio tagging: efficient convolutional networks, or any other architecture, on AudioSet and smaller data sets.

    python -m ex_audioset with demo
    python -m ex_audioset with esc50 data.root=DIR data.fold=1 arch=mn10_as
    python -m ex_audioset with folder data.root=DIR
    python -m ex_audioset inference with arch=mn10_as audio_path=FILE_OR_FOLDER
    python -m ex_audioset evaluate | esc50_cv | inference | embed | export | complexity | check_data | print_config

Schmid et al., "Efficient Large-Scale Audio Tagging via Transformer-to-CNN Knowledge Distillation", ICASSP 2023, and
"Dynamic Convolutional Neural Networks as Efficient Pre-Trained Audio Models", TASLP 2024.
"""

import helpers.announce  # noqa: F401  a line on stderr, before the imports that take seconds

# isort: split
from contextlib import suppress
from functools import partial

import lightning as L
import rich
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader

import configs
import models
import strong_stage
import taggers
from data_util.demo_tagging import with_demo
from data_util.listings import ESC50_FOLDS
from data_util.tagging import DATASETS, evaluation_set, training_set
from data_util.tagging_checks import check
from data_util.tagging_clips import clips_of, report_unreadable
from data_util.tagging_roles import SAMPLING, chosen, make_loaders, make_sets
from helpers import logger, report, runs
from helpers.ingredients import Scripted, Section, plain
from helpers.tagging import Augmentation, TaggingEnsemble, TaggingModule, best_is_tested
from helpers.tagging_losses import Distillation, Objective
from helpers.tagging_metrics import TaggingMetrics
from helpers.tagging_report import over_folds, show, show_folds
from helpers.tagging_schedules import make_optimizer, make_schedule
from helpers.tagging_settings import content_of_run, require_classes, with_settings_of_run
from models.tagging import build_tagger

trainer = Section(
    "trainer", L.Trainer, runs.TRAINER_EXTRAS,
    devices=1, precision="32-true", max_epochs=80, benchmark=True, num_sanity_val_steps=0,
    default_root_dir="./outputs", accumulate_grad_batches=1, reload_dataloaders_every_epoch=False,
)  # fmt: skip
wandb = Section("wandb", logger.wandb_logger, project="audio_tagging", tags=[])
data = Section("data", training_set, evaluation_set, SAMPLING, DataLoader, batch_size=64, num_workers=12)
augment = Section("augment", Augmentation)
kd = Section("kd", Distillation)
loss = Section("loss", {"masked_mean": "annotated"})
optimizer = Section("optimizer", make_optimizer, make_schedule)
demo = Section("demo", with_demo)
frames = strong_stage.Sections()
plugins = [Section(name, entries) for name, entries in models.sections().items()]
ex = Scripted("ex_audioset", [trainer, wandb, data, augment, kd, loss, optimizer, demo, *frames, *plugins])


@ex.config
def settings():
    dataset = None  # audioset, fsd50k, ..., audioset_strong or folder: `with esc50` sets it and the published recipe
    arch = "mn10_as"  # python -m models lists all
    pooling = None  # "mean" or "attention": over the frame embeddings, in place of the network's own classifier
    pretrained_name = None  # "own": the published weights of arch; another published name; a file; None: random weights

    validate_on = "test"  # part of the data set after every epoch; "val" where it has one
    test_checkpoint = "last"  # as published, or "best" on that part
    test_untrained = False  # also test the network before training

    ckpt_path = None  # go on from this checkpoint; "last": from the newest one of the runs called wandb.name
    save_as = None  # also keep the tested checkpoint as resources/pretrained_models/<save_as>.ckpt
    compile = False  # torch.compile
    rank = 0  # number of this machine of trainer.num_nodes, where no launcher tells


@ex.config
def recordings():
    audio_path = None  # of inference and embed: a file, a folder, or a list of them
    ensemble = None  # networks in place of arch: architectures, published names of weights, files
    window_size = None  # seconds; None: a recording in one pass
    hop_length = None  # seconds from one window to the next; None: a quarter of the window
    out = None  # file of the results: .csv, .json, .npz or .h5; of export: .onnx
    plot = None  # folder of figures
    labels = None  # of events: folder of Audacity labels
    scores = None  # of events: folder of score tables
    backend = "torch"  # or "onnx", "openvino"
    precision = "f32"  # or "bf16"
    device = None  # of torch; None: the accelerator, where there is one
    inference_batch_size = 8  # windows


def recipe(name):
    """The named config of a data set: the published training."""
    published, entry = configs.TAGGING[name], DATASETS[name]
    clips = {"root": f"{configs.DATA_PATH}/{name}", **entry.published, **entry.sampling, **published.get("data", {})}
    return plain({"dataset": name, **published, "data": clips})


for name in configs.TAGGING:
    ex.add_named_config(name, recipe(name))
ex.add_named_config("pl_audioset", plain(configs.PL_AUDIOSET))
ex.add_named_config("demo", plain(configs.TAGGING_DEMO))
ex.add_named_config("demo_strong", plain(configs.STRONG_DEMO))
taggers.add_commands(ex)


def make_module(config, teaching, clips, content=None):
    """The network with its weights, and how it is trained and evaluated.

    Args:
        config: of the run.
        teaching: the weights of labels and teacher.
        clips: of the test.
        content: of the weights file of a run, where the weights are evaluated as they are.
    """
    name, dataset = config["pretrained_name"], config["dataset"]
    mel, tagger = build_tagger(config["arch"], config, len(clips.classes), config["pooling"])
    mel.input_rate = clips.sample_rate
    loaded = taggers.load_weights(tagger, config["arch"], name)
    if content is not None:
        require_classes(config["arch"] if name == "own" else name, loaded, content, clips.classes, dataset)
    if config["compile"]:
        tagger.tag = torch.compile(tagger.tag)
    objective = Objective(clips.multi_label, teaching, **config["loss"])
    metrics = {
        role: TaggingMetrics(clips.classes, clips.multi_label, objective.masked_mean, f"{dataset} {role}")
        for role in ("validation", "test")
    }
    return TaggingModule(
        mel, tagger, Augmentation(**config["augment"]), objective,
        partial(optimizer, target=make_optimizer), partial(optimizer, target=make_schedule),
        metrics, clips.classes, config["seed"], config,
    )  # fmt: skip


def make_trained(config, teaching, clips, validation):
    """The module that is trained; ``clips`` are those of its test."""
    if config["dataset"] == strong_stage.DATASET:
        return strong_stage.make_module(config, frames, ex.given, clips, trained=False, validation=validation)
    return make_module(config, teaching, clips)


def make_tested(config, clips):
    """The network that is tested as it is, or the ensemble."""
    if strong_stage.asked_for(config):
        (config,) = taggers.named(config, ex.given)
        return strong_stage.make_module(config, frames, ex.given, clips, trained=True)
    members = []
    for one in taggers.named(config, ex.given):
        content = content_of_run(one["pretrained_name"])
        one = with_settings_of_run(one, set(ex.given) - {"arch"}, content, models.sections())
        members.append(make_module(one, Distillation(), clips, content))
    return members[0] if len(members) == 1 else TaggingEnsemble(members)


def run(config, train=True):
    """Trains and tests, or goes on where ``ckpt_path`` ends; without ``train``, tests the weights as they are.

    Returns:
        the values of the test by name.
    """
    runs.start(config["rank"])
    if train and config["ensemble"]:
        raise ValueError("ensemble: several networks are not trained at once, expected one arch")
    config = with_settings_of_run(config, ex.given, content_of_run(runs.weights_of(config)), models.sections(), train)
    begun, monitor = runs.Run(config, train, kept_in=configs.PRETRAINED), best_is_tested(config)
    teaching, entries = Distillation(**config["kd"]), with_demo(config["dataset"], config["data"], **config["demo"])
    taught = strong_stage.taught(config) if config["dataset"] == strong_stage.DATASET else teaching.weights[1] > 0
    sets = make_sets(config["dataset"], entries, train, config["validate_on"], taught)
    clips = clips_of(sets["test"])
    validation = clips_of(sets["validation"]) if train else None
    module = make_trained(config, teaching, clips, validation) if train else make_tested(config, clips)
    loaders = make_loaders(sets, entries, config["seed"], not config["trainer"]["reload_dataloaders_every_epoch"])
    results = begun.fit_and_test(module, runs.Loaders(*loaders), monitor and module.headline)
    if begun.shows and results["trained"]:
        for part in sets.values():
            report_unreadable(part)
        show(results, module.evaluation["test"], begun.folder, f"{config['dataset']} {entries['split']}")
    return results["trained"]


@ex.command(unobserved=True)
def evaluate(_config):
    """Tests published weights, those of a run (pretrained_name=FILE), or an ensemble of both, on a data set."""
    run(plain(_config), train=False)


@ex.command
def esc50_cv(_config):
    """All five folds of ESC-50; their runs are called <wandb.name>-fold1 and so on."""
    config = plain(_config)
    if config["dataset"] != "esc50" or config["ckpt_path"] not in (None, "last"):
        raise ValueError("esc50_cv: expected `esc50_cv with esc50`, and to go on with it nothing but ckpt_path=last")
    root, project, name = logger.place(config)
    name, folds = name or "esc50_cv", {}
    for fold in range(1, ESC50_FOLDS + 1):
        run_name, ckpt_path = f"{name}-fold{fold}", None
        with suppress(FileNotFoundError):  # a fold that has not begun
            ckpt_path = logger.resume_from(config["ckpt_path"], root, project, run_name)
        changes = {"data": {**config["data"], "fold": fold}, "wandb": {**config["wandb"], "name": run_name}}
        folds[f"fold {fold}"] = run({**config, **changes, "ckpt_path": ckpt_path and str(ckpt_path)})
    table = over_folds(folds)
    rank_zero_only(show_folds)(table, logger.run_folder(root, project, name))
    return table["mean"]["test/accuracy"]


@ex.command(unobserved=True)
def check_data(_config):
    """Compares the parts of a data set that are there with what is published."""
    config = plain(_config)
    entries = with_demo(config["dataset"], config["data"], **config["demo"])
    rich.print(report.checks_table(check(config["dataset"], **chosen(entries, evaluation_set))))


@ex.automain
def main(_config):
    return run(plain(_config))
