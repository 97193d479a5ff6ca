"""Metrics of retrieval by captions against a plain implementation, and properties that they must have.

The published values are in test_audio_text.py.
"""

import numpy as np
import pytest

from helpers.caption_metrics import CaptionMetrics, Placement, caption_values, measures
from helpers.caption_report import Retrieved
from helpers.caption_scores import CaptionScores
from helpers.retrieval_metrics import Ranking
from tests.reference import golden


def plainly(scores, relevant, k):
    """Recall and average precision of one query without ties, item by item from the best on."""
    found, precisions = 0, []
    for position, item in enumerate(sorted(range(len(scores)), key=lambda n: -scores[n])[:k], start=1):
        if relevant[item]:
            found += 1
            precisions.append(found / position)
    return found / max(sum(relevant), 1), sum(precisions) / max(sum(relevant), 1)


@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_as_item_by_item(share):
    rng = np.random.default_rng(int(100 * share))
    scores, relevant = rng.normal(size=(30, 41)), rng.random((30, 41)) < share
    placement = Placement(scores, relevant)
    for k in (1, 5, 10, 16):
        expected = np.array([plainly(*query, k) for query in zip(scores.tolist(), relevant.tolist())])
        np.testing.assert_allclose(placement.recall(k), expected[:, 0], rtol=0, atol=1e-12)
        np.testing.assert_allclose(placement.average_precision(k), expected[:, 1], rtol=0, atol=1e-12)


def test_ties_are_the_mean_over_orders():
    """Expectation over random orders of equal scores."""
    rng = np.random.default_rng(5)
    scores, relevant = rng.integers(0, 3, (4, 7)), rng.random((4, 7)) < 0.4
    draws = 4000
    drawn = np.tile(scores, (draws, 1)) + 0.5 * rng.random((4 * draws, 7))
    exact, orders = Placement(scores, relevant), Placement(drawn, np.tile(relevant, (draws, 1)))
    for k in (1, 3, 7):
        for metric in ("recall", "average_precision"):
            simulated = getattr(orders, metric)(k).reshape(draws, 4).mean(axis=0)
            np.testing.assert_allclose(getattr(exact, metric)(k), simulated, atol=0.03)
    ranks = orders.first_rank().reshape(draws, 4).mean(axis=0)
    np.testing.assert_allclose(exact.first_rank(), ranks, atol=0.1)


def test_five_captions_per_clip_at_scale():
    """As of sorted rankings in both directions, on as many captions as make several blocks."""
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(150), 5)
    scores = rng.normal(size=(750, 150)).astype(np.float32).round(1)  # many ties
    relevant = owners[:, None] == np.arange(150)
    values = caption_values(scores, relevant)
    for prefix, ranking in (("", Ranking(scores, relevant)), ("a2t/", Ranking(scores.T, relevant.T))):
        for k in (10, 16):
            assert values[f"{prefix}mAP@{k}"] == pytest.approx(ranking.average_precision(k).mean(), abs=1e-12)
        for k in (1, 5, 10):
            assert values[f"{prefix}R@{k}"] == pytest.approx(ranking.recall(k).mean(), abs=1e-12)


def test_bounds():
    owners = np.repeat(np.arange(20), 5)
    relevant = owners[:, None] == np.arange(20)
    best, worst = caption_values(relevant, relevant), caption_values(~relevant, relevant)
    assert [best[name] for name in ("mAP@10", "mAP@16", "R@1")] == [1, 1, 1]
    assert [best[f"a2t/{name}"] for name in ("mAP@10", "R@1", "R@5")] == pytest.approx([1, 0.2, 1])
    assert [worst[name] for name in ("mAP@10", "mAP@16", "R@10", "a2t/mAP@16")] == [0, 0, 0, 0]


def test_several_right_clips_share_what_is_to_be_found():
    """With 20 right clips on top, 10 or 16 of them are within the cutoff, at precision 1."""
    scores, relevant = -np.arange(30.0)[None], np.arange(30)[None] < 20
    found = measures(scores, relevant)
    small = measures(np.arange(30, 0, -1, dtype=np.uint8)[None], relevant)  # has no negative numbers
    assert found["mAP@10"].tolist() == small["mAP@10"].tolist() == [0.5]
    assert found["mAP@16"] == pytest.approx([0.8])
    assert found["R@5"].tolist() == [0.25]


def test_monotone_scores_change_nothing():
    rng = np.random.default_rng(1)
    scores, relevant = rng.normal(size=(50, 20)).round(1), rng.random((50, 20)) < 0.2
    expected, order = caption_values(scores, relevant), rng.permutation(20)
    assert caption_values(np.exp(scores / 2) - 3, relevant) == expected
    assert caption_values(scores[:, order], relevant[:, order]) == pytest.approx(expected, abs=1e-12)
    half = Placement(scores[:25], relevant[:25]).measures()
    for name, values in measures(scores, relevant).items():
        np.testing.assert_array_equal(values[:25], half[name])


def test_recall_curve_is_recall_at_every_k():
    rng = np.random.default_rng(2)
    scores, relevant = rng.integers(0, 9, (40, 25)), rng.random((40, 25)) < 0.1
    placement = Placement(scores, relevant)
    np.testing.assert_allclose(placement.recall_curve(), [placement.recall(k).mean() for k in range(1, 26)], atol=1e-12)
    assert placement.recall_curve()[-1] == pytest.approx((placement.total > 0).mean())


def test_published_values_reach_the_report():
    """The same from stored scores as the published code has."""
    stored = golden("qvim/captions.npz")
    scores, owner = stored["metrics.scores"].T, stored["metrics.caption_owner"]
    files, ids = tuple(f"{n}.wav" for n in range(24)), tuple(f"{clip}#{n}" for n, clip in enumerate(owner))
    relevant = owner[:, None] == np.arange(24)
    found = Retrieved.of(CaptionScores("evaluation", files, ids, ids, scores, relevant)).values()
    for prefix, direction in (("", "text2audio"), ("a2t/", "audio2text")):
        values = [found[prefix + name] for name in ("R@1", "R@5", "R@10", "mAP@10")]
        np.testing.assert_allclose(values, stored[f"metrics.{direction}.R1_R5_R10_mAP10"], rtol=0, atol=1e-9)


def test_collected_embeddings_make_the_same_scores():
    """What training logs is what a stored score file evaluates to."""
    rng = np.random.default_rng(3)
    audio, owners = rng.normal(size=(8, 4)).astype(np.float32), np.repeat(np.arange(8), 2)
    text = rng.normal(size=(16, 4)).astype(np.float32)
    metrics = CaptionMetrics(text, owners)
    metrics.encode = np.asarray
    metrics.update([5, 1, 0, 2, 7], audio[[5, 1, 0, 2, 7]])
    scores, captions, clips = metrics.scores()
    ids = tuple(f"{owners[number]}#{number}" for number in captions)
    stored = CaptionScores(
        "validation", tuple(f"{clip}.wav" for clip in clips), ids, ids, scores, owners[captions, None] == clips
    )  # fmt: skip
    logged = dict(metrics.publish("val"))
    assert {f"val/{name}": value for name, value in Retrieved.of(stored).values().items()} == logged
