"""Metrics of audio tagging: values over all clips of an evaluation, and of every class.

Average precision and ROC area are those of scikit-learn, ties and masks included. A class without a positive clip has
neither, one without a negative clip has no ROC area; it is nan in ``per_class``, left out of the means and named once
in the log.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from helpers.collectors import Collector, as_array
from helpers.text import listed

log = logging.getLogger(__name__)


def average_precision(scores, targets) -> float:
    """Mean of the precision at every rise of recall, for one class; clips of equal score count at once.

    Args:
        scores: [clips], any increasing function of the probability.
        targets: [clips] bool.

    Returns:
        a number in [0, 1], nan without a positive clip.
    """
    true, chosen = _counts(scores, targets)
    if not len(true) or true[-1] == 0:
        return float("nan")
    return float(np.sum(true / chosen * np.diff(true, prepend=0)) / true[-1])


def roc_auc(scores, targets) -> float:
    """Area under the ROC curve of one class: the probability that a positive clip scores above a negative one.

    Arguments and range as for :func:`average_precision`; nan without a positive or without a negative clip.
    """
    true, chosen = _counts(scores, targets)
    if not len(true) or true[-1] in (0, chosen[-1]):
        return float("nan")
    false = chosen - true
    below = true - np.diff(true, prepend=0) / 2  # equal scores: half of the pairs are in order
    return float(np.sum(below * np.diff(false, prepend=0)) / (true[-1] * false[-1]))


def d_prime(auc) -> float:
    """Distance in standard deviations of two normal distributions whose ROC area is ``auc``."""
    from scipy.special import ndtri

    return float(np.sqrt(2) * ndtri(auc))


def _counts(scores, targets):
    """Positive clips and all clips at or above every distinct score, the highest first."""
    scores, targets = np.asarray(scores), np.asarray(targets, dtype=bool)
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)  # a comparison with nan is always true
    return np.cumsum(targets[order])[ends].astype(np.float64), ends + 1.0


class TaggingMetrics:
    """Logits and labels of the clips of an evaluation, one row for each clip, and what follows from them.

    Several labels per clip: ``mAP``, ``ROC``, ``dprime`` (of the mean ROC area) and ``loss``, the binary
    cross-entropy. One label per clip: ``accuracy``, ``accuracy_macro`` (mean over classes), ``mAP`` and ``loss``,
    the cross-entropy.

    Args:
        classes: their names.
        multi_label: whether a clip may have none or several classes.
        masked_mean: where labels have a mask, the loss is the mean over what is "annotated", or as "published" over
            everything, with zeros where nothing is annotated.
        name: what the log calls the clips.
    """

    def __init__(self, classes: Sequence[str], multi_label: bool = True, masked_mean="annotated", name="evaluation"):
        self.classes, self.multi_label, self.masked_mean, self.name = tuple(classes), multi_label, masked_mean, name
        self.collector = Collector()
        self._computed, self._named = (-1, {}), False

    # -- collecting

    @property
    def shown(self) -> tuple[str, str]:
        """The value per class that a figure shows, and its title."""
        return ("AP", "Average precision") if self.multi_label else ("accuracy", "Accuracy")

    def update(self, logits, batch: Mapping):
        """Takes a batch.

        Args:
            logits: [B, classes], before the sigmoid or softmax.
            batch: the samples' ``index``, ``target`` and, where classes are masked, ``mask``. A clip that comes twice
                counts once.
        """
        logits = as_array(logits).astype(np.float32)
        broken = ~np.isfinite(logits).all(1)
        if broken.any():
            # A diverged model must not end its training with a stack trace of the metrics.
            log.warning("%s: %d clips have logits that are no numbers", self.name, broken.sum())
            logits = np.nan_to_num(logits, nan=0.0)
        labels = [as_array(batch[key]) > 0.5 for key in ("target", "mask") if key in batch]
        self.collector.add(as_array(batch["index"]).tolist(), logits, *labels)

    def reset(self):
        """Forgets all clips."""
        self.collector.reset()

    def state(self):
        """All that is collected, in a form that can be pickled and sent to another process."""
        return self.collector.state()

    def merge(self, states: Iterable):
        """Adds the clips that other processes have seen."""
        self.collector.merge(states)

    # -- results

    def publish(self, prefix: str) -> Iterator[tuple[str, float]]:
        """All values as ``<prefix>/<name>``; none without clips."""
        if self.collector.rows:
            yield from ((f"{prefix}/{name}", value) for name, value in self.values().items())

    def values(self) -> dict[str, float]:
        """Name -> value over all clips, of which there is at least one."""
        per_class = self.per_class()
        means = {name: _mean(per_class[name].values()) for name in per_class}
        if self.multi_label:
            return {"mAP": means["AP"], "ROC": means["ROC"], "dprime": d_prime(means["ROC"]), "loss": self._loss()}
        confusion = self.confusion()
        accuracy = float(np.trace(confusion) / confusion.sum())
        return {
            "accuracy": accuracy, "accuracy_macro": means["accuracy"], "mAP": means["AP"], "loss": self._loss(),
        }  # fmt: skip

    def per_class(self) -> dict[str, dict[str, float]]:
        """Name -> class -> value: ``clips`` (those with the class), ``AP``, and ``ROC`` or ``accuracy``."""
        if self._computed[0] != self.collector.revision:
            self._computed = (self.collector.revision, self._per_class())
        return self._computed[1]

    def confusion(self) -> np.ndarray:
        """[classes, classes] clips by true (row) and most probable class, of sets with one label per clip."""
        logits, targets, _ = self._arrays()
        table = np.zeros((len(self.classes),) * 2, dtype=np.int64)
        np.add.at(table, (targets.argmax(1), logits.argmax(1)), 1)
        return table

    def _arrays(self):
        """Logits, labels and mask (None without one), each [clips, classes]."""
        _, arrays = self.collector.stacked()
        return arrays[0], arrays[1], arrays[2] if len(arrays) > 2 else None

    def _per_class(self):
        logits, targets, mask = self._arrays()
        if not self.multi_label:  # logits of different clips cannot be compared before the softmax
            logits = _log_softmax(logits)
        known = np.ones_like(targets) if mask is None else mask
        columns = [(logits[rows, k], targets[rows, k]) for k, rows in enumerate(known.T)]
        found = {"clips": [float(labels.sum()) for _, labels in columns]}
        found["AP"] = [average_precision(*column) for column in columns]
        if self.multi_label:
            found["ROC"] = [roc_auc(*column) for column in columns]
        else:
            confusion = self.confusion()
            with np.errstate(invalid="ignore"):
                found["accuracy"] = (np.diag(confusion) / confusion.sum(1)).tolist()
        self._report(found["clips"], len(logits))
        return {name: dict(zip(self.classes, values)) for name, values in found.items()}

    def _report(self, clips, total):
        missing = [name for name, count in zip(self.classes, clips) if not count]
        if missing and not self._named:
            self._named = True
            log.warning(
                "%s: none of the %d clips has the class %s, left out of the means", self.name, total, listed(missing)
            )

    def _loss(self):
        logits, targets, mask = self._arrays()
        logits = logits.astype(np.float64)
        if not self.multi_label:
            return float(-(_log_softmax(logits) * targets).sum(1).mean())
        losses = np.logaddexp(0, logits) - targets * logits
        if mask is None:
            return float(losses.mean())
        counted = losses.size if self.masked_mean == "published" else max(mask.sum(), 1)
        return float((losses * mask).sum() / counted)


def _log_softmax(logits):
    logits = logits.astype(np.float64)
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def _mean(values) -> float:
    """Mean of what is a number, nan without any."""
    values = np.fromiter(values, dtype=np.float64)
    return float(values[~np.isnan(values)].mean()) if not np.isnan(values).all() else float("nan")
