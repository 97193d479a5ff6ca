"""Detections of all thresholds against slow loops and by hand, and what is said of true events that do not fit."""

import numpy as np
import pytest

from helpers.candidates import Candidates, Truth, candidates_of_scores, changes_of_scores

NOTHING = -np.inf


def runs_of_all_thresholds(scores, timestamps):
    """Every run of frames, found by trying every score as a threshold."""
    found = set()
    for clip, curve in enumerate(scores.tolist()):
        for score in {score for score in curve if score > NOTHING}:
            detected = [False, *(value >= score for value in curve), False]
            edges = [i for i in range(len(curve) + 1) if detected[i] != detected[i + 1]]
            for first, last in zip(edges[::2], edges[1::2]):
                around = [NOTHING, *curve, NOTHING]
                upper, lower = min(curve[first:last]), max(around[first], around[last + 1])
                found.add((clip, timestamps[first], timestamps[last], upper, lower))
    return found


def rows(candidates):
    return list(zip(*(column.tolist() for column in candidates)))


def curves(kind, seed):
    rng = np.random.default_rng(seed)
    clips, frames = rng.integers(1, 9), rng.integers(1, 40)
    scores = {
        "noise": rng.random((clips, frames)),
        "ties": rng.integers(0, 4, (clips, frames)) / 4,
        "hills": np.round(np.cumsum(rng.standard_normal((clips, frames)), axis=1), 1),
        "silence": np.where(rng.random((clips, frames)) < 0.4, NOTHING, rng.integers(0, 4, (clips, frames))),
        "ramps": np.abs(np.arange(frames) - rng.integers(0, frames, (clips, 1))) * rng.choice([-1.0, 1.0], (clips, 1)),
    }[kind]
    return scores.astype([np.float32, np.float64][seed % 2]), np.arange(frames + 1) * 0.5


@pytest.mark.parametrize("kind", ["noise", "ties", "hills", "silence", "ramps"])
def test_candidates_are_the_runs_of_all_thresholds(kind):
    for seed in range(12):
        scores, timestamps = curves(kind, seed)
        found = rows(candidates_of_scores(scores, timestamps))
        assert len(set(found)) == len(found)
        assert set(found) == runs_of_all_thresholds(scores, timestamps)


def test_candidates_by_hand():
    scores = np.array([[0.4, 1.0, 0.6, 0.6, 1.0, 1.0, 0.4], [0.2] * 7])
    found = candidates_of_scores(scores, np.arange(8) * 0.2)
    expected = [
        (0, 0.0, 1.4, 0.4, NOTHING),
        (0, 0.2, 0.4, 1.0, 0.6),
        (0, 0.2, 1.2, 0.6, 0.4),
        (0, 0.8, 1.2, 1.0, 0.6),
        (1, 0.0, 1.4, 0.2, NOTHING),
    ]
    np.testing.assert_allclose(sorted(rows(found)), expected)


@pytest.mark.parametrize("kind", ["noise", "ties", "hills", "silence"])
def test_a_floor_leaves_out_only_thresholds_below_it(kind):
    for seed in range(8):
        scores, timestamps = curves(kind, seed)
        floor = float(np.median(scores))
        expected = {
            (*run[:4], run[4] if run[4] > floor else NOTHING)
            for run in runs_of_all_thresholds(scores, timestamps)
            if run[3] > floor
        }
        assert set(rows(candidates_of_scores(scores, timestamps, floor=floor))) == expected


@pytest.mark.parametrize("kind", ["noise", "ties", "hills", "silence", "ramps"])
@pytest.mark.parametrize("floor", [NOTHING, 0.5])
def test_changes_count_the_candidates(kind, floor):
    for seed in range(8):
        scores, timestamps = curves(kind, seed)
        candidates = candidates_of_scores(scores, timestamps, floor=floor)
        changes = changes_of_scores(scores, floor=floor)
        for threshold in (-0.1, 0.0, 0.3, 0.5, 0.75, 1.2):
            if threshold < floor:
                continue
            alive = (candidates.lower <= threshold) & (threshold < candidates.upper)
            changed = changes.threshold > threshold
            for clip in range(len(scores)):
                number = changes.change[changed & (changes.clip == clip)].sum()
                assert number == (alive & (candidates.clip == clip)).sum()


def test_changes_are_peaks_and_valleys_only():
    changes = changes_of_scores(np.array([[0.1, 0.5, 0.5, 0.3, 0.3, 0.4, 0.2], [0.7] * 7]), clips=[4, 2])
    expected = {(4, 0.5, 1), (4, 0.3, -1), (4, 0.4, 1), (2, 0.7, 1)}
    found = list(zip(*(column.tolist() for column in changes)))
    assert (set(found), len(found)) == (expected, len(expected))


def test_candidates_take_the_numbers_of_their_clips():
    scores = np.array([[0.5, 0.1], [0.2, 0.2]])
    assert candidates_of_scores(scores, [0.0, 1.0, 2.0], clips=[7, 3]).clip.tolist() == [7, 7, 3]


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_no_scores_no_candidates(shape):
    found = candidates_of_scores(np.zeros(shape), np.arange(shape[1] + 1.0))
    assert [len(column) for column in found] == [0] * len(Candidates._fields)
    assert len(changes_of_scores(np.zeros(shape)).clip) == 0


EVENTS = {
    "x1": [(3.0, 4.0, "b"), (0.0, 1.0, "a"), (0.5, 2.0, "a"), (2.0, 2.5, "a"), (5.0, 5.0, "a")],
    "x0": [(1.0, 2.0, "a")],
}
DURATIONS = {"x0": 10.0, "x1": 5.0, "x2": 2.5}


def test_truth_holds_merged_events_by_clip():
    truth = Truth.of(EVENTS, DURATIONS, ["x0", "x1", "x2"], ["b", "a", "c"])
    assert [column.tolist() for column in truth.of_label("a")] == [[0, 1], [1.0, 0.0], [2.0, 2.5]]
    assert [column.tolist() for column in truth.of_label("b")] == [[1], [3.0], [4.0]]
    assert len(truth.of_label("c").clip) == 0
    assert truth.durations.tolist() == [10.0, 5.0, 2.5]
    assert truth.counts().tolist() == [1, 2, 0]
    assert truth.seconds([3, 2, 1]).tolist() == [2.0, 8.0, 0.0]
    assert truth.counts([0, 2, 9]).tolist() == [2, 2, 0]


def test_the_order_of_events_does_not_matter():
    turned = {clip: events[::-1] for clip, events in reversed(EVENTS.items())}
    truths = [Truth.of(events, DURATIONS, list(DURATIONS), ["a", "b"]) for events in (EVENTS, turned)]
    for name in ("clip", "label", "onset", "offset"):
        np.testing.assert_array_equal(*(getattr(truth, name) for truth in truths))


BAD = {
    "the clip 'x0' is listed twice": dict(clips=["x0", "x1", "x0"]),
    "the class 'a' is listed twice": dict(labels=["a", "b", "a"]),
    r"no duration of clip 'x1' \(1 of 3 clips have none\)": dict(durations={"x0": 1.0, "x2": 1.0}),
    "clip 'x2' lasts nan s, expected more than 0": dict(durations={**DURATIONS, "x2": float("nan")}),
    "clip 'x1' lasts 0.0 s": dict(durations={**DURATIONS, "x1": 0}),
    r"clip 'y' has true events but is not evaluated \(1 such clips; evaluated are x0, x1, x2\)": dict(events={"y": []}),
    "clip 'x1' has an event of 'b', expected one of a, c": dict(labels=["a", "c"]),
    "clip 'x0' has an event of 'a' from nan to 1.0 s": dict(events={"x0": [(float("nan"), 1.0, "a")]}),
    "clip 'x0' has an event of 'a' from 0.0 to inf s": dict(events={"x0": [(0.0, float("inf"), "a")]}),
}


@pytest.mark.parametrize("message", BAD)
def test_truth_names_what_does_not_fit(message):
    given = {
        "events": EVENTS,
        "durations": DURATIONS,
        "clips": ["x0", "x1", "x2"],
        "labels": ["a", "b"],
        **BAD[message],
    }
    with pytest.raises(ValueError, match=message):
        Truth.of(**given)


def test_long_lists_are_cut_in_messages():
    labels = [f"c{k}" for k in range(400)]
    with pytest.raises(ValueError, match=r"expected one of c0, .*, c19, \.\.\. \(400\)$"):
        Truth.of({"x0": [(0.0, 1.0, "z")]}, DURATIONS, ["x0"], labels)


def test_unknown_classes_and_strange_weights_are_named():
    truth = Truth.of(EVENTS, DURATIONS, ["x0", "x1", "x2"], ["a", "b"])
    with pytest.raises(ValueError, match="no class 'c', expected one of a, b"):
        truth.of_label("c")
    for weights in ([1, 1], [1, -1, 1]):
        with pytest.raises(ValueError, match="one weight of at least 0 for each of 3 clips"):
            truth.counts(weights)
