"""Metrics of AudioSet-strong from frame logits: PSDS1, its mean over classes, partial segment-based ROC area, loss.

Logits are smoothed by a running median as they are; the metrics ask for their order alone. The published evaluation
of Schmid et al. (ICASSP 2025) differs in three ways: it takes ROC areas of sed_scores_eval 0.0.4, whose trapezoids
depend on the order in which a sort leaves points of equal false positive rate; a segment behind the last frame has a
logit of 0 there, while here a clip ends with its frames; and its loss is a mean over batches, this one over clips.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from helpers.candidates import Truth
from helpers.collectors import Collector, Reference
from helpers.fast_metrics import class_psds, psds_of_scores
from helpers.files import clip_id
from helpers.metrics import PSDS1
from helpers.scores import Events, ScoreTable
from helpers.segments import segment_counts

log = logging.getLogger(__name__)

MAX_FPR = 0.1  # false positive rate up to which the ROC area is taken
FRAME_SECONDS = 0.04
CLIPS_AT_ONCE = 16  # in the running median, which holds every frame as often as its window is long


def running_median(x, window: int):
    """Median over the last axis; the border is mirrored, the edge repeated, as in scipy's ``median_filter``.

    Args:
        x: [clips, classes, frames] tensor.
        window: frames; of an even number of values the upper of the two in the middle is taken.

    Returns:
        a tensor like ``x``.
    """
    if window == 1:
        return x
    before = window // 2
    padded = np.pad(np.arange(x.shape[-1]), (before, window - 1 - before), mode="symmetric")
    index = torch.from_numpy(padded).to(x.device)
    parts = (part[..., index].unfold(-1, window, 1) for part in x.split(CLIPS_AT_ONCE))
    return torch.cat([part.sort(-1).values[..., before] for part in parts]) if len(x) else x


class StrongMetrics:
    """Smoothed logits of the clips of an evaluation, their losses, and what follows from them.

    ``psds1`` (penalised by the deviation over classes), ``psds1_macro_averaged`` (mean of the classes' own), ``pauroc``
    (mean over classes of the ROC area of 1 s segments up to a false positive rate of 0.1) and ``loss`` (binary
    cross-entropy). As published, the first three leave out clips without an event of the evaluated classes.

    Kept are the evaluated classes of the clips that count, in half precision where that is exact, as for logits of a
    network in 16 bits: 3.4 GB for the 16935 clips, 407 classes and 250 frames of the published evaluation, else 6.9 GB,
    on every process once they are merged. Computing adds 0.3 GB.

    Args:
        classes: of the logits.
        events: clip id -> true events.
        durations: seconds by clip id.
        evaluated: classes that count, of which others than ``classes`` are passed over; None: all.
        median_window: length of the running median in frames; 1 leaves the logits as they are.
        jobs: threads.
        name: what the log calls the clips.

    Attributes:
        shown: the value per class that a figure shows, and its title.
        multi_label: a clip may have several classes.

    Raises:
        ValueError: no class is left, a clip with events has no duration, or a window below one frame.
    """

    shown, multi_label = ("psds1", "PSDS1"), True

    def __init__(
        self,
        classes: Sequence[str],
        events: Events,
        durations: Mapping[str, float],
        evaluated: Collection[str] | None = None,
        median_window: int = 9,
        jobs: int = 1,
        name: str = "evaluation",
    ):
        if type(median_window) is not int or median_window < 1:
            raise ValueError(
                f"strong.median_window is {median_window!r}, expected frames, a whole number of at least 1"
            )
        wanted = set(classes if evaluated is None else evaluated)
        self.classes, self.median_window, self.jobs, self.name = tuple(classes), median_window, jobs, name
        self.columns = [number for number, label in enumerate(classes) if label in wanted]
        labels = tuple(classes[number] for number in self.columns)
        if not labels:
            raise ValueError(
                f"{name}: none of the {len(wanted)} evaluated classes is one of the model's {len(classes)}"
            )
        self.reference = Reference(events, durations, labels, name=name)
        self.reference.require_durations()
        kept = set(labels)
        self.counted = {clip for clip, found in events.items() if any(event[2] in kept for event in found)}
        self.scores, self.losses = Collector(), Collector()
        self._computed = (-1, float("nan"), {})

    # -- collecting

    def update(self, logits, batch: Mapping):
        """Takes a batch.

        Args:
            logits: [B, classes, frames] tensor, before the sigmoid.
            batch: the samples' ``filename`` and ``strong`` labels [B, classes, frames]. A clip that comes twice counts
                once.
        """
        logits, clips = logits.detach().float(), [clip_id(name) for name in batch["filename"]]
        broken = ~logits.isfinite().flatten(1).all(1)
        if broken.any():
            # A diverged model must not end its training with a stack trace of the metrics.
            log.warning("%s: %d clips have logits that are no numbers", self.name, broken.sum())
            logits = logits.nan_to_num()
        target = batch["strong"].to(logits)
        losses = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((1, 2))
        self.losses.add(clips, losses.double().cpu().numpy())
        rows = [row for row, clip in enumerate(clips) if clip in self.counted]
        scores = running_median(logits[rows][:, self.columns], self.median_window)
        half = scores.half()
        exact = half if torch.equal(half.float(), scores) else scores
        self.scores.add([clips[row] for row in rows], exact.cpu().numpy())

    def reset(self):
        """Forgets all clips."""
        self.scores.reset()
        self.losses.reset()

    def state(self):
        """All that is collected, in a form that can be pickled and sent to another process."""
        return self.scores.state(), self.losses.state()

    def merge(self, states: Iterable):
        """Adds the clips that other processes have seen."""
        for scores, losses in states:
            self.scores.merge([scores])
            self.losses.merge([losses])

    # -- results

    def publish(self, prefix: str) -> Iterator[tuple[str, float]]:
        """All values as ``<prefix>/<name>``; none without clips."""
        if self.losses.rows:
            yield from ((f"{prefix}/{name}", value) for name, value in self.values().items())

    def values(self) -> dict[str, float]:
        """Name -> value over all clips, of which there is at least one.

        Raises:
            ValueError: none of the clips has an event of an evaluated class.
        """
        per_class = self.per_class()
        return {
            "loss": float(np.mean([loss for (loss,) in self.losses.rows.values()])),
            "psds1": self._computed[1],
            "psds1_macro_averaged": float(np.nanmean(list(per_class["psds1"].values()))),
            "pauroc": float(np.nanmean(list(per_class["pauroc"].values()))),
        }

    def per_class(self) -> dict[str, dict[str, float]]:
        """Name -> evaluated class -> value: ``events`` (true ones), ``psds1``, ``pauroc``; nan without an event.

        Raises:
            ValueError: as :meth:`values`.
        """
        revision = self.losses.revision
        if self._computed[0] != revision:
            self._computed = (revision, *self._compute())
        return self._computed[2]

    def _compute(self):
        match = self.reference.match(sorted(self.scores.rows))
        if not match.labels:
            raise ValueError(
                f"{self.name}: none of the {len(self.losses.rows)} clips has an event of the "
                f"{len(self.reference.labels)} evaluated classes, the first is '{min(self.losses.rows, default='')}'"
            )
        self.reference.report(match)
        scores = _Stacked([self.scores.rows[clip][0] for clip in match.clips])
        times = FRAME_SECONDS * np.arange(scores.shape[1] + 1)
        table = ScoreTable(tuple(match.clips), scores, times, self.reference.labels)
        truth = Truth.of(match.events, match.durations, match.clips, match.labels)
        roc = psds_of_scores(table, truth, PSDS1, jobs=self.jobs)
        heard = replace(truth, durations=np.minimum(truth.durations, times[-1]))
        segments = segment_counts(table, heard, jobs=self.jobs)
        found = {
            "events": dict(zip(truth.labels, truth.counts().tolist())),
            "psds1": class_psds(roc, truth.labels),
            "pauroc": {label: counts.auc(MAX_FPR) for label, counts in segments.items()},
        }
        absent = {"events": 0.0}
        return roc.value, {
            name: {label: values.get(label, absent.get(name, float("nan"))) for label in self.reference.labels}
            for name, values in found.items()
        }


class _Stacked:
    """Rows of [classes, frames] as [clips, frames, classes], of which a slice is put together when it is asked for.

    One array of them all would need their memory a second time.
    """

    def __init__(self, rows: Sequence[np.ndarray]):
        classes, frames = rows[0].shape
        self.rows, self.shape = rows, (len(rows), frames, classes)
        self.dtype = np.result_type(*{row.dtype for row in rows})

    def __getitem__(self, key):
        clips, frames, classes = key
        return np.stack([row[classes, frames] for row in self.rows[clips]]).transpose(0, 2, 1)
