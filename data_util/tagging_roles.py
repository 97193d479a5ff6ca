"""Data sets and loaders of training, validation and test, from the entries of the config section ``data``."""

import inspect
from collections.abc import Mapping

from torch.utils.data import DataLoader

from data_util.loaders import evaluation_loader
from data_util.tagging import DATASETS, evaluation_set, training_set
from data_util.tagging_samplers import training_loader

# Entries beside those of training_set, evaluation_set and the DataLoader: see training_loader.
SAMPLING = {"weighted": False, "epoch_len": None}


def chosen(entries: Mapping, target) -> dict:
    """The entries that a callable takes."""
    accepted = inspect.signature(target).parameters
    return {key: value for key, value in entries.items() if key in accepted}


def make_sets(name, entries, train=True, validate_on="test", teacher=False) -> dict:
    """Data sets by role: "test" and, to ``train``, also "train" and "validation".

    Args:
        name: one of ``data_util.tagging.DATASETS``.
        entries: of the config section ``data``.
        train: whether there is training.
        validate_on: part of the data set that is the validation.
        teacher: whether the logits of a teacher are needed; without, none are read.

    Raises:
        ValueError: no data set, or no teacher; all that :func:`data_util.tagging.training_set` raises.
    """
    if name is None:
        raise ValueError(f"dataset is not set, expected one of {', '.join(DATASETS)}: for example `with esc50`")
    if not train:
        return {"test": evaluation_set(name, **chosen(entries, evaluation_set))}
    if teacher and entries["teacher_preds"] is None:
        weight = "strong.distillation_loss_weight" if name == "audioset_strong" else "kd.kd_lambda"
        raise ValueError(f"data.teacher_preds is not set, expected the logits of a teacher, or {weight}=0 for none")
    training = {**entries, "teacher_preds": entries["teacher_preds"] if teacher else None}
    return {
        "train": training_set(name, **chosen(training, training_set)),
        "validation": evaluation_set(name, **chosen({**entries, "split": validate_on}, evaluation_set)),
        "test": evaluation_set(name, **chosen(entries, evaluation_set)),
    }


def make_loaders(sets: Mapping, entries, seed, keep_workers=True) -> tuple:
    """Functions of (rank, world size; of training also epoch and first batch) for training, validation and test.

    Args:
        sets: data sets by role.
        entries: of the config section ``data``.
        seed: of all draws.
        keep_workers: processes that load data live from epoch to epoch.
    """
    options = chosen(entries, DataLoader)
    options["persistent_workers"] = keep_workers and options["num_workers"] > 0
    size, sampling = options.pop("batch_size"), {key: entries[key] for key in SAMPLING}
    evaluated = {**options, "batch_size": 1 if entries["variable_eval_length"] else size}
    return (
        lambda *position: training_loader(sets["train"], size, seed, *position, **sampling, **options),
        lambda *rank: evaluation_loader(sets["validation"], *rank, **evaluated),
        lambda *rank: evaluation_loader(sets["test"], *rank, **evaluated),
    )
