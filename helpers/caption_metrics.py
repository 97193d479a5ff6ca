"""Metrics of retrieval by captions, in both directions: mAP@k, R@k, recall curves; from scores or from embeddings.

Same values as those of :class:`helpers.retrieval_metrics.Ranking`, ties included: where items have the same score, the
mean over all their orders. But no item is sorted: of every right item only the number of items above it matters, so
that a full evaluation on Clotho takes a fraction of a second.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from helpers.collectors import Collector, as_array

log = logging.getLogger(__name__)

RECALLS = (1, 5, 10)
PRECISIONS = (10, 16)  # as published until 2024, and since 2025
BLOCK = 100_000  # scores compared at a time, as many as stay in a processor's cache


class Placement:
    """Places of the right items of queries.

    Args:
        scores: [queries, items], higher for more alike; a score that is no number ranks last.
        relevant: [queries, items] bool, the right items.

    Attributes:
        total: [queries] number of right items.

    Raises:
        ValueError: shapes differ.
    """

    def __init__(self, scores, relevant):
        scores, relevant = np.ascontiguousarray(scores), np.asarray(relevant, dtype=bool)
        if scores.shape != relevant.shape or scores.ndim != 2:
            raise ValueError(f"scores {scores.shape} and right items {relevant.shape}, expected queries x items twice")
        if np.isnan(scores).any():
            scores = np.where(np.isnan(scores), -np.inf, scores)
        self.total, self.items = relevant.sum(axis=1), scores.shape[1]
        query, item = np.nonzero(relevant)
        own = scores[query, item]
        order = np.lexsort((own, -query))[::-1]  # of a query the best right item first
        self._query, own = query[order], own[order]
        self._above, self._tied = _compared(scores, self._query, own)
        number = np.arange(len(own))
        new_query, new_score = np.ones((2, len(own)), dtype=bool)  # first right item of a query, of a score
        new_query[1:], new_score[1:] = self._query[1:] != self._query[:-1], own[1:] != own[:-1]
        new = new_query | new_score
        start = np.maximum.accumulate(np.where(new, number, 0))
        query_start = np.maximum.accumulate(np.where(new_query, number, 0))
        self._best = new_query
        self._right_above = start - query_start
        self._right_tied = np.bincount(start, minlength=len(own))[start] if len(own) else start

    def recall(self, k: int) -> np.ndarray:
        """[queries] share of the right items that is among the first k; 0 without right items."""
        return self._per_query(np.clip((k - self._above) / self._tied, 0, 1)) / np.maximum(self.total, 1)

    def average_precision(self, k: int) -> np.ndarray:
        """[queries] sum of the precision at the right items among the first k, over the number of all right items."""
        # A right item is equally likely at each of the `tied` ranks above + 1, above + 2, ...; at the j-th of them
        # others * (j - 1) of the right items with its score are expected before it. The sum over those ranks up to k of
        # (right_above + 1 + others * (j - 1)) / (above + j) follows with harmonic numbers.
        others = (self._right_tied - 1) / np.maximum(self._tied - 1, 1)
        ranks = np.clip(k - self._above, 0, self._tied)
        harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, self.items + 1))])
        shares = harmonic[self._above + ranks] - harmonic[self._above]
        found = (self._right_above + 1 - others * (self._above + 1)) * shares + others * ranks
        return self._per_query(found / self._tied) / np.maximum(self.total, 1)

    def first_rank(self) -> np.ndarray:
        """[queries] rank of the first right item, from 1 on; nan without right items."""
        ranks = np.full(len(self.total), np.nan)
        # The first of r places, drawn from t.
        first = self._above + (self._tied + 1) / (self._right_tied + 1)
        ranks[self._query[self._best]] = first[self._best]
        return ranks

    def measures(self) -> dict[str, np.ndarray]:
        """``mAP@10``, ``mAP@16``, ``R@1``, ``R@5`` and ``R@10``, [queries] each."""
        values = {f"mAP@{k}": self.average_precision(k) for k in PRECISIONS}
        return values | {f"R@{k}": self.recall(k) for k in RECALLS}

    def recall_curve(self) -> np.ndarray:
        """[items] mean over the queries of :meth:`recall` for k = 1, 2, ..."""
        steps = np.zeros(self.items + 1)
        share = 1 / (self._tied * self.total[self._query] * max(len(self.total), 1))
        np.add.at(steps, self._above, share)
        np.subtract.at(steps, self._above + self._tied, share)
        return np.cumsum(np.cumsum(steps[:-1]))

    def _per_query(self, values):
        return np.bincount(self._query, weights=values, minlength=len(self.total))


def _compared(scores, query, own):
    """[right items] number of items of its query with a higher score, and with the same one, itself included."""
    above, not_below = (np.zeros(len(own), dtype=np.int64) for _ in range(2))
    size = max(1, BLOCK // max(scores.shape[1], 1))
    for start in range(0, len(own), size):
        part = slice(start, start + size)
        rows = scores[query[part]]
        above[part] = np.count_nonzero(rows > own[part, None], axis=1)
        not_below[part] = np.count_nonzero(rows >= own[part, None], axis=1)
    return above, not_below - above


def measures(scores, relevant) -> dict[str, np.ndarray]:
    """:meth:`Placement.measures` of these scores; arguments as of :class:`Placement`.

    For captions as queries [captions, clips], for clips as queries both transposed.
    """
    return Placement(scores, relevant).measures()


def caption_values(scores, relevant) -> dict[str, float]:
    """Means of :func:`measures` over captions, and over clips as ``a2t/<name>``.

    Args:
        scores: [captions, clips].
        relevant: [captions, clips] bool.
    """
    scores, relevant = np.asarray(scores), np.asarray(relevant)
    to_audio, to_text = measures(scores, relevant), measures(scores.T, relevant.T)
    values = to_audio | {f"a2t/{name}": found for name, found in to_text.items()}
    return {name: float(np.mean(found)) if len(found) else float("nan") for name, found in values.items()}


class CaptionMetrics:
    """Embeddings of the clips of an evaluation, and what follows from them and from the captions.

    Clips that never come (their audio cannot be read) count as absent; so do captions without a right one among those
    that came. A clip that comes twice counts once.

    Args:
        captions: of the clips, one after the other: texts, or [captions, dimensions] embeddings of a text model.
        owners: [captions] number of the clip that a caption was written for.
        relevant: [captions, clips] bool, the right clips of every caption; None: that one alone.
        name: what the log calls the clips.

    Attributes:
        encode: callable, ``captions`` -> [captions, D] embeddings of unit length; set by the Lightning module.
        criterion: callable (caption embeddings, clip embeddings, numbers of the clips), all of pairs, -> their loss;
            None computes none.

    Raises:
        ValueError: sizes do not fit.
    """

    def __init__(self, captions, owners: Sequence[int], relevant=None, name: str = "evaluation"):
        self.captions, self.owners, self.name = captions, np.asarray(owners, dtype=np.int64), name
        clips = np.arange(self.owners.max(initial=-1) + 1)
        self.relevant = self.owners[:, None] == clips if relevant is None else np.asarray(relevant, dtype=bool)
        self.encode: Callable | None = None
        self.criterion: Callable | None = None
        self._clips = Collector()
        if not len(captions) == len(self.owners) == len(self.relevant):
            raise ValueError(
                f"{len(captions)} captions, own clips of {len(self.owners)} and right clips of {len(self.relevant)}: "
                "expected equal numbers"
            )

    # -- collecting

    def update(self, numbers: Sequence[int], embeddings):
        """Takes [B, D] embeddings of clips."""
        self._clips.add([int(number) for number in numbers], self._finite(embeddings))

    def reset(self):
        """Forgets all clips."""
        self._clips.reset()

    def state(self):
        """All that is collected, in a form that can be pickled and sent to another process."""
        return self._clips.state()

    def merge(self, states: Iterable):
        """Adds what other processes have seen."""
        self._clips.merge(states)

    def _finite(self, embeddings):
        embeddings = as_array(embeddings).astype(np.float32)
        broken = ~np.isfinite(embeddings).all(1)
        if broken.any():
            # A diverged model must not end its training with a stack trace of the metrics.
            log.warning("%s: %d embeddings are no numbers", self.name, broken.sum())
        return np.where(broken[:, None], np.float32(0), embeddings)

    # -- results

    def scores(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Dot products of captions and clips.

        Returns:
            [captions, clips] scores, and the numbers of these captions and clips in ascending order: clips that came,
            and captions with a right one among them.
        """
        text, audio, captions, clips = self._seen()
        return text[captions] @ audio.T, captions, clips

    def publish(self, prefix: str) -> Iterator[tuple[str, float]]:
        """All values as ``<prefix>/<name>``; none without a caption that has a right clip."""
        if not self._clips.rows:
            return
        text, audio, captions, clips = self._seen()
        if not len(captions):
            return
        values = caption_values(text[captions] @ audio.T, self.relevant[np.ix_(captions, clips)])
        pairs = np.flatnonzero(np.isin(self.owners, clips))
        if self.criterion is not None and len(pairs):
            owners = self.owners[pairs]
            values["loss"] = float(self.criterion(text[pairs], audio[np.searchsorted(clips, owners)], owners))
        yield from ((f"{prefix}/{name}", value) for name, value in values.items())

    def _seen(self):
        """Embeddings of all captions and of the clips that came, captions that have a right one, numbers of clips."""
        clips, [audio] = self._clips.stacked()
        captions = np.flatnonzero(self.relevant[:, clips].any(axis=1))
        return self._finite(self.encode(self.captions)), audio, captions, np.array(clips)
