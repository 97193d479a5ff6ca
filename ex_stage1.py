"""Stage 1: a CRNN on top of a frozen transformer, trained with a mean teacher on DESED and MAESTRO.

    python -m ex_stage1 with demo
    python -m ex_stage1 with arch=atst_frame trainer.max_epochs=200 optimizer.crnn_lr=0.0005 wandb.name=mine
    python -m ex_stage1 check_data | cache_audio | print_config

Schmid et al., "Multi-iteration multi-stage fine-tuning of transformers for sound event detection with heterogeneous
datasets", DCASE 2024.
"""

import helpers.announce  # noqa: F401  a line on stderr, before the imports that take seconds

# isort: split
import configs
import stages
from helpers.ingredients import Scripted, plain
from stages import Sections

# What this stage does differently from the defaults of the functions and classes behind the sections.
sections = Sections(trainer=dict(max_epochs=200))
ex = Scripted("ex_stage1", sections)
stages.add_data_commands(ex, sections)


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
    save_as = None  # also keep the best checkpoint as resources/pretrained_models/<save_as>.ckpt
    compile = False  # torch.compile
    rank = 0  # number of this machine of trainer.num_nodes, where no launcher tells
    debug_shapes = 2  # log the shapes of so many first steps


ex.add_named_config("demo", plain({
    **configs.DEMO,
    "trainer": dict(max_epochs=16, check_val_every_n_epoch=8, precision="32-true"),
    "optimizer": dict(crnn_lr=2e-3, schedule_mode="exp", gamma=0.999, weight_decay=1e-4),
    "training": dict(batch_sizes=(1, 6, 8, 1, 1), num_workers=2, wavmix_p=0.0),
    "loss_weights": (0.5, 1.0, 1.0, 0.3, 0.1, 0.5),
    "ssl_loss_warmup_steps": 100,
    "ema_factor": 0.98,
    "test_untrained": True,
}))  # fmt: skip


@ex.automain
def main(_config):
    config = stages.configured(plain(_config), ex.given)
    return stages.run(config, sections, stages.make_stage(1, config, sections))
