"""Time of an evaluation of query by vocal imitation: the 2DFT baseline for all pairs, MRR and NDCG with intervals.

    python -m benchmarks.two_dft                                  # 300 queries x 100 items of 5 s
    python -m benchmarks.two_dft --queries 3000 --items 1000

Noise in place of recordings, three queries for an item, four items in a class. ``plain`` is the same as it is commonly
written: spectrum after spectrum, the cosine similarity pair after pair, metrics query by query from sorted items. The
best of some rounds counts, but for the plain pairs, which are computed once.
"""

import argparse

import numpy as np

from benchmarks.retrieval import timed
from helpers import two_dft
from helpers.evaluation import Bootstrap
from helpers.retrieval_metrics import similarities

PER_CLASS = 4


def make_clips(count, seed):
    """Noise [count, samples] at 8 kHz."""
    samples = round(two_dft.SECONDS * two_dft.RATE)
    return np.random.default_rng(seed).standard_normal((count, samples), dtype=np.float32)


def plain_similarity(queries, items):
    """[queries, items] cosine similarities, one at a time."""
    left, right = ([two_dft.spectrum(clip[None])[0].ravel() for clip in part] for part in (queries, items))
    return np.array([[np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) for b in right] for a in left])


def plain_values(found):
    """MRR and NDCG, query by query."""
    ranks, gains = [], []
    for scores, target, label in zip(found.scores, found.targets, found.query_classes):
        order = np.argsort(-scores)
        ranks.append(1 / (1 + np.flatnonzero(order == target)[0]))
        right = found.item_classes[order] == label
        discounts = 1 / np.log2(np.arange(len(right)) + 2)
        gains.append(discounts[right].sum() / discounts[: right.sum()].sum())
    return {"mrr": np.mean(ranks), "ndcg": np.mean(gains)}


def main(argv=None):
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=300, help="(default: %(default)s)")
    parser.add_argument("--items", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    options = parser.parse_args(argv)
    queries, items = make_clips(options.queries, 0), make_clips(options.items, 1)
    names = [[f"{kind}{number}" for number in range(len(part))] for kind, part in (("query", queries), ("item", items))]
    truth = {query: names[1][number % options.items] for number, query in enumerate(names[0])}
    classes = {item: str(number // PER_CLASS) for number, item in enumerate(names[1])}

    scores, seconds, _ = timed(lambda: two_dft.similarity(queries, items), options.rounds)
    plain_scores, plain_seconds, _ = timed(lambda: plain_similarity(queries, items), 1)
    found = similarities(*names, scores, truth, classes)
    values, metric_seconds, _ = timed(found.values, options.rounds)
    plain, plain_metric_seconds, _ = timed(lambda: plain_values(found), options.rounds)
    _, interval_seconds, _ = timed(lambda: found.rows("2dft", Bootstrap()), options.rounds)

    print(f"| {options.queries} queries x {options.items} items | s | plain s | relative | difference |")
    print("| --- | ---: | ---: | ---: | ---: |")
    difference = np.abs(scores - plain_scores).max()
    print(f"| 2DFT | {seconds:.3f} | {plain_seconds:.3f} | {plain_seconds / seconds:.1f} | {difference:.0e} |")
    difference = max(abs(value - values[name]) for name, value in plain.items())
    relative = plain_metric_seconds / metric_seconds
    print(f"| MRR, NDCG | {metric_seconds:.4f} | {plain_metric_seconds:.4f} | {relative:.1f} | {difference:.0e} |")
    print(f"| with intervals | {interval_seconds:.3f} | – | – | – |")


if __name__ == "__main__":
    main()
