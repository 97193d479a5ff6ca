"""What the two stages of sound event detection share: config sections, data, detectors, and the course of a run."""

import logging
from functools import partial

import lightning as L
import rich
import torch
from torch.utils.data import DataLoader

import configs
import models
from data_util import cache, classes, task4, task4_files, truth
from data_util import demo as demo_set
from data_util.events import FrameGrid
from data_util.loaders import evaluation_loader, train_loader
from helpers import gallery, logger, report, runs
from helpers.evaluators import Setting, test_evaluators, validation_evaluators
from helpers.ingredients import Section, keyword_defaults, require_equal
from helpers.mean_teacher import MeanTeacher, Stage
from helpers.objective import Losses, Rules
from helpers.optim import make_optimizer, make_schedule
from helpers.views import FilterAugment, FreqWarp, MixAugment, Recipe, TimeAugment
from models.crnn import Task4CRNN
from models.frontends import CnnInput, CrnnMel, Scaler, amplitude_to_db
from models.sed import LOADING, build_detectors
from models.settings import with_settings_of

log = logging.getLogger(__name__)

SETS = ("training", "validation", "test")


class Sections:
    """The config sections of both stages: entries and defaults are those of the signatures.

    Args:
        **stage: section -> entries in which the stage differs.

    Raises:
        TypeError: there is no such section, or no such entry in it.
    """

    def __init__(self, **stage):
        def section(name, *targets, **common):
            return Section(name, *targets, **{**common, **stage.pop(name, {})})

        self.trainer = section(
            "trainer", L.Trainer, runs.TRAINER_EXTRAS,
            devices=1, precision="16-mixed", benchmark=True, num_sanity_val_steps=0,
            check_val_every_n_epoch=10, default_root_dir="./outputs", accumulate_grad_batches=1,
        )  # fmt: skip
        self.wandb = section("wandb", logger.wandb_logger, tags=[])
        self.optimizer = section("optimizer", make_optimizer, make_schedule)
        self.training = section(
            "training", task4.training_set, DataLoader, {"train": True, "batch_sizes": (12, 10, 10, 20, 20)},
            num_workers=16, dir_folder=configs.DIRS_PATH,
        )  # fmt: skip
        self.validation = section(
            "validation", task4.validation_set, DataLoader, {"validate": True, "dataset": "/get_validation_dataset"},
            batch_size=20, shuffle=False, num_workers=16,
        )  # fmt: skip
        self.test = section(
            "test", task4.test_set, DataLoader, {"test": True, "dataset": "/get_test_dataset"},
            batch_size=20, shuffle=False, num_workers=16,
        )  # fmt: skip
        self.demo = section("demo", {"enabled": False}, demo_set.demo_folder)
        self.encoder = section("encoder", FrameGrid)
        self.mel = section("mel", CrnnMel)
        self.scaler = section("scaler", Scaler)
        self.t4_wrapper = section("t4_wrapper", Task4CRNN, LOADING)
        self.mix_augment = section("mix_augment", MixAugment)
        self.time_augment = section("time_augment", TimeAugment)
        self.filter_augment = section("filter_augment", FilterAugment)
        self.loss = section("loss", Losses)
        self.plugins = [section(name, entries) for name, entries in models.sections().items()]
        if stage:
            raise TypeError(f"no section {', '.join(stage)}")

    def __iter__(self):
        own = (part for part in vars(self).values() if isinstance(part, Section))
        return iter([*own, *self.plugins])


def data_paths(config, sections):
    """Folders and tables of the run; the demo data are made where they are asked for."""
    base = config["base_path"]
    paths = {key: path and path.replace("{base_path}", base) for key, path in config["t4_paths"].items()}
    if config["demo"]["enabled"]:
        folder = sections.demo(target=demo_set.demo_folder)
        made = sections.demo(folder, target=demo_set.make_demo)
        published = configs.T4_PATHS | configs.T4_EVAL_PATHS
        changed = {key for key, path in config["t4_paths"].items() if path != published.get(key)}
        paths |= {key: path for key, path in made.items() if key not in changed}
        paths["dirs"] = demo_set.demo_dirs(folder)
    return paths


def add_data_commands(ex, sections):
    """Gives an experiment the commands ``check_data`` and ``cache_audio``."""

    @ex.command(unobserved=True)
    def check_data(_config):
        """Compares the folders and tables of all data sets with what is published."""
        checks = task4_files.check_data(data_paths(_config, sections), _config["sample_rate"], use_pseudo_labels=True)
        rich.print(report.checks_table(checks))

    @ex.command(unobserved=True)
    def cache_audio(_config):
        """Decodes all audio once into memory-mapped files below t4_paths.audio_cache."""
        paths, rate = data_paths(_config, sections), _config["sample_rate"]
        if not paths["audio_cache"]:
            raise ValueError("t4_paths.audio_cache is not set, expected the folder of the cache")
        cache.build_cache(task4_files.audio_files(paths, rate), paths["audio_cache"], rate)


def make_stage(number, config, sections, warp=None):
    """Augmentations and objective of a stage.

    Args:
        number: 1 or 2.
        config: the run's config.
        sections: its :class:`Sections`.
        warp: the frequency warping of stage 2.
    """
    losses = sections.loss()
    recipe = Recipe(
        sections.mix_augment(), sections.time_augment(), sections.filter_augment(), warp or FreqWarp(),
        harden_labels_maestro_p=losses.harden_labels_maestro_p,
        harden_pseudo_labels_p=losses.harden_pseudo_labels_p,
        pseudo_strong_no_class_mask=config["pseudo_strong_no_class_mask"],
        net_pooling=config["encoder"]["net_pooling"],
    )  # fmt: skip
    rules = Rules(**{name: config[name] for name in keyword_defaults(Rules) if name in config})
    names = ("loss_weights", "ssl_loss_warmup_steps", "ssl_scale_max", "ema_factor", "gain_augment")
    return Stage(
        number, recipe, losses, rules, **{name: config[name] for name in names},
        maestro_weak_classes=torch.from_numpy(classes.desed_mask(use_desed_maestro_alias=True)),
    )  # fmt: skip


def clips_of(config, part):
    """Length and rate of the clips of "training", "validation" or "test"."""
    return {entry: config[part][entry] for entry in ("sample_rate", "audio_length")}


def configured(config, given):
    """Begins the run; the config, in which all that the user left open of the networks is as in the checkpoint.

    Args:
        config: of the run.
        given: dotted names of the entries that the user set.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is damaged, or of another architecture than the one given.
    """
    runs.start(config["rank"])
    path = logger.resume_from(config["ckpt_path"], *logger.place(config))
    if path is None:
        return config
    runs.read_checkpoint(path, config["training"]["train"])
    config, notes = with_settings_of(config, given, path, configs.PRETRAINED)
    for note in notes:
        log.info("%s", note)
    return {**config, "ckpt_path": str(path)}


def build_loaders(config, sections, paths, grid):
    """Data loaders of every role; each rank asks for its part of them."""
    training, validation, test = sections.training, sections.validation, sections.test

    def train(*position):
        dirs = paths.get("dirs", config["training"]["dir_folder"])
        dataset = training(
            grid, paths, target=task4.training_set, dir_folder=dirs, **clips_of(config, "training")
        )  # fmt: skip
        return train_loader(dataset, config["training"]["batch_sizes"], config["seed"], *position, **options(training))

    def options(section):
        entries = section.of(DataLoader)
        kept = not config["trainer"]["reload_dataloaders_every_epoch"] and entries["num_workers"] > 0
        return {**entries, "persistent_workers": True} if kept else entries

    return runs.Loaders(
        train,
        lambda *rank: evaluation_loader(
            validation(grid, paths, **clips_of(config, "validation")), *rank, **options(validation)
        ),
        lambda *rank: evaluation_loader(test(grid, paths, **clips_of(config, "test")), *rank, **options(test)),
    )


def build_evaluators(config, paths, grid):
    """The metrics of validation and test."""
    setting = Setting(
        classes.CLASSES, grid.timestamps, classes.DESED_CLASSES, classes.MAESTRO_EVAL_CLASSES,
        config["median_window"], config["val_thresholds"],
    )  # fmt: skip
    return {
        "validation": validation_evaluators(*truth.validation_truth(paths), setting),
        "test": test_evaluators(*truth.test_truth(paths), setting, config["test_n_thresholds"]),
    }


def build_module(config, sections, stage, paths, grid):
    """Student and teacher of the run's architecture, and how they are trained and evaluated."""
    backbones = {"atst_frame": config["atst_checkpoint"], "beats": config["beats_checkpoint"]}
    detectors = build_detectors(
        config["arch"], config, configs.RESOURCES_PATH,
        sample_rate=config["sample_rate"], frozen=config["optimizer"]["pt_trainable_layers"] == 0,
        backbone_file=backbones.get(config["arch"]),
        random_weights=config["demo"]["enabled"],
    )  # fmt: skip
    if config.get("grad_checkpointing"):
        detectors.student.as_model.grad_checkpointing = True
    module = MeanTeacher(
        *detectors[:4], CnnInput(detectors.scaler), stage,
        partial(sections.optimizer, target=make_optimizer), partial(sections.optimizer, target=make_schedule),
        build_evaluators(config, paths, grid), config["seed"], config, config["debug_shapes"],
    )  # fmt: skip
    if config["compile"]:
        module.compile_parts()
    return module


def show(results, module, clips, folder, n_plots):
    """Tables and figures of a tested run."""
    evaluators = module.evaluation["test"]
    report.write_table(results["trained"], folder, results.get("untrained"), evaluators.per_class())
    files = gallery.pick(clips.files, n_plots)
    audio = ((file, clips[clips.files.index(file)]["audio"]) for file in files)
    mels = ((file, amplitude_to_db(module.features(waveform[None])[0])[0, 0]) for file, waveform in audio)
    gallery.write_figures(folder, evaluators, mels)
    rich.print(report.console_table(results["trained"], results.get("untrained")))
    print(f"tables, figures and checkpoints: {folder}")


def require_one_length_and_rate(config):
    """Raises ValueError where sections disagree about the clips' seconds or their sample rate."""
    require_equal(config, "audio_len", "encoder.audio_len", *(f"{part}.audio_length" for part in SETS))
    require_equal(config, "sample_rate", *(f"{part}.sample_rate" for part in SETS))


def run(config, sections, stage):
    """Trains and tests, or goes on where ``ckpt_path`` ends.

    Args:
        config: the run's config, of built-in types.
        sections: its :class:`Sections`.
        stage: what :func:`make_stage` made.

    Returns:
        PSDS1 of the tested student, None where nothing was tested.
    """
    grid = FrameGrid(**config["encoder"])
    require_one_length_and_rate(config)
    monitor = ("val/obj_metric", "max")
    if not config["validation"]["validate"]:
        config["trainer"]["limit_val_batches"], monitor = 0, None
    begun = runs.Run(config, config["training"]["train"], kept_in=configs.PRETRAINED)
    paths = data_paths(config, sections)
    module, loaders = build_module(config, sections, stage, paths, grid), build_loaders(config, sections, paths, grid)
    results = begun.fit_and_test(module, loaders, monitor, test=config["test"]["test"])
    if begun.shows and "trained" in results:
        clips = sections.test(grid, paths, **clips_of(config, "test")).datasets[1]
        show(results, module, clips, begun.folder, config["plots"])
    return results.get("trained", {}).get("test/student/psds1_sed_scores_eval")
