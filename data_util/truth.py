"""What predictions on the evaluation sets are compared with: events, durations, and the sources they belong to."""

from typing import NamedTuple

from data_util.classes import MAESTRO_EVAL_CLASSES
from data_util.events import durations
from data_util.samples import Source
from data_util.task4_files import DATASETS, config_path, read_labels
from helpers.scores import events_of_table

SOFT_LABEL_ACTIVE = 0.5  # a MAESTRO class is present where more than half of the annotators' weight says so


class Truth(NamedTuple):
    """Arguments of the evaluator builders, by the names of the data sets there."""

    ground_truths: dict[str, dict]
    durations: dict[str, dict]
    sources: dict[str, int]


def validation_truth(paths):
    """Truth of ``data_util.task4.validation_set``.

    MAESTRO's table lists the clips of training and validation; those that are not predicted do not count.

    Raises:
        DataMissing, TableError: a table is missing or wrong.
    """
    return Truth(
        {"synth": _desed(paths, "synth_val"), "real": _desed(paths, "external_strong_val"),
         "maestro": _maestro(paths, "maestro_real_train")},
        {"synth": _seconds(paths, "synth_val_dur"), "real": _seconds(paths, "external_strong_dur"), "maestro": {}},
        {"synth": Source.SYNTH, "real": Source.REAL, "weak": Source.WEAK, "maestro": Source.MAESTRO},
    )  # fmt: skip


def test_truth(paths):
    """Truth of ``data_util.task4.test_set``; errors as for :func:`validation_truth`."""
    return Truth(
        {"devtest": _desed(paths, "devtest"), "maestro": _maestro(paths, "maestro_real_dev")},
        {"devtest": _seconds(paths, "test_dur"), "maestro": _seconds(paths, "real_maestro_val_dur")},
        {"devtest": Source.DEVTEST, "maestro": Source.MAESTRO, "real": Source.REAL},
    )


test_truth.__test__ = False  # pytest would take the name for that of a test


def truth_of(paths, name):
    """Events and durations of one of the sets on which stored predictions are evaluated.

    Args:
        paths: the config section ``t4_paths``.
        name: a data set with strong labels and durations: ``devtest``, ``eval_public`` or ``maestro_real_dev``.

    Returns:
        events by clip id, seconds by clip id (MAESTRO: by recording).

    Raises:
        DataMissing, TableError: a table is missing or wrong.
    """
    events = _maestro(paths, name) if DATASETS[name].source is Source.MAESTRO else _desed(paths, name)
    return events, seconds_of(paths, name)


def seconds_of(paths, name):
    """Seconds by clip id of a data set that has a table of durations; errors as for :func:`truth_of`."""
    return _seconds(paths, DATASETS[name].durations)


def _desed(paths, name):
    return events_of_table(read_labels(paths, name))


def _maestro(paths, name):
    return events_of_table(read_labels(paths, name), MAESTRO_EVAL_CLASSES, above=SOFT_LABEL_ACTIVE)


def _seconds(paths, key):
    return durations(config_path(paths, key))
