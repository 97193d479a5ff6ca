"""Stage 2: the transformer is fine-tuned with layer-wise learning rates; its predictions are stored and evaluated.

    python -m ex_stage2 with demo
    python -m ex_stage2 with arch=atst_frame t4_wrapper.model_init_id=atst_stage1 wandb.name=mine
    python -m ex_stage2 store_predictions | ensemble_predictions | eval_predictions | check_data | print_config

Schmid et al., "Multi-iteration multi-stage fine-tuning of transformers for sound event detection with heterogeneous
datasets", DCASE 2024. Student and teacher start from stage 1 (``t4_wrapper.model_init_id``).
"""

import configs
import stages
from helpers.ingredients import Scripted, Section, plain
from helpers.views import FreqWarp
from stages import Sections

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
    bootstrap = 200  # resamples of the clips behind the intervals; 0: none


@ex.automain
def main(_config, seed):
    config = plain(_config)
    return stages.run(config, sections, stages.make_stage(2, config, sections, freq_warp()), seed)
