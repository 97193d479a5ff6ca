"""Metrics of ranked retrieval over arrays: queries by items, one or several right items per query.

Items of equal score have no order. Every value here is its expectation over all orders of such ties, in closed form
[McSherry and Najork, "Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied
Scores", ECIR 2008]; without ties that is the usual value. So equal scores for everything give the expected result of a
random ranking, exactly. A score that is no number ranks last.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from helpers.collectors import Collector, as_array
from helpers.evaluation import Bootstrap
from helpers.evaluation_report import OURS, Row

log = logging.getLogger(__name__)

MISSING = -1  # the right item of a query is not among the items
BLOCK = 2_000_000  # scores ranked at a time
CUTOFFS = (1, 5, 10)


class Ranking:
    """Ranked items of queries.

    Args:
        scores: [queries, items], higher for more alike.
        relevant: [queries, items] bool, the right items.

    Raises:
        ValueError: shapes differ.
    """

    def __init__(self, scores, relevant):
        scores, relevant = np.asarray(scores), np.asarray(relevant, dtype=bool)
        if scores.shape != relevant.shape or scores.ndim != 2:
            raise ValueError(f"scores {scores.shape} and right items {relevant.shape}, expected queries x items twice")
        scores = np.where(np.isnan(scores), -np.inf, scores)
        order = np.argsort(-scores, axis=1, kind="stable")
        scores = np.take_along_axis(scores, order, axis=1)
        found = np.cumsum(np.take_along_axis(relevant, order, axis=1), axis=1, dtype=np.float64)
        found = np.pad(found, ((0, 0), (1, 0)))
        position = np.arange(scores.shape[1])
        first = np.ones_like(relevant)
        first[:, 1:] = scores[:, 1:] != scores[:, :-1]
        start = np.maximum.accumulate(np.where(first, position, 0), axis=1)
        last = np.roll(first, -1, axis=1)
        last[:, -1:] = True
        end = np.minimum.accumulate(np.where(last, position, scores.shape[1])[:, ::-1], axis=1)[:, ::-1]
        self.rank = position + 1.0
        self._tied = end - start + 1.0  # items of the same score, at every rank
        self._behind = position - start  # ranks of that score before this one
        self._before = np.take_along_axis(found, start, axis=1)  # right items of higher score
        self._right = np.take_along_axis(found, end + 1, axis=1) - self._before  # right items of the same score
        self.total = relevant.sum(axis=1)  # right items of a query
        self.expected = self._right / self._tied  # [queries, ranks]: probability of a right item at a rank

    def reciprocal_rank(self):
        """[queries] 1 / rank of the first right item; 0 where there is none."""
        # Chance of a right item at a rank, given that there was none at the ranks of the same score before it.
        hazard = np.minimum(self._right / (self._tied - self._behind), 1.0)
        none_yet = np.cumprod(1.0 - hazard, axis=1)
        none_before = np.pad(none_yet, ((0, 0), (1, 0)), constant_values=1.0)[:, :-1]
        return (none_before * hazard / self.rank).sum(axis=1)

    def dcg(self):
        """[queries] discounted cumulative gain: 1 / log2(rank + 1) for every right item."""
        return self.expected @ (1 / np.log2(self.rank + 1))

    def ndcg(self):
        """[queries] :meth:`dcg` as a share of that of the best ranking; 0 without right items."""
        return self._share_of_best(np.log2(self.rank + 1))

    def reciprocal_ranks(self):
        """[queries] sum of 1 / rank over all right items as a share of the highest possible; 0 without right items."""
        return self._share_of_best(self.rank)

    def recall(self, k: int):
        """[queries] share of the right items that is among the first k; 0 without right items."""
        return self.expected[:, :k].sum(axis=1) / np.maximum(self.total, 1)

    def average_precision(self, k: int | None = None):
        """[queries] sum of the precision at the right items among the first k, over the number of all right items."""
        others = (self._right - 1) / np.maximum(self._tied - 1, 1)  # per earlier rank of the same score
        precision = (self._before + 1 + self._behind * others) / self.rank
        return (self.expected * precision)[:, :k].sum(axis=1) / np.maximum(self.total, 1)

    def _share_of_best(self, divisor):
        discount = 1 / divisor
        best = np.concatenate([[0.0], np.cumsum(discount)])[self.total]
        return np.divide(self.expected @ discount, best, out=np.zeros(len(best)), where=best > 0)


def target_metrics(scores, targets, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, np.ndarray]:
    """``mrr`` and ``recall@k`` of queries with one right item: what :class:`Ranking` gives, without sorting.

    Args:
        scores: [queries, items].
        targets: [queries] number of the right item, or :data:`MISSING`, which counts 0.
        cutoffs: the k.

    Returns:
        name -> [queries] values.
    """
    scores = np.where(np.isnan(scores), -np.inf, scores)
    own = np.take_along_axis(scores, targets[:, None], axis=1)
    higher, tied = (scores > own).sum(axis=1), (scores == own).sum(axis=1)
    found = targets != MISSING
    harmonic = np.cumsum(np.concatenate([[0.0], 1 / np.arange(1, scores.shape[1] + 1)]))
    values = {"mrr": (harmonic[higher + tied] - harmonic[higher]) / tied * found}
    for k in cutoffs:
        values[f"recall@{k}"] = np.clip(k - higher, 0, tied) / tied * found
    return values


def in_blocks(scores, metrics: Callable[[np.ndarray, slice], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Metrics of many queries, computed for some of them at a time.

    Args:
        scores: [queries, items].
        metrics: callable (some rows of the scores, their slice) -> name -> values of these queries.

    Returns:
        name -> [queries] values.
    """
    rows = max(1, BLOCK // scores.shape[1])
    blocks = [slice(start, start + rows) for start in range(0, max(len(scores), 1), rows)]
    parts = [metrics(scores[block], block) for block in blocks]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class Similarities:
    """Scores of all items for all queries, and what is right.

    Queries without a right item are not to be in here; one whose right item is not among the items counts 0 in MRR and
    recall.

    Attributes:
        queries, items: names.
        scores: [queries, items], higher for more alike.
        targets: [queries] number of the right item, or :data:`MISSING`.
        query_classes: [queries] the class of a query is that of its right item.
        item_classes: [items].

    Raises:
        ValueError: sizes do not fit, or there is no item.
    """

    queries: tuple[str, ...]
    items: tuple[str, ...]
    scores: np.ndarray
    targets: np.ndarray
    query_classes: np.ndarray
    item_classes: np.ndarray

    def __post_init__(self):
        q, n = len(self.queries), len(self.items)
        sizes = [np.shape(x) for x in (self.scores, self.targets, self.query_classes, self.item_classes)]
        if sizes != [(q, n), (q,), (q,), (n,)]:
            raise ValueError(
                f"{q} queries and {n} items, but scores, targets and classes of queries and items have shapes {sizes}"
            )
        if not n:
            raise ValueError("no item to rank")
        if len(self.targets) and not MISSING <= np.min(self.targets) <= np.max(self.targets) < n:
            raise ValueError(f"a right item is none of the {n} items")

    def per_query(self, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, np.ndarray]:
        """``mrr``, ``ndcg`` and ``recall@k`` of every query.

        MRR and recall ask for the one right item, NDCG for all items of its class.
        """
        targets, classes = np.asarray(self.targets), np.asarray(self.query_classes)
        items = np.asarray(self.item_classes)

        def metrics(scores, block):
            one = target_metrics(scores, targets[block], cutoffs)
            alike = Ranking(scores, classes[block, None] == items)
            return {"mrr": one.pop("mrr"), "ndcg": alike.ndcg(), **one}

        return in_blocks(np.asarray(self.scores), metrics)

    def values(self, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
        """Means over the queries, nan without any."""
        return {name: _mean(values) for name, values in self.per_query(cutoffs).items()}

    def rows(self, name: str, bootstrap: Bootstrap | None = None, cutoffs: Sequence[int] = CUTOFFS) -> list[Row]:
        """The means with bootstrap intervals over queries.

        Args:
            name: what the rows call this evaluation, such as ``2dft``.
            bootstrap: of the intervals.
        """
        return [
            Row(name, metric, *interval, computed_by=OURS)
            for metric, interval in intervals(self.per_query(cutoffs), bootstrap or Bootstrap()).items()
        ]

    def chance(self) -> "Similarities":
        """The same without any knowledge: the metrics are the expected ones of a random ranking."""
        return replace(self, scores=np.broadcast_to(np.float32(0), self.scores.shape))


def intervals(values: dict[str, np.ndarray], bootstrap: Bootstrap) -> dict[str, tuple[float, float, float]]:
    """Name -> mean over queries, and its bootstrap interval; from name -> [queries] values."""
    result = {}
    for name, own in values.items():
        interval = bootstrap.interval(lambda weights, own=own: float(weights @ own) / weights.sum(), len(own))
        result[name] = (_mean(own), *interval)
    return result


def _mean(values) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def similarities(
    queries: Sequence[str], items: Sequence[str], scores, truth: Mapping[str, str], classes: Mapping | None = None
) -> Similarities:
    """Scores of named clips with what is right.

    Args:
        queries, items: names.
        scores: [queries, items], higher for more alike.
        truth: query -> its right item; queries that are not in here are left out.
        classes: item -> class, of all items and of all right items; None: every item is its own class.
    """
    scored = [row for row, query in enumerate(queries) if query in truth]
    right = [truth[queries[row]] for row in scored]
    number = {item: index for index, item in enumerate(items)}
    targets = np.array([number.get(item, MISSING) for item in right], dtype=np.int64)
    labels = {item: item for item in (*items, *right)} if classes is None else classes
    code = {label: index for index, label in enumerate(dict.fromkeys(labels.values()))}
    return Similarities(
        tuple(queries[row] for row in scored), tuple(items), np.asarray(scores)[scored], targets,
        *(np.array([code[labels[item]] for item in part], dtype=np.int64) for part in (right, items)),
    )  # fmt: skip


class RetrievalMetrics:
    """Embeddings of the queries and items of an evaluation, and what follows from them.

    A name that comes twice counts once, the first time.

    Args:
        truth: query -> its right item; queries that are not in here are left out.
        classes: item -> class, of all items and of all right items; None: every item is its own class.
        name: what the log calls the clips.

    Attributes:
        criterion: callable (queries, items, query names, item names) -> loss of the pairs; None computes none.
    """

    def __init__(self, truth: Mapping[str, str], classes: Mapping | None = None, name: str = "evaluation"):
        self.truth, self.classes, self.name, self.criterion = truth, classes, name, None
        self.queries, self.items = Collector(), Collector()

    # -- collecting

    def update_queries(self, names: Sequence[str], embeddings):
        """Takes [B, D] embeddings of queries."""
        self._add(self.queries, names, self._finite(embeddings))

    def update_items(self, names: Sequence[str], embeddings):
        """Takes [B, D] embeddings of items."""
        self._add(self.items, names, self._finite(embeddings))

    def reset(self):
        """Forgets everything."""
        self.queries.reset()
        self.items.reset()

    def state(self):
        """All that is collected, in a form that can be pickled and sent to another process."""
        return self.queries.state(), self.items.state()

    def merge(self, states: Iterable):
        """Adds what other processes have seen."""
        for state in states:
            for collector, (names, arrays) in zip((self.queries, self.items), state):
                self._add(collector, names, *arrays)

    def _finite(self, embeddings):
        embeddings = as_array(embeddings).astype(np.float32)
        broken = ~np.isfinite(embeddings).all(1)
        if broken.any():
            # A diverged model must not end its training with a stack trace of the metrics.
            log.warning("%s: %d clips have embeddings that are no numbers", self.name, broken.sum())
        return np.where(broken[:, None], np.float32(0), embeddings)

    @staticmethod
    def _add(collector, names, *embeddings):
        for rows in embeddings:  # none where a process has seen no clip
            new = [row for row, name in enumerate(names) if name not in collector.rows]
            first = {names[row]: row for row in reversed(new)}
            collector.add(first, rows[list(first.values())])

    # -- results

    def publish(self, prefix: str) -> Iterator[tuple[str, float]]:
        """All values as ``<prefix>/<name>``; none without queries and items."""
        if self.queries.rows and self.items.rows:
            values = self.similarities().values()
            if self.criterion is not None:
                values["loss"] = self._loss()
            yield from ((f"{prefix}/{name}", value) for name, value in values.items())

    def similarities(self) -> Similarities:
        """Dot products of all queries with all items, both in the order of their names; there is one of each."""
        (queries, [vectors]), (items, [item_vectors]) = self.queries.stacked(), self.items.stacked()
        return similarities(queries, items, vectors @ item_vectors.T, self.truth, self.classes)

    def _loss(self):
        names = [query for query in sorted(self.queries.rows) if self.truth.get(query) in self.items.rows]
        if not names:
            return float("nan")
        right = [self.truth[query] for query in names]
        queries = np.stack([self.queries.rows[name][0] for name in names])
        items = np.stack([self.items.rows[name][0] for name in right])
        return float(self.criterion(queries, items, names, right))
