"""Stage 2: the transformer is fine-tuned with layer-wise learning rates; its predictions are stored and evaluated.

    python -m ex_stage2 with demo
    python -m ex_stage2 with arch=atst_frame t4_wrapper.model_init_id=atst_stage1 wandb.name=mine
    python -m ex_stage2 store_predictions | ensemble_predictions | eval_predictions | check_data | print_config

Schmid et al., "Multi-iteration multi-stage fine-tuning of transformers for sound event detection with heterogeneous
datasets", DCASE 2024. Student and teacher start from stage 1 (``t4_wrapper.model_init_id``).
"""

import helpers.announce  # noqa: F401  a line on stderr, before the imports that take seconds

# isort: split
import logging
from pathlib import Path

import numpy as np
import rich
from torch.utils.data import DataLoader

import configs
import stages
from data_util import classes, task4, truth
from data_util.events import FrameGrid
from data_util.loaders import batched_by_dataset
from helpers import runs
from helpers.checkpoints import stage_file
from helpers.collectors import Reference
from helpers.ensembles import common_sets, ensemble, file_of, tables
from helpers.evaluation import Bootstrap
from helpers.evaluation_report import evaluation_table
from helpers.files import sha256
from helpers.ingredients import Scripted, Section, keyword_defaults, plain
from helpers.predictions import Partial
from helpers.scoring import Tuning, evaluate
from helpers.storing import store
from helpers.tuning import Grid
from helpers.views import FreqWarp
from models.sed import build_detector
from models.settings import what_decides_on_outputs, with_settings_of
from stages import Sections

log = logging.getLogger(__name__)

# What this stage does differently from the defaults of the functions and classes behind the sections.
sections = Sections(
    trainer=dict(max_epochs=250),
    optimizer=dict(
        cnn_lr=1e-4, rnn_lr=1e-3, pt_lr=1e-4, pt_trainable_layers="all", adamw=False, weight_decay=1e-4,
        num_warmup_steps=270,
    ),
    training=dict(batch_sizes=(7, 5, 5, 9, 9), dir_p=0.5),
    t4_wrapper=dict(dropout=0.5, model_init_mode="teacher"),
    passt_mel=dict(fmin_aug_range=10, fmax_aug_range=1000),
    time_augment=dict(apply_mask=True),
    filter_augment=dict(n_transform=1),
)  # fmt: skip
freq_warp = Section("freq_warp", FreqWarp)
ex = Scripted("ex_stage2", [*sections, freq_warp])
stages.add_data_commands(ex, sections)


@ex.config
def settings():
    arch = "atst_frame"  # python -m models lists all
    audio_len = 10  # seconds of a clip
    sample_rate = 16000  # of the audio that is read; front ends of another rate resample

    # maestro, real strong, synthetic, weak, self-supervision, pseudo-labels
    loss_weights = (2, 1, 1, 1, 70, 0)
    ssl_scale_max = 1.0  # the weight of self-supervision grows up to this multiple of its entry
    ssl_loss_warmup_steps = 270  # by one multiple in so many steps
    ssl_no_class_mask = False  # consistency on all classes instead of those that a clip's source annotates
    pseudo_strong_no_class_mask = False  # the same for pseudo-labels
    include_maestro_ssl = True  # consistency on MAESTRO
    exclude_maestro_weak_ssl = False  # but not of its clip-wise predictions
    use_ict_loss = True  # where clips were mixed, consistency with the teacher's mixed predictions
    ema_factor = 0.999  # upper bound of the teacher's memory
    gain_augment = 0  # level of a clip in dB, drawn from plus to minus this
    grad_checkpointing = False  # activations of the transformer are computed twice instead of kept: less memory

    atst_checkpoint = "atst_as.ckpt"  # transformer of arch=atst_frame with atst_frame.pretrained_name=None
    beats_checkpoint = "beats_as.pt"  # transformer of arch=beats with beats.pretrained_name=None

    base_path = configs.DATASET_PATH  # of DESED and MAESTRO
    t4_paths = dict(configs.T4_PATHS, **configs.T4_EVAL_PATHS, audio_cache=None)  # {base_path} is filled in
    median_window = configs.MEDIAN_WINDOW  # frames per class
    val_thresholds = [0.5]  # of the F1 scores
    test_n_thresholds = 50  # operating points of test/*/psds*_psds_eval
    test_untrained = False  # also test the model before training
    plots = 8  # clips of the test set that are drawn

    ckpt_path = None  # go on from this checkpoint; "last": from the newest one of the runs called wandb.name
    save_as = None  # also keep the best checkpoint as resources/pretrained_models/<save_as>.ckpt
    compile = False  # torch.compile
    rank = 0  # number of this machine of trainer.num_nodes, where no launcher tells
    debug_shapes = 2  # log the shapes of so many first steps

    # store_predictions: of the checkpoint t4_wrapper.model_init_id, or else pretrained_name
    model_path = configs.PRETRAINED  # where checkpoints are
    pretrained_name = "atst_stage2"
    mode = "student"  # or "teacher"
    datasets = None  # names of data sets, or folders; None: all that are there
    batch_size = 128
    output_path = configs.PREDICTIONS  # <output_path>/<name>/<data set>.hdf5
    out_name = None  # None: that of the checkpoint
    overwrite = False  # replace stored predictions that were made in another way

    # ensemble_predictions and eval_predictions
    preds_path = configs.PREDICTIONS  # where stored predictions are
    pretrained_names = ["atst_stage2", "passt_stage2", "beats_stage2"]
    weights = None  # of the members; None: all alike

    # cSEBBs: the parameters that are tried
    classwise = True  # parameters of every class
    step_filter_lengths = [0.38, 0.42, 0.46, 0.5, 0.54, 0.58, 0.62, 0.66]  # seconds
    merge_thresholds_abs = [0.15, 0.175, 0.2, 0.225, 0.25, 0.275, 0.3, 0.325]
    merge_thresholds_rel = [1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 3.25]
    tune_on = "devtest"  # as published, or "cv": each fold of devtest with the parameters of the others
    tune_for = "psds1"  # or "psds2", "collar_f1"
    system = "Author_Institute_task4_1"  # name of the submission
    system_run = 1  # number of the training of that system
    bootstrap = 200  # resamples of the clips behind the intervals; 0: none


def name_of_predictions(out_name, checkpoint):
    """Folder of the predictions of a checkpoint; ValueError where that is a path, which would be a poor name."""
    if not out_name and Path(str(checkpoint)).name != str(checkpoint):
        raise ValueError(f"out_name is not set, expected a name for the predictions of {checkpoint}")
    return out_name or checkpoint


@ex.command(unobserved=True)
def store_predictions(_config):
    """Stores what a trained model predicts: <output_path>/<out_name>/<data set>.hdf5, logits of all clips."""
    config = plain(_config)
    runs.start(config["rank"])
    checkpoint, folder = config["t4_wrapper"]["model_init_id"] or config["pretrained_name"], config["model_path"]
    config, notes = with_settings_of(config, ex.given, checkpoint, folder)
    for note in notes:
        log.info("%s", note)
    out = Path(config["output_path"]) / name_of_predictions(config["out_name"], checkpoint)
    grid, paths = FrameGrid(**config["encoder"]), stages.data_paths(config, sections)
    data = task4.wav_sets(grid, paths, config["datasets"], config["test"]["audio_length"], config["sample_rate"])
    detector = build_detector(config, checkpoint, folder, config["mode"])
    settings = {
        "checkpoint": sha256(stage_file(checkpoint, folder)), "mode": config["mode"],
        "precision": config["trainer"]["precision"], **what_decides_on_outputs(config),
    }  # fmt: skip
    shape, options = (grid.n_frames, config["t4_wrapper"]["nclass"]), batched_by_dataset(sections.test.of(DataLoader))
    partials = {
        name: Partial(
            file_of(out, name), clips.clip_ids, shape, np.float32,
            settings=settings, batch_size=config["batch_size"], overwrite=config["overwrite"],
        )
        for name, clips in data.items()
    }  # fmt: skip
    for name, partial in partials.items():
        path = store(sections.trainer.values(), detector, data[name], partial, loader_options=options)
        print(f"{name}: {len(partial.clips)} clips in {path}")


@ex.command(unobserved=True)
def ensemble_predictions(_config):
    """Stores the mean logits of several models: <output_path>/<out_name>/<data set>.hdf5."""
    config = plain(_config)
    if not config["out_name"]:
        raise ValueError("out_name is not set, expected a name for the ensemble")
    members = [Path(config["preds_path"]) / name for name in config["pretrained_names"]]
    for name in common_sets(members, config["datasets"]):
        path = file_of(Path(config["output_path"]) / config["out_name"], name)
        ensemble([file_of(member, name) for member in members], path, config["weights"])
        print(f"{name}: mean of {len(members)} models in {path}")


@ex.command(unobserved=True)
def eval_predictions(_config, seed):
    """Tunes bounding boxes on devtest, prints and stores the values of stored predictions, writes the submission."""
    config, grid = plain(_config), sections.encoder()
    runs.start(config["rank"])
    paths = stages.data_paths(config, sections)
    scores = tables(
        Path(config["preds_path"]) / config["pretrained_name"], ("devtest", "maestro_real_dev"),
        ("eval_public", "eval_private"), grid.timestamps, classes.CLASSES,
    )  # fmt: skip
    labels = {name: classes.MAESTRO_EVAL_CLASSES if "maestro" in name else classes.DESED_CLASSES for name in scores}
    references = {
        name: Reference(*truth.truth_of(paths, name), labels[name], name=name)
        for name in scores if name != "eval_private"
    }  # fmt: skip
    tuning = Tuning(
        Grid(*(config[name] for name in keyword_defaults(Grid))),
        config["classwise"], config["tune_for"], config["tune_on"], seed,
    )  # fmt: skip
    evaluation = evaluate(
        scores, references, classes.DESED_CLASSES, classes.MAESTRO_CLASSES, tuning, Bootstrap(config["bootstrap"], seed)
    )
    folder = Path(config["output_path"]) / config["pretrained_name"]
    print("\n\n".join(evaluation.lines()), end="\n\n")
    rich.print(evaluation_table(evaluation.rows, config["pretrained_name"]))
    evaluation.write(folder, config["plots"])
    if "eval_private" in scores:
        seconds = truth.seconds_of(paths, "eval_private")
        evaluation.submit(folder / "submission", config["system"], config["system_run"], "eval_private", seconds)
    print(f"Storing predictions to {folder}.")


# To go on from stage 1: `python -m ex_stage1 with demo save_as=demo_stage1`, here t4_wrapper.model_init_id=demo_stage1.
ex.add_named_config("demo", plain({
    **configs.DEMO,
    "trainer": dict(max_epochs=8, check_val_every_n_epoch=4, precision="32-true"),
    "optimizer": dict(cnn_lr=1e-3, rnn_lr=1e-3, pt_lr=1e-3, pt_lr_scale=0.9, schedule_mode="exp", gamma=0.99),
    "training": dict(batch_sizes=(1, 6, 8, 1, 1), num_workers=2, wavmix_p=0.0, dir_p=0.0),
    "time_augment": dict(apply_mask=False),
    "freq_warp": dict(apply=0),
    "loss_weights": (1.5, 3.0, 3.0, 0.6, 0.1, 0.5),
    "ssl_loss_warmup_steps": 100,
    "ema_factor": 0.98,
}))  # fmt: skip


@ex.automain
def main(_config):
    config = stages.configured(plain(_config), ex.given)
    return stages.run(config, sections, stages.make_stage(2, config, sections, freq_warp()))
