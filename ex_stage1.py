"""Stage 1: a CRNN on top of a frozen transformer, trained with a mean teacher on DESED and MAESTRO.

    python -m ex_stage1 with demo
    python -m ex_stage1 with arch=atst_frame trainer.max_epochs=200 optimizer.crnn_lr=0.0005 wandb.name=mine
    python -m ex_stage1 check_data | cache_audio | print_config

Schmid et al., "Multi-iteration multi-stage fine-tuning of transformers for sound event detection with heterogeneous
datasets", DCASE 2024.
"""

from functools import partial

import lightning as L
import rich
from torch.utils.data import DataLoader

import configs
import models
from data_util import cache, classes, task4, task4_files, truth
from data_util import demo as demo_set
from data_util.events import FrameGrid
from data_util.loaders import evaluation_loader, train_loader
from helpers import gallery, logger, report, runs
from helpers.checkpoints import load_exact
from helpers.evaluators import Setting, test_evaluators, validation_evaluators
from helpers.ingredients import Scripted, Section, keyword_defaults, plain, require_equal
from helpers.mean_teacher import MeanTeacher, Stage, to_cnn_input
from helpers.objective import Losses, Rules
from helpers.optim import make_optimizer, make_schedule
from helpers.views import FilterAugment, MixAugment, Recipe, TimeAugment
from models.crnn import Task4CRNN
from models.frontends import CrnnMel, Scaler, amplitude_to_db
from models.sed import LOADING, build_detectors

# -- sections: entries and defaults are those of the signatures; here is what this stage does differently -------------

trainer = Section(
    "trainer", L.Trainer, runs.TRAINER_EXTRAS,
    max_epochs=200, devices=1, precision="16-mixed", benchmark=True, num_sanity_val_steps=0,
    check_val_every_n_epoch=10, default_root_dir="./outputs", accumulate_grad_batches=1,
)  # fmt: skip
wandb = Section("wandb", logger.wandb_logger, tags=[])
optimizer = Section("optimizer", make_optimizer, make_schedule)
training = Section(
    "training", task4.training_set, DataLoader, {"train": True, "batch_sizes": (12, 10, 10, 20, 20)},
    num_workers=16, dir_folder=configs.DIRS_PATH,
)  # fmt: skip
validation = Section(
    "validation", task4.validation_set, DataLoader, {"validate": True, "dataset": "/get_validation_dataset"},
    batch_size=20, shuffle=False, num_workers=16,
)  # fmt: skip
test = Section(
    "test", task4.test_set, DataLoader, {"test": True, "dataset": "/get_test_dataset"},
    batch_size=20, shuffle=False, num_workers=16,
)  # fmt: skip
demo_data = Section("demo", {"enabled": False}, demo_set.demo_folder)
encoder = Section("encoder", FrameGrid)
mel = Section("mel", CrnnMel)
scaler = Section("scaler", Scaler)
t4_wrapper = Section("t4_wrapper", Task4CRNN, LOADING)
plugins = [Section(name, entries) for name, entries in models.sections().items()]
mix_augment = Section("mix_augment", MixAugment)
time_augment = Section("time_augment", TimeAugment)
filter_augment = Section("filter_augment", FilterAugment)
loss = Section("loss", Losses)

network = [t4_wrapper, mel, scaler, *plugins]
data = [training, validation, test, encoder, demo_data]
ex = Scripted(
    "ex_stage1", [trainer, wandb, optimizer, loss, mix_augment, time_augment, filter_augment, *data, *network]
)


@ex.config
def settings():
    arch = "atst_frame"  # python -m models lists all
    audio_len = 10  # seconds of a clip
    sample_rate = 16000  # of the audio that is read; front ends of another rate resample

    # maestro, real strong, synthetic, weak, self-supervision, pseudo-labels
    loss_weights = (0.08, 0.05, 0.08, 0.21, 0.58, 0.0)
    ssl_scale_max = 2.0  # the weight of self-supervision grows up to this multiple of its entry
    ssl_loss_warmup_steps = 14000  # by one multiple in so many steps
    ssl_no_class_mask = False  # consistency on all classes instead of those that a clip's source annotates
    pseudo_strong_no_class_mask = False  # the same for pseudo-labels
    include_maestro_ssl = True  # consistency on MAESTRO
    exclude_maestro_weak_ssl = False  # but not of its clip-wise predictions
    ema_factor = 0.999  # upper bound of the teacher's memory
    gain_augment = 0  # level of a clip in dB, drawn from plus to minus this

    atst_checkpoint = "atst_as.ckpt"  # transformer of arch=atst_frame with atst_frame.pretrained_name=None
    beats_checkpoint = "beats_as.pt"  # transformer of arch=beats with beats.pretrained_name=None

    base_path = configs.DATASET_PATH  # of DESED and MAESTRO
    t4_paths = dict(configs.T4_PATHS, audio_cache=None)  # folders and tables; {base_path} is filled in
    median_window = configs.MEDIAN_WINDOW  # frames per class
    val_thresholds = [0.5]  # of the F1 scores
    test_n_thresholds = 50  # operating points of test/*/psds*_psds_eval
    test_untrained = False  # also test the model before training
    plots = 8  # clips of the test set that are drawn

    ckpt_path = None  # go on from this checkpoint; "last": from the newest one of the runs called wandb.name
    compile = False  # torch.compile
    rank = 0  # number of this machine of trainer.num_nodes, where no launcher tells
    debug_shapes = 2  # log the shapes of so many first steps


SETS = ("training", "validation", "test")
NAMES = (("wandb", "project"), ("wandb", "name"))


@ex.named_config
def demo():
    # A small data set, made on first use, and a detector that two CPU cores train in minutes: fewer and smaller layers,
    # few steps at a high rate, and no augmentation, which pays only after many more of them.
    seed = 431127949
    arch = "mn01_as"
    demo = dict(enabled=True)
    mel = dict(n_mels=64)
    t4_wrapper = dict(
        nb_filters=[16, 32, 64, 64, 64], pooling=[[2, 2], [2, 2], [1, 2], [1, 2], [1, 4]], kernel_size=[3] * 5,
        padding=[1] * 5, stride=[1] * 5, activation="relu", dropout=0.0, n_RNN_cell=64, n_layers_RNN=1,
    )  # fmt: skip
    trainer = dict(max_epochs=24, check_val_every_n_epoch=8, precision="32-true")
    optimizer = dict(crnn_lr=2e-3, schedule_mode="exp", gamma=0.999, weight_decay=1e-4)
    training = dict(batch_sizes=(1, 6, 8, 1, 1), num_workers=2, wavmix_p=0.0)
    validation = dict(num_workers=0)
    test = dict(num_workers=0)
    mix_augment = dict(apply_mixup=False, apply_mixstyle=False)
    filter_augment = dict(apply=0)
    loss_weights = (0.5, 1.0, 1.0, 0.3, 0.1, 0.5)
    ssl_loss_warmup_steps = 100
    ema_factor = 0.98
    test_untrained = True


# -- commands and the course of a run --------------------------------------------------------------------------------


def data_paths(config):
    """Folders and tables of the run; the demo data are made where they are asked for."""
    base = config["base_path"]
    paths = {key: path and path.replace("{base_path}", base) for key, path in config["t4_paths"].items()}
    if config["demo"]["enabled"]:
        folder = demo_data(target=demo_set.demo_folder)
        paths |= demo_data(folder, target=demo_set.make_demo)
        paths["dirs"] = demo_set.demo_dirs(folder)
    return paths


@ex.command(unobserved=True)
def check_data(_config):
    """Compares the folders and tables of all data sets with what is published."""
    checks = task4_files.check_data(data_paths(_config), _config["sample_rate"], use_pseudo_labels=True)
    rich.print(report.checks_table(checks))


@ex.command(unobserved=True)
def cache_audio(_config):
    """Decodes all audio once into memory-mapped files below t4_paths.audio_cache."""
    paths, rate = data_paths(_config), _config["sample_rate"]
    if not paths["audio_cache"]:
        raise ValueError("t4_paths.audio_cache is not set, expected the folder of the cache")
    cache.build_cache(task4_files.audio_files(paths, rate), paths["audio_cache"], rate)


def build_stage(config, grid):
    """Augmentations and objective of stage 1."""
    losses = loss()
    recipe = Recipe(
        mix_augment(), time_augment(), filter_augment(),
        harden_labels_maestro_p=losses.harden_labels_maestro_p,
        harden_pseudo_labels_p=losses.harden_pseudo_labels_p,
        pseudo_strong_no_class_mask=config["pseudo_strong_no_class_mask"],
        net_pooling=grid.net_pooling,
    )  # fmt: skip
    rules = Rules(**{name: config[name] for name in keyword_defaults(Rules) if name in config})
    names = ("loss_weights", "ssl_loss_warmup_steps", "ssl_scale_max", "ema_factor", "gain_augment")
    return Stage(1, recipe, losses, rules, **{name: config[name] for name in names})


def build_loaders(config, paths, grid):
    """Data loaders of every role; each rank asks for its part of them."""

    def train(*position):
        dirs = paths.get("dirs", config["training"]["dir_folder"])
        dataset = training(grid, paths, target=task4.training_set, dir_folder=dirs)
        return train_loader(dataset, config["training"]["batch_sizes"], config["seed"], *position, **options(training))

    def options(section):
        entries = section.of(DataLoader)
        kept = not config["trainer"]["reload_dataloaders_every_epoch"] and entries["num_workers"] > 0
        return {**entries, "persistent_workers": True} if kept else entries

    return runs.Loaders(
        train,
        lambda *rank: evaluation_loader(validation(grid, paths), *rank, **options(validation)),
        lambda *rank: evaluation_loader(test(grid, paths), *rank, **options(test)),
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


@ex.automain
def main(_config, seed):
    config, grid = plain(_config), encoder()
    runs.start(config["rank"])
    require_equal(config, "audio_len", "encoder.audio_len", *(f"{part}.audio_length" for part in SETS))
    require_equal(config, "sample_rate", *(f"{part}.sample_rate" for part in SETS))
    root, project, name = (config[part][key] for part, key in (("trainer", "default_root_dir"), *NAMES))
    ckpt_path = logger.resume_from(config["ckpt_path"], root, project, name)
    folder = logger.run_folder(root, project, name, resumed=ckpt_path)
    resumed = runs.read_checkpoint(ckpt_path, config["training"]["train"])
    config["seed"] = seed = resumed.get("config", {}).get("seed", seed)
    paths = data_paths(config)

    L.seed_everything(seed, verbose=False)
    backbones = {"atst_frame": config["atst_checkpoint"], "beats": config["beats_checkpoint"]}
    detectors = build_detectors(
        config["arch"], config, configs.RESOURCES_PATH,
        sample_rate=config["sample_rate"], frozen=config["optimizer"]["pt_trainable_layers"] == 0,
        backbone_file=backbones.get(config["arch"]),
        random_weights=config["demo"]["enabled"],
    )  # fmt: skip
    module = MeanTeacher(
        *detectors[:4], to_cnn_input(amplitude_to_db, detectors.scaler), build_stage(config, grid),
        partial(optimizer, target=make_optimizer), partial(optimizer, target=make_schedule),
        build_evaluators(config, paths, grid), seed, config, config["debug_shapes"],
    )  # fmt: skip
    if config["compile"]:
        module.compile_parts()
    if resumed:
        load_exact(module, resumed["state_dict"], name=str(ckpt_path))

    entries, monitor = trainer.values(), ("val/obj_metric", "max")
    if not config["validation"]["validate"]:
        entries["limit_val_batches"], monitor = 0, None
    loggers = logger.loggers(folder, wandb(folder, config), resumed.get("global_step", 0))
    running = runs.make_trainer(entries, folder, loggers, monitor)
    runs.write_summary(module, folder, config["trainer"]["weights_summary"])
    results = runs.course(
        running, module, build_loaders(config, paths, grid), ckpt_path=ckpt_path,
        train=config["training"]["train"], test=config["test"]["test"], untrained=config["test_untrained"],
    )  # fmt: skip
    if running.is_global_zero and "trained" in results:
        show(results, module, test(grid, paths).datasets[1], folder, config["plots"])
    return results.get("trained", {}).get("test/student/psds1_sed_scores_eval")
