"""Bounding boxes against the published results, against slow loops over one curve, and by property."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.boxes import Boxes, Parameters, boxes_of, detect, join, segment_boxes
from helpers.candidates import Truth
from helpers.change_detection import ROWS, find_segments, merge_segments
from helpers.fast_metrics import class_psds, psds
from helpers.metrics import PSDS1, PSDS2, psd_roc
from helpers.scores import ScoreTable, detections, merge_events
from tests.reference import golden

TIMESTAMPS = np.arange(157) * 0.064
LABELS = ("a", "b", "c")
NEVER = np.inf  # a threshold that no gap exceeds


@pytest.fixture(scope="module")
def evaluation():
    return golden("sed/evaluation.json"), golden("sed/evaluation_scores.npz")


def golden_table(evaluation, name):
    facts, arrays = evaluation
    scores = arrays[f"{name}.student"].transpose(0, 2, 1)
    return ScoreTable(tuple(facts[f"clips.{name}"]), scores, TIMESTAMPS, tuple(facts["labels"]))


def tuned_parameters(evaluation, kind="tuned_classwise"):
    stored = evaluation[0]["csebbs"][kind]
    return Parameters(**{name: {k: float(v) for k, v in of.items()} for name, of in stored.items()})


def plausible(clips=6, frames=156, labels=LABELS, seed=0):
    """Scores of smooth random curves."""
    from scipy.ndimage import gaussian_filter1d

    rng = np.random.default_rng(seed)
    slow = gaussian_filter1d(rng.standard_normal((clips, frames, len(labels))), 4.0, axis=1) * 8
    scores = 1 / (1 + np.exp(2 - slow - 0.5 * rng.standard_normal(slow.shape)))
    names = tuple(f"clip{i:03d}" for i in range(clips))
    return ScoreTable(names, scores, np.arange(frames + 1) * 0.064, tuple(labels))


def random_truth(table, seed=0):
    """Events near what a table tells, so that some are found and some not."""
    rng = np.random.default_rng(seed)
    events = detections(table, 0.4)
    moved = {
        clip: merge_events(
            (max(0.0, round(onset + rng.normal(0, 0.1), 3)), min(10.0, round(offset + rng.normal(0, 0.1), 3)), label)
            for onset, offset, label in found
            if rng.random() < 0.8
        )
        for clip, found in events.items()
    }
    return moved, dict.fromkeys(table.clips, 100.0)  # so long that false alarms are rare


def same_boxes(ours: Boxes, theirs: Boxes, atol=1e-9):
    assert (ours.clips, ours.labels) == (theirs.clips, theirs.labels)
    for name in ("clip", "label"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    for name in ("onset", "offset", "score"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=0, atol=atol)


@pytest.mark.parametrize("kind", ["fixed", "tuned"])
def test_boxes_golden(evaluation, kind):
    csebbs = evaluation[0]["csebbs"]
    fixed = csebbs["fixed"]
    names = "step_filter_length", "merge_threshold_abs", "merge_threshold_rel"
    parameters = tuned_parameters(evaluation) if kind == "tuned" else Parameters(*(fixed[name] for name in names))
    expected = csebbs["sebbs"] if kind == "tuned" else fixed["sebbs"]
    table = golden_table(evaluation, "devtest").select(expected, evaluation[0]["labels"][:10])
    found = detect(table, parameters).by_clip()
    assert list(found) == list(expected)
    for clip, boxes in expected.items():
        assert [box[2] for box in found[clip]] == [box[2] for box in boxes]
        columns = [[box[i] for i in (0, 1, 3)] for box in found[clip]], [[box[i] for i in (0, 1, 3)] for box in boxes]
        np.testing.assert_allclose(*columns, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("name", "clip"), [("devtest", "dev_00"), ("maestro_dev", "cafe_restaurant_00-0-1000")])
def test_score_frames_golden(evaluation, name, clip):
    facts, arrays = evaluation
    table = golden_table(evaluation, name)
    desed, maestro = facts["labels"][:10], facts["labels"][10:]
    boxes = detect(table.select(labels=desed), tuned_parameters(evaluation))
    frame = join(segment_boxes(table.select(labels=maestro)), boxes, labels=facts["labels"]).score_frames()[clip]
    assert list(frame) == facts["csebbs"]["csebbs_scores_columns"]
    np.testing.assert_allclose(frame[["onset", "offset"]], arrays[f"csebbs_scores.{clip}.times"], atol=1e-9)
    np.testing.assert_allclose(frame[facts["labels"]], arrays[f"csebbs_scores.{clip}"], atol=1e-9)


def slow_boxes(scores, timestamps, length, threshold_abs, threshold_rel):
    """The method on one curve with loops: integrals over windows, extrema by comparison with both neighbours."""
    half, frames = length / 2, range(len(scores))

    def integral(start, stop):
        return sum(scores[k] * max(0.0, min(stop, timestamps[k + 1]) - max(start, timestamps[k])) for k in frames)

    times = sorted({round(t + s, 6) for t in timestamps for s in (-half, 0.0, half)})
    times = [t for t in times if timestamps[0] <= t <= timestamps[-1]]
    filtered = [(integral(t, t + half) - integral(t - half, t)) / half for t in times]
    padded = [-np.inf, *filtered, np.inf]
    onsets = [t for t, a, b, c in zip(times, padded, filtered, padded[2:]) if a < b > c]
    offsets = [t for t, a, b, c in zip(times, padded, filtered, padded[2:]) if a > b < c]

    def touched(start, stop):
        return [scores[k] for k in frames if timestamps[k + 1] > start + 1e-9 and timestamps[k] < stop - 1e-9]

    spans = [[onsets[0], offsets[0]]]
    peaks = [max(touched(onset, offset)) for onset, offset in zip(onsets, offsets)]
    for i in range(1, len(onsets)):
        peak, valley = max(peaks[i - 1 : i + 1]), min(touched(offsets[i - 1], onsets[i]))
        if peak - valley < threshold_abs and (peak + 1e-3) / (valley + 1e-3) < threshold_rel:
            spans[-1][1] = offsets[i]
        else:
            spans.append([onsets[i], offsets[i]])
    return [(onset, offset, integral(onset, offset) / (offset - onset + 1e-6)) for onset, offset in spans]


@pytest.mark.parametrize("parameters", [(0.38, 0.2, NEVER), (0.5, 0.2, 2.0), (0.66, NEVER, 3.0)])
@pytest.mark.parametrize("frame", [0.064, 0.04])
def test_boxes_are_those_of_slow_loops(parameters, frame):
    table = replace(plausible(clips=2, frames=60), timestamps=np.arange(61) * frame)
    found = detect(table, Parameters(*parameters))
    for i, clip in enumerate(table.clips):
        for k, label in enumerate(table.labels):
            boxes = found.select([clip], [label])
            expected = slow_boxes(table.scores[i, :, k], table.timestamps, *parameters)
            assert len(expected) > 1
            np.testing.assert_allclose(np.stack([boxes.onset, boxes.offset, boxes.score], 1), expected, atol=1e-6)


def pulse_table(*curves):
    scores = np.stack(curves).astype(float)[:, :, None]
    return ScoreTable(tuple(f"x{i}" for i in range(len(curves))), scores, np.arange(len(curves[0]) + 1) * 0.1, ("a",))


def test_a_pulse_is_its_box():
    curve = np.zeros(50)
    curve[10:25] = 0.8
    (box,) = detect(pulse_table(curve), Parameters(0.4, 0.2)).by_clip()["x0"]
    np.testing.assert_allclose([box[0], box[1], box[3]], [1.0, 2.5, 0.8], atol=1e-6)


def test_gaps_close_where_both_criteria_are_met_by_the_larger_neighbour():
    curve = np.full(60, 0.05)
    curve[10:20], curve[20:24], curve[24:34] = 0.8, 0.5, 0.6  # falls by 0.3, to 1 / 1.6, from the larger one
    together = [(1.0, 3.4)]
    apart = [(1.0, 2.0), (2.4, 3.4)]

    def spans(threshold_abs, threshold_rel):
        boxes = detect(pulse_table(curve), Parameters(0.4, threshold_abs, threshold_rel))
        loud = boxes.score > 0.2
        return list(zip(boxes.onset[loud].tolist(), boxes.offset[loud].tolist()))

    assert spans(0.31, 1.61) == together
    assert spans(0.31, NEVER) == spans(NEVER, 1.61) == together
    assert spans(0.29, 1.61) == spans(0.31, 1.59) == apart  # the smaller neighbour would have met both


def test_a_long_even_event_is_whole():
    curve = np.zeros(100)
    curve[20:90] = 1.0  # the filtered curve stands still in its middle
    for threshold in ((0.01, NEVER), (NEVER, 1.01)):
        boxes = detect(pulse_table(curve), Parameters(0.4, *threshold))
        np.testing.assert_allclose([boxes.onset, boxes.offset, boxes.score], [[2.0], [9.0], [1.0]], atol=1e-6)


def test_constant_clips_are_one_box_or_none():
    boxes = detect(pulse_table(np.full(50, 0.3), np.zeros(50)), Parameters(0.4, 0.2))
    assert boxes.clip.tolist() == [0]
    np.testing.assert_allclose([boxes.onset[0], boxes.offset[0], boxes.score[0]], [0.0, 5.0, 0.3], atol=1e-6)


def test_a_clip_of_one_frame():
    boxes = detect(pulse_table(np.full(1, 0.3)), Parameters(0.4, 0.2))
    np.testing.assert_allclose([boxes.onset[0], boxes.offset[0], boxes.score[0]], [0.0, 0.1, 0.3], atol=1e-5)


def test_boxes_are_sorted_within_the_clip_and_apart():
    boxes = detect(plausible(clips=20), Parameters(0.42, 0.15))
    assert len(boxes.score) > 200
    assert (boxes.onset >= 0).all()
    assert (boxes.offset <= TIMESTAMPS[-1] + 1e-9).all()
    assert (boxes.offset > boxes.onset).all()
    assert (np.diff(boxes.clip * 3 + boxes.label) >= 0).all()
    same = np.diff(boxes.clip * 3 + boxes.label) == 0
    assert (boxes.onset[1:] > boxes.offset[:-1])[same].all()


def test_confidence_is_the_mean_score():
    table = plausible(clips=3)
    boxes = detect(table, Parameters(0.5, 0.2))
    overlap = np.minimum(TIMESTAMPS[1:], boxes.offset[:, None]) - np.maximum(TIMESTAMPS[:-1], boxes.onset[:, None])
    weights = np.maximum(overlap, 0.0)
    means = (weights * table.scores[boxes.clip, :, boxes.label]).sum(1) / weights.sum(1)
    np.testing.assert_allclose(boxes.score, means, rtol=1e-6 / weights.sum(1).min())


def test_times_shift_and_stretch_with_the_frames():
    table = plausible()
    boxes = detect(table, Parameters(0.5, 0.2))
    later = detect(replace(table, timestamps=TIMESTAMPS + 3.0), Parameters(0.5, 0.2))
    same_boxes(replace(later, onset=later.onset - 3.0, offset=later.offset - 3.0, end=boxes.end), boxes, atol=2e-6)
    slower = detect(replace(table, timestamps=TIMESTAMPS * 2), Parameters(1.0, 0.2))
    halved = replace(slower, onset=slower.onset / 2, offset=slower.offset / 2, end=boxes.end)
    np.testing.assert_allclose(halved.onset, boxes.onset, atol=1e-6)
    np.testing.assert_allclose(halved.offset, boxes.offset, atol=1e-6)


def test_classes_in_another_order_and_with_their_own_parameters():
    table = plausible()
    lengths, absolute = {"a": 0.38, "b": 0.38, "c": 0.66}, [0.15, 0.3, NEVER]
    together = detect(table, Parameters(lengths, absolute, {"a": NEVER, "b": NEVER, "c": 2.0}))
    order = ("c", "a", "b")
    turned = detect(table.select(labels=order), Parameters(lengths, [NEVER, 0.15, 0.3], [2.0, NEVER, NEVER]))
    same_boxes(turned.select(labels=LABELS), together)
    for label, parameters in (("a", (0.38, 0.15)), ("b", (0.38, 0.3)), ("c", (0.66, NEVER, 2.0))):
        same_boxes(detect(table.select(labels=[label]), Parameters(*parameters)), together.select(labels=[label]))


def test_a_clip_does_not_depend_on_the_others():
    table = plausible(clips=ROWS + 2, frames=40)
    boxes = detect(table, Parameters(0.5, 0.2))
    last = table.clips[-3:]
    same_boxes(detect(table.select(last), Parameters(0.5, 0.2)), boxes.select(last))


def test_precision_of_the_scores_does_not_matter():
    table = replace(plausible(), scores=plausible().scores.astype(np.float16))
    wide = replace(table, scores=table.scores.astype(np.float64))
    same_boxes(detect(table, Parameters(0.5, 0.2)), detect(wide, Parameters(0.5, 0.2)), atol=0)


def test_higher_thresholds_only_join_boxes():
    segments = find_segments(plausible().scores[:, :, 0], TIMESTAMPS, 0.38)
    edges = None
    for threshold in (-np.inf, 0.05, 0.15, 0.3, np.inf):
        row, onset, offset, _ = merge_segments(segments, threshold, np.inf)
        found = set(zip(row.tolist(), onset.tolist())), set(zip(row.tolist(), offset.tolist()))
        assert edges is None or (found[0] <= edges[0] and found[1] <= edges[1])
        edges = found
        if threshold == -np.inf:
            np.testing.assert_array_equal(onset, segments.onset)
    # Nothing keeps two candidates of a clip apart any more.
    assert row.tolist() == list(range(6))
    np.testing.assert_array_equal(onset, [segments.onset[segments.row == i].min() for i in range(6)])


@pytest.mark.parametrize("criteria", [PSDS1, PSDS2])
def test_psds_of_boxes_is_that_of_their_score_frames(criteria):
    table = plausible(clips=30, seed=3)
    events, durations = random_truth(table, seed=4)
    boxes = detect(table, Parameters(0.42, NEVER, 2.0))
    truth = Truth.of(events, durations, table.clips, table.labels)
    ours = psds(boxes.of, truth, criteria)
    library, classes = psd_roc(boxes.score_frames(-np.inf), events, durations, criteria)
    assert 0.05 < library.value < 0.95
    assert ours.value == pytest.approx(library.value, abs=1e-6)
    assert class_psds(ours, LABELS) == pytest.approx(classes, abs=1e-6)


@pytest.fixture
def few():
    """Boxes by hand, given in disorder."""
    return boxes_of(
        ("x", "y", "z"), ("a", "b"),
        [1, 0, 0, 0], [1, 1, 0, 0], [0.5, 2.0, 3.0, 1.0], [1.5, 3.0, 4.0, 2.0], [0.9, 0.5, 0.2, 0.4], end=5.0,
    )  # fmt: skip


def test_events_are_the_boxes_strictly_above_a_threshold(few):
    assert few.events(0.4) == {"x": [(2.0, 3.0, "b")], "y": [(0.5, 1.5, "b")], "z": []}
    assert few.events([0.1, 0.5]) == {"x": [(1.0, 2.0, "a"), (3.0, 4.0, "a")], "y": [(0.5, 1.5, "b")], "z": []}
    assert few.events({"a": 0.3, "b": 1.0}) == {"x": [(1.0, 2.0, "a")], "y": [], "z": []}


def test_boxes_by_clip_and_of_a_class(few):
    assert few.by_clip() == {
        "x": [(1.0, 2.0, "a", 0.4), (3.0, 4.0, "a", 0.2), (2.0, 3.0, "b", 0.5)],
        "y": [(0.5, 1.5, "b", 0.9)],
        "z": [],
    }
    of_b = few.of("b")
    assert [column.tolist() for column in of_b] == [[0, 1], [2.0, 0.5], [3.0, 1.5], [0.5, 0.9], [-np.inf, -np.inf]]


def test_score_frames_by_hand(few):
    frames = few.score_frames()
    assert list(frames) == ["x", "y", "z"]
    assert frames["x"].to_numpy().tolist() == [
        [0, 1, 0, 0], [1, 2, 0.4, 0], [2, 3, 0, 0.5], [3, 4, 0.2, 0], [4, 5, 0, 0]
    ]  # fmt: skip
    assert frames["z"].to_numpy().tolist() == [[0, 5, 0, 0]]
    assert few.score_frames(-1.0)["y"]["b"].tolist() == [-1.0, 0.9, -1.0]
    assert replace(few, end=None).score_frames()["z"].to_numpy().tolist() == [[0, 4, 0, 0]]


def test_selected_and_joined_boxes(few):
    assert few.select(["y", "x"], ["b"]).by_clip() == {"y": [(0.5, 1.5, "b", 0.9)], "x": [(2.0, 3.0, "b", 0.5)]}
    same_boxes(join(few.select(labels=["b"]), few.select(labels=["a"]), labels=few.labels), few)
    same_boxes(join(few.select(["z", "y"]), few.select(["x"]), clips=few.clips), few)
    assert join(few.select(labels=["b"]), few.select(labels=["a"])).labels == ("b", "a")
    assert join(few).end == 5.0


def test_segment_boxes_cut_the_clip_into_seconds():
    table = pulse_table(np.arange(25) / 25)
    boxes = segment_boxes(table)
    np.testing.assert_allclose(boxes.onset, [0, 1, 2])
    np.testing.assert_allclose(boxes.offset, [1, 2, 2.5])
    np.testing.assert_allclose(boxes.score, [4.5 / 25, 14.5 / 25, 22 / 25])


def test_no_clips_and_no_classes():
    table = plausible()
    none = detect(table.select([]), Parameters({"a": 0.38, "b": 0.5, "c": 0.5}, 0.2))
    assert (none.clips, none.labels, none.score.tolist(), none.score_frames()) == ((), LABELS, [], {})
    empty = detect(table.select(labels=[]), Parameters(0.5, 0.2))
    assert (empty.clips, empty.labels, empty.score.tolist()) == (table.clips, (), [])


def test_scores_that_are_no_numbers_are_named():
    table = plausible()
    table.scores[2, 5, 1] = np.nan
    with pytest.raises(ValueError, match="clip 'clip002' has scores that are no numbers"):
        detect(table, Parameters(0.5, 0.2))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (Parameters({"a": 0.4, "c": 0.4}), r"step_filter_length lacks the class 'b' \(it has: a, c\)"),
        (Parameters(0.4, [0.2, 0.3]), "merge_threshold_abs has 2 values, expected one or 3, one per class"),
        (Parameters([0.4, 0.0, 0.4]), r"step_filter_length needs positive seconds, got \[0.4, 0.0, 0.4\]"),
        (Parameters(np.inf), "step_filter_length needs positive seconds"),
        (Parameters(0.4, 0.2, np.nan), "merge_threshold_rel needs numbers, got nan"),
    ],
)
def test_wrong_parameters_are_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        detect(plausible(), parameters)


def test_unknown_names_are_named(few):
    with pytest.raises(ValueError, match=r"the boxes have no 'w' \(classes: a, b\)"):
        few.select(["x", "w"])
    with pytest.raises(ValueError, match="the boxes have no 'c'"):
        few.select(labels=["c"])


def test_score_frames_need_an_end():
    empty = boxes_of(("x",), ("a",), *[np.zeros(0, dtype=int)] * 2, *[np.zeros(0)] * 3)
    with pytest.raises(ValueError, match="nothing tells where the score tables end"):
        empty.score_frames()
