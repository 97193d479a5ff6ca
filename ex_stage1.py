"""Stage 1: a CRNN on top of a frozen transformer, trained with a mean teacher on DESED and MAESTRO.

    python -m ex_stage1 with demo
    python -m ex_stage1 with arch=atst_frame trainer.max_epochs=200 optimizer.crnn_lr=0.0005 wandb.name=mine

Schmid et al., "Multi-iteration multi-stage fine-tuning of transformers for sound event detection with heterogeneous
datasets", DCASE 2024. ``python -m ex_stage1 print_config`` shows every setting, ``check_data`` what data is there.
"""

import logging
from functools import partial

import lightning as L
from torch.utils.data import DataLoader

import configs
import models
from data_util import task4
from data_util.demo import prepare_demo
from data_util.events import FrameGrid
from data_util.loaders import evaluation_loader, train_loader
from helpers import logger, runs
from helpers.evaluation import test_evaluation, validation_evaluation
from helpers.ingredients import Scripted, Section
from helpers.mean_teacher import MeanTeacher, Stage, to_cnn_input
from helpers.objective import Losses, Rules
from helpers.optim import make_optimizer, make_schedule
from helpers.report import announce, write_results
from helpers.views import FilterAugment, MixAugment, Recipe, TimeAugment
from models.crnn import Task4CRNN
from models.frontends import CrnnMel, Scaler, amplitude_to_db
from models.sed import LOADING, build_detectors

log = logging.getLogger(__name__)

# -- settings: sections read off signatures, with what this stage does differently ----------------------------------------

trainer = Section(
    "trainer", L.Trainer, runs.TRAINER_EXTRAS,
    max_epochs=200, devices=1, precision="16-mixed", benchmark=True, num_sanity_val_steps=0,
    check_val_every_n_epoch=10, default_root_dir="./outputs", accumulate_grad_batches=1,
)  # fmt: skip
wandb = Section("wandb", logger.wandb_logger, tags=[])
optimizer = Section("optimizer", make_optimizer, make_schedule)
training = Section(
    "training", task4.training_set, DataLoader, {"train": True, "batch_sizes": (12, 10, 10, 20, 20)},
    num_workers=16, wavmix_p=0.5, dir_desed_strong=True, dir_weak=True, dir_unlabeled=True, dir_maestro=True,
)  # fmt: skip
EVALUATION = dict(batch_size=20, shuffle=False, drop_last=False, num_workers=16)
validation = Section(
    "validation", task4.validation_set, DataLoader, {"validate": True, "dataset": "/get_validation_dataset"},
    **EVALUATION,
)  # fmt: skip
test = Section("test", task4.test_set, DataLoader, {"test": True, "dataset": "/get_test_dataset"}, **EVALUATION)
encoder = Section("encoder", FrameGrid)
mel = Section("mel", CrnnMel)
scaler = Section("scaler", Scaler)
t4_wrapper = Section("t4_wrapper", Task4CRNN, LOADING)
plugins = [Section(name, entries) for name, entries in models.sections().items()]
mix_augment = Section("mix_augment", MixAugment)
time_augment = Section("time_augment", TimeAugment)
filter_augment = Section("filter_augment", FilterAugment)
loss = Section("loss", Losses)
