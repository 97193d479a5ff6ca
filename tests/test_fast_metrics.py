"""Array metrics against sed_scores_eval, by hand, and by what must hold for any scores."""

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import psds as benchmark
from helpers import score_blocks
from helpers.candidates import Candidates, Truth, candidates_of_scores
from helpers.collars import collar_counts
from helpers.fast_metrics import (
    class_psds,
    collar_best_f1,
    collar_counts_of_scores,
    each_class,
    f1_of_scores,
    psd_counts,
    psd_counts_of_scores,
    psds,
    psds_of_scores,
)
from helpers.metrics import COLLAR, INTERSECTION, PSDS1, PSDS2, roc_area
from helpers.operating_points import macro_roc, rising
from helpers.scores import ScoreTable, events_of_files, events_of_table, merge_events
from helpers.segments import file_segment_counts, segment_counts

LABELS = ("a", "b", "c")
HOP = 0.064
ERROR = 1e-9


def made_up(seed, steps=None, clips=20, frames=50, rate=1.2, duration=None, decimals=3):
    """Scores that follow events with noise (the last clip is constant), their truth, and the events.

    Args:
        steps: quantise scores to this many levels, so that many are equal.
        rate: events per clip and class.
        duration: of the clips in seconds, that of their frames when None.
        decimals: of the times of the events.
    """
    rng = np.random.default_rng(seed)
    names = tuple(f"x{i:02d}" for i in range(clips))
    length = frames * HOP
    centres = (np.arange(frames) + 0.5) * HOP
    scores = np.cumsum(rng.standard_normal((clips, frames, len(LABELS))), axis=1) * 0.4 - 2.0
    events = {}
    for i, name in enumerate(names):
        drawn = []
        for k, label in enumerate(LABELS):
            for onset in rng.uniform(0, length - 0.2, rng.poisson(rate) + (i == 0)):
                onset = round(onset, decimals)
                offset = round(min(length, onset + 0.05 + rng.exponential(0.6)), decimals)
                scores[i, (centres > onset) & (centres < offset), k] += 3.0
                drawn.append((onset, offset, label))
        events[name] = merge_events(drawn)
    scores = 1 / (1 + np.exp(-scores))
    scores = np.round(scores * steps) / steps if steps else scores
    scores[-1] = 0.5
    events[names[-2]] = []
    durations = dict.fromkeys(names, duration or length)
    table = ScoreTable(names, scores, np.arange(frames + 1) * HOP, LABELS)
    return table, Truth.of(events, durations, names, LABELS), events, durations


def candidates(table):
    return {label: candidates_of_scores(table.scores[..., k], table.timestamps) for k, label in enumerate(table.labels)}


def etpr_at(rates, efpr, etpr):
    """The staircase at these rates."""
    return etpr[np.searchsorted(efpr, rates, side="right") - 1]


@pytest.mark.parametrize("criteria", [PSDS1, PSDS2, INTERSECTION, {**PSDS2, "alpha_st": 0.0, "cttc_threshold": 0.7}])
@pytest.mark.parametrize("steps", [None, 20, 2])
def test_psds_is_that_of_sed_scores_eval(criteria, steps):
    from sed_scores_eval import intersection_based

    for seed, max_efpr in ((0, 100.0), (1, 1000.0), (2, 20000.0)):
        table, truth, events, durations = made_up(seed, steps)
        value, classes, (etpr, efpr), curves = intersection_based.psds(
            table.data_frames(), events, durations, **criteria, max_efpr=max_efpr
        )
        for roc in (
            psds(candidates(table), truth, criteria, max_efpr),
            psds_of_scores(table, truth, criteria, max_efpr),
        ):
            assert roc.value == pytest.approx(value, abs=ERROR)
            assert class_psds(roc, LABELS) == pytest.approx(classes, abs=ERROR)
            rates = (efpr[1:] + efpr[:-1]) / 2
            np.testing.assert_allclose(etpr_at(rates, roc.efpr, roc.etpr), etpr[:-1], atol=ERROR)
            for label, (tpr, rate, _) in curves.items():
                np.testing.assert_allclose(roc.classes[label][0], rate, atol=1e-6)
                np.testing.assert_allclose(roc.classes[label][1], tpr, atol=ERROR)
        for label, of_class in candidates(table).items():
            single = psd_counts(of_class, truth, label, criteria).psds(max_efpr=max_efpr)
            assert single == pytest.approx(classes[label], abs=ERROR)


def made_up_boxes(seed, decimals):
    """Sound event bounding boxes that neither overlap nor touch within a class, of which some are right."""
    _, truth, events, durations = made_up(seed, clips=30, decimals=decimals)
    rng = np.random.default_rng(seed)
    found = {label: [] for label in LABELS}
    for label in LABELS:
        for i, name in enumerate(truth.clips):
            near = [
                (on + rng.normal() * 0.1, off + rng.normal() * 0.1) for on, off, other in events[name] if other == label
            ]
            drawn = near + [(on, on + rng.exponential(0.5)) for on in rng.uniform(0, 3, rng.poisson(1))]
            end = -1.0
            for onset, offset in sorted((round(max(on, 0), decimals), round(off, decimals)) for on, off in drawn):
                if onset > end and offset > onset:
                    found[label].append((i, onset, offset, round(rng.random(), 2), -np.inf))
                    end = offset
    boxes = {label: Candidates(*map(np.array, zip(*rows))) for label, rows in found.items()}
    return boxes, truth, events, durations


def frames_of_boxes(boxes, truth):
    """The same boxes as score data frames, whose frames are the times between all boundaries in a clip."""
    from helpers.scores import score_frame

    frames = {}
    for i, clip in enumerate(truth.clips):
        own = {label: [column[box.clip == i] for column in box] for label, box in boxes.items()}
        edges = np.unique([0.0, 10.0, *(time for box in own.values() for times in box[1:3] for time in times)])
        scores = np.full((len(edges) - 1, len(LABELS)), -np.inf)
        for k, (_, onsets, offsets, confidences, _) in enumerate(own.values()):
            for onset, offset, confidence in zip(onsets, offsets, confidences):
                scores[(edges[:-1] >= onset) & (edges[:-1] < offset), k] = confidence
        frames[clip] = score_frame(scores, edges, LABELS)
    return frames


@pytest.mark.parametrize("decimals", [3, 1])  # with one, times are often just as far apart as the criteria allow
@pytest.mark.parametrize("seed", range(3))
def test_boxes_count_as_in_sed_scores_eval(seed, decimals):
    from sed_scores_eval import collar_based, intersection_based

    boxes, truth, events, durations = made_up_boxes(seed, decimals)
    frames = frames_of_boxes(boxes, truth)
    for criteria in (PSDS1, PSDS2):
        value, classes, *_ = intersection_based.psds(frames, events, durations, **criteria, max_efpr=500.0)
        roc = psds(boxes.__getitem__, truth, criteria, max_efpr=500.0)
        assert roc.value == pytest.approx(value, abs=ERROR)
        assert class_psds(roc, LABELS) == pytest.approx(classes, abs=ERROR)
    best, _, _, thresholds, _ = collar_based.best_fscore(frames, events, **COLLAR)
    for label in LABELS:
        f1, threshold = collar_best_f1(boxes[label], truth, label)
        assert f1 == pytest.approx(best[label], abs=ERROR)
        assert threshold == pytest.approx(thresholds[label], abs=ERROR)


@pytest.mark.parametrize("criterion", ["collar", "intersection"])
@pytest.mark.parametrize("steps", [None, 20, 3])
def test_event_f1_is_that_of_sed_scores_eval(criterion, steps):
    import sed_scores_eval

    library, criteria, count = {
        "collar": (sed_scores_eval.collar_based, COLLAR, collar_counts),
        "intersection": (sed_scores_eval.intersection_based, INTERSECTION, psd_counts),
    }[criterion]
    for seed in range(3):
        table, truth, events, _ = made_up(seed, steps, rate=2.5)
        frames = table.data_frames()
        best, _, _, thresholds, _ = library.best_fscore(frames, events, **criteria)
        found = f1_of_scores(table, truth, criterion)
        for given in (0.3, 0.5):
            expected = library.fscore(frames, events, given, **criteria)[0]
            at_given = f1_of_scores(table, truth, criterion, given)
            for label in LABELS:
                assert at_given[label] == (pytest.approx(expected[label], abs=ERROR), given)
        for label, of_class in candidates(table).items():
            f1, threshold = found[label]
            assert f1 == pytest.approx(best[label], abs=ERROR)
            assert threshold == pytest.approx(thresholds[label], abs=ERROR)
            counts = count(of_class, truth, label, criteria)
            assert counts.best_f1()[0] == pytest.approx(f1, abs=ERROR)
            assert counts.f1(threshold) == pytest.approx(f1, abs=ERROR)


@pytest.mark.parametrize("steps", [None, 10])
@pytest.mark.parametrize(("duration", "hop"), [(None, HOP), (2.7, HOP), (4.4, HOP), (5.0, 0.1)])
def test_segments_count_as_in_sed_scores_eval(steps, duration, hop):
    from sed_scores_eval import segment_based

    for seed in range(2):
        table, truth, events, durations = made_up(seed, steps, duration=duration)
        table = replace(table, timestamps=np.arange(51) * hop)
        given = (table.data_frames(), events, durations)
        best, _, _, thresholds, _ = segment_based.best_fscore(*given)
        at_given = segment_based.fscore(*given, threshold=0.4, segment_length=1.0)[0]
        curves = segment_based.roc_curve(*given, segment_length=1.0)
        for label, counts in segment_counts(table, truth).items():
            assert counts.best_f1() == pytest.approx((best[label], thresholds[label]), abs=ERROR)
            assert counts.f1(0.4) == pytest.approx(at_given[label], abs=ERROR)
            for max_fpr in (1.0, 0.1):
                assert counts.auc(max_fpr) == pytest.approx(roc_area(*curves[label][:2], max_fpr), abs=ERROR)


def test_segments_of_files_are_those_of_the_evaluator():
    from helpers.collectors import FrameScores, Reference
    from helpers.metrics import SegmentAuc

    rng = np.random.default_rng(0)
    clips = [f"file{i}-{100 * start}-{100 * (start + 10)}" for i in range(3) for start in range(0, 25, 2)]
    collected = FrameScores(LABELS, np.arange(157) * HOP)
    collected.update(rng.random((len(clips), 3, 156)), None, {"filename": clips})
    events = {clip: [*[(1.0, 2.5, "a"), (4.0, 9.0, "b")][: i % 3], (0.5, 1.0, "c")] for i, clip in enumerate(clips)}
    durations = {f"file{i}": 33.5 + i for i in range(3)}
    evaluated = SegmentAuc(collected, Reference(events, durations, LABELS), per_file=True).per_class()
    truth = Truth.of(events_of_files(events), durations, list(durations), LABELS)
    counts = file_segment_counts(collected.table(), truth)
    for label in LABELS:
        assert counts[label].best_f1()[0] == pytest.approx(evaluated["segment_f1_macro_thresopt"][label], abs=ERROR)
        assert counts[label].auc() == pytest.approx(evaluated["segment_mauc"][label], abs=ERROR)
        assert counts[label].auc(0.1) == pytest.approx(evaluated["segment_mpauc"][label], abs=ERROR)
    once, twice = (counts["b"].auc(0.1, weights) for weights in (None, [2, 2, 2]))
    assert once == pytest.approx(twice)
    longer = {**durations, "file3": 20.0}
    truth = Truth.of({}, longer, list(longer), LABELS)
    with pytest.raises(ValueError, match=r"no scores of file 'file3' \(1 of 4 files have none\)"):
        file_segment_counts(collected.table(), truth)


@pytest.mark.data
def test_real_system_outputs(real_data):
    import pandas

    folder = real_data / "scores" / "dcase2023_task4a_baseline2_run1"
    expected = json.loads((folder / "expected.json").read_text())
    frames = {path.stem: pandas.read_csv(path, sep="\t") for path in sorted((folder / "scores").glob("*.tsv"))}
    first = next(iter(frames.values()))
    labels, edges = tuple(first.columns[2:]), np.append(first["onset"], first["offset"].iloc[-1])
    table = ScoreTable(tuple(frames), np.stack([frame[list(labels)] for frame in frames.values()]), edges, labels)
    durations = pandas.read_csv(folder / "audio_durations.tsv", sep="\t")
    durations = {name.removesuffix(".wav"): duration for name, duration in durations.itertuples(index=False)}
    events = events_of_table(pandas.read_csv(folder / "ground_truth.tsv", sep="\t"))
    truth = Truth.of(events, durations, table.clips, labels)
    for number, criteria in ((1, PSDS1), (2, PSDS2)):
        roc = psds_of_scores(table, truth, criteria)
        assert roc.value == pytest.approx(expected[f"PSDS{number}_dcase23"], abs=1e-6)
        by_class = expected[f"PSDS{number}_dcase23_per_class_before_alpha"]
        assert class_psds(roc, labels) == pytest.approx(by_class, abs=1e-6)
    best, at_half = f1_of_scores(table, truth), f1_of_scores(table, truth, threshold=0.5)
    segments = segment_counts(table, truth)
    for label in labels:
        assert best[label][0] == pytest.approx(expected["collar_best_F1"][label], abs=1e-6)
        assert best[label][1] == pytest.approx(expected["collar_best_threshold"][label], abs=1e-6)
        assert at_half[label][0] == pytest.approx(expected["collar_F1_at_0.5"][label], abs=1e-6)
        assert segments[label].f1(0.5) == pytest.approx(expected["segment_1s_F1_at_0.5"][label], abs=1e-6)
    perfect = ["Alarm_bell_ringing", "Cat", "Electric_shaver_toothbrush"]
    assert [label for label in labels if segments[label].auc(0.1) == 1.0] == perfect


@pytest.mark.parametrize("criteria", [PSDS1, PSDS2])
def test_curves_rise(criteria):
    for seed in range(4):
        table, truth, _, _ = made_up(seed, steps=30)
        roc = psds_of_scores(table, truth, {**criteria, "alpha_st": 0.0}, 5000.0)
        assert roc.efpr[0] == 0.0
        assert roc.efpr[-1] == 5000.0
        assert (np.diff(roc.efpr) >= 0).all()
        assert (np.diff(roc.etpr) >= 0).all()
        for rate, tpr in roc.classes.values():
            assert (np.diff(rate) > 0).all()
            assert (np.diff(tpr) > 0).all()
            assert 0 <= tpr[0] <= tpr[-1] <= 1


@pytest.mark.parametrize("criteria", [PSDS1, PSDS2])
def test_the_order_of_classes_and_clips_changes_nothing(criteria):
    table, _, events, durations = made_up(3)
    expected = psds_of_scores(table, Truth.of(events, durations, table.clips, LABELS), criteria, 2000.0)
    for labels, clips in ((("c", "a", "b"), table.clips), (LABELS, table.clips[::-1])):
        truth = Truth.of(events, durations, clips, labels)
        for turned in (table, table.select(clips, labels)):
            found = psds_of_scores(turned, truth, criteria, 2000.0)
            assert found.value == pytest.approx(expected.value, abs=ERROR)
            assert class_psds(found, LABELS) == pytest.approx(class_psds(expected, LABELS), abs=ERROR)


@pytest.mark.parametrize("criteria", [PSDS1, PSDS2])
def test_a_class_without_events_is_missing_and_changes_no_other(criteria):
    table, _, events, durations = made_up(0)
    events = {clip: [event for event in found if event[2] != "b"] for clip, found in events.items()}
    whole = psds_of_scores(table, Truth.of(events, durations, table.clips, LABELS), criteria)
    without = psds_of_scores(table, Truth.of(events, durations, table.clips, ("a", "c")), criteria)
    assert whole.value == without.value
    assert set(whole.classes) == {"a", "c"}
    found = class_psds(whole, LABELS)
    assert [label for label in LABELS if np.isnan(found[label])] == ["b"]
    truth = Truth.of(events, durations, table.clips, LABELS)
    for values in (f1_of_scores(table, truth)["b"], f1_of_scores(table, truth, "intersection")["b"]):
        assert np.isnan(values).tolist() == [True, True]
    assert np.isnan(f1_of_scores(table, truth, threshold=0.5)["b"][0])
    segments = segment_counts(table, truth)["b"]
    assert np.isnan([segments.auc(), segments.auc(0.1), *segments.best_f1()]).all()


def test_no_events_at_all_is_nan():
    table, _, _, durations = made_up(0)
    roc = psds_of_scores(table, Truth.of({}, durations, table.clips, LABELS), PSDS1)
    assert np.isnan(roc.value)
    assert (roc.classes, roc.efpr.tolist(), roc.max_efpr) == ({}, [0.0, 100.0], 100.0)


def test_a_class_everywhere_has_no_roc_of_segments():
    table, _, _, durations = made_up(0)
    events = {clip: [(0.0, duration, "a")] for clip, duration in durations.items()}
    counts = segment_counts(table, Truth.of(events, durations, table.clips, ("a",)))["a"]
    assert np.isnan(counts.auc())
    assert counts.best_f1()[0] == 1.0


@pytest.mark.parametrize("criteria", [PSDS1, PSDS2])
def test_a_clip_without_events_only_adds_false_positives(criteria):
    table, truth, events, durations = made_up(1)
    more = ScoreTable((*table.clips, "y"), np.append(table.scores, table.scores[:1], 0), table.timestamps, LABELS)
    larger = Truth.of(events, {**durations, "y": durations["x00"]}, more.clips, LABELS)
    for k, label in enumerate(LABELS):
        few = psd_counts_of_scores(table.scores[..., k], table.timestamps, truth, label, criteria)
        many = psd_counts_of_scores(more.scores[..., k], table.timestamps, larger, label, criteria)
        for threshold in (0.1, 0.3, 0.5, 0.8):
            before, after = (
                [changes[counts.threshold > threshold].sum() for changes in (counts.tp, counts.fp, counts.triggers)]
                for counts in (few, many)
            )
            curve = np.concatenate([[False], table.scores[0, :, k] > threshold])
            runs = (np.diff(curve.astype(int)) == 1).sum()
            assert (np.subtract(after, before) == [0, runs, 0]).all()


def test_overlapping_events_of_a_class_are_one():
    table, truth, events, durations = made_up(2)
    split = {
        clip: [
            part for on, off, label in found for part in ((on, (on + 2 * off) / 3, label), ((on + off) / 2, off, label))
        ]
        for clip, found in events.items()
    }
    again = Truth.of(split, durations, table.clips, LABELS)
    assert len(again.clip) == len(truth.clip)
    for criteria in (PSDS1, PSDS2):
        assert psds_of_scores(table, again, criteria).value == psds_of_scores(table, truth, criteria).value


def weighted_values(table, truth, weights):
    """Every metric with these weights."""
    values = [roc.value for roc in (psds_of_scores(table, truth, c, 900.0, weights) for c in (PSDS1, PSDS2))]
    values += [psds(candidates(table), truth, c, 900.0, weights).value for c in (PSDS1, PSDS2)]
    for criterion in ("collar", "intersection"):
        values += [f1 for f1, _ in f1_of_scores(table, truth, criterion, weights=weights).values()]
        values += [f1 for f1, _ in f1_of_scores(table, truth, criterion, 0.4, weights).values()]
    for counts in segment_counts(table, truth).values():
        values += [counts.auc(weights=weights), counts.auc(0.1, weights), counts.best_f1(weights)[0]]
    return values


@pytest.mark.parametrize("seed", [0, 1])
def test_weights_count_clips_several_times_or_not_at_all(seed):
    table, truth, events, durations = made_up(seed, steps=40)
    clips = len(table.clips)
    plain = weighted_values(table, truth, None)
    assert weighted_values(table, truth, np.ones(clips, int)) == pytest.approx(plain, abs=ERROR)
    assert weighted_values(table, truth, np.full(clips, 2)) == pytest.approx(plain, abs=ERROR)
    weights = np.random.default_rng(seed).integers(0, 4, clips)
    weights[0] = 1
    rows = np.repeat(np.arange(clips), weights)
    names = [f"{table.clips[row]}#{i}" for i, row in enumerate(rows)]
    copies = ScoreTable(tuple(names), table.scores[rows], table.timestamps, LABELS)
    of_copies = {name: events[name.split("#")[0]] for name in names}
    copied = Truth.of(of_copies, dict.fromkeys(names, durations["x00"]), names, LABELS)
    assert weighted_values(table, truth, weights) == pytest.approx(weighted_values(copies, copied, None), abs=ERROR)


def test_weights_that_leave_a_class_without_events_make_it_missing():
    table, _, events, durations = made_up(0)
    events = {clip: [e for e in found if e[2] != "b" or clip == "x00"] for clip, found in events.items()}
    truth = Truth.of(events, durations, table.clips, LABELS)
    weights = np.ones(len(table.clips), int)
    weights[0] = 0
    kept = Truth.of({c: e for c, e in events.items() if c != "x00"}, durations, table.clips[1:], LABELS)
    for criteria in (PSDS1, PSDS2):
        weighted, dropped = (
            psds_of_scores(table, truth, criteria, 900.0, weights),
            psds_of_scores(table, kept, criteria, 900.0),
        )
        assert weighted.value == pytest.approx(dropped.value, abs=ERROR)
        assert set(weighted.classes) == {"a", "c"}


@pytest.mark.parametrize("criteria", [PSDS1, PSDS2])
def test_thresholds_beyond_the_largest_rate_can_be_left_out(criteria):
    table, truth, _, _ = made_up(4, steps=100, clips=60, rate=0.1)
    weights = np.random.default_rng(0).integers(0, 3, 60)
    for k, label in enumerate(LABELS):
        scores = table.scores[..., k]
        whole = psd_counts_of_scores(scores, table.timestamps, truth, label, criteria)
        for max_efpr in (100.0, 600.0):
            for weight in (None, weights):
                part = psd_counts_of_scores(scores, table.timestamps, truth, label, criteria, max_efpr, weight)
                assert len(part.threshold) < len(whole.threshold)
                silent = np.setdiff1d(np.arange(60), truth.of_label(label).clip)
                wrong = silent[scores[silent].max(1) >= part.threshold.min()]
                counted = truth.weights(weight)
                assert 3600 * counted[wrong].sum() / (counted @ truth.durations) <= max_efpr
                expected = whole.roc(weight, max_efpr)
                for found, wanted in zip(part.roc(weight, max_efpr), expected):
                    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_clips_with_events_that_stay_below_all_others():
    table, truth, _, _ = made_up(3, rate=0.3)
    for k, label in enumerate(LABELS):
        heard = np.isin(np.arange(len(truth.clips)), truth.of_label(label).clip)
        scores = np.where(heard[:, None], 0.01, table.scores[..., k] + 0.02)
        limited = psd_counts_of_scores(scores, table.timestamps, truth, label, PSDS1, 1e-3)
        assert limited.tp.shape == limited.fp.shape == limited.threshold.shape
        _, found = limited.roc(max_efpr=1e-3)
        assert (found == 0).all()


@pytest.mark.parametrize("criteria", [PSDS1, PSDS2])
def test_half_precision_changes_nothing(criteria):
    table, truth, _, _ = made_up(5)
    half = replace(table, scores=table.scores.astype(np.float16))
    same = replace(table, scores=half.scores.astype(np.float32))
    found, expected = (psds_of_scores(given, truth, criteria, 1000.0) for given in (half, same))
    assert found.value == expected.value
    assert f1_of_scores(half, truth) == f1_of_scores(same, truth)


@pytest.mark.parametrize("criteria", [PSDS1, PSDS2])
def test_threads_change_nothing(criteria):
    table, truth, _, _ = made_up(6)
    one, two = (psds_of_scores(table, truth, criteria, jobs=jobs) for jobs in (1, 2))
    assert one.value == two.value
    np.testing.assert_array_equal(one.etpr, two.etpr)
    assert psds(candidates(table), truth, criteria, jobs=2).value == psds(candidates(table), truth, criteria).value
    assert f1_of_scores(table, truth, jobs=2) == f1_of_scores(table, truth)


def test_scores_are_read_in_blocks_from_wherever_they_are(tmp_path, monkeypatch):
    import h5py

    table, truth, _, _ = made_up(7)
    # More clips and classes than are evaluated, in another order, with scores that nobody may look at.
    larger = np.full((len(table.clips) + 2, 50, 5), np.nan, dtype=np.float32)
    larger[1:-1, :, 3], larger[1:-1, :, 1], larger[1:-1, :, 0] = table.scores[::-1].transpose(2, 0, 1)
    table = replace(table, scores=table.scores.astype(np.float32))
    expected = psds_of_scores(table, truth, PSDS2, 1000.0)
    np.save(tmp_path / "scores.npy", larger)
    with h5py.File(tmp_path / "scores.h5", "w") as file:
        file["scores"] = larger
        clips, labels = ("u", *table.clips[::-1], "v"), ("c", "b", "x", "a", "y")
        for scores in (larger, np.load(tmp_path / "scores.npy", mmap_mode="r"), file["scores"]):
            given = ScoreTable(clips, scores, table.timestamps, labels)
            for block in (1, 2 * 20 * 50 * 4, 2**28):
                monkeypatch.setattr(score_blocks, "BLOCK_BYTES", block)
                monkeypatch.setattr(score_blocks, "CHUNK_BYTES", block // 7)
                assert psds_of_scores(given, truth, PSDS2, 1000.0).value == expected.value
        read = each_class(lambda label, scores: scores.copy(), given, truth)
    assert list(read) == list(LABELS)
    np.testing.assert_array_equal(read["b"], table.scores[..., 1])


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_named(broken):
    table, truth, _, _ = made_up(0)
    table.scores[3, 7, 1] = broken
    for evaluate in (psds_of_scores, f1_of_scores, segment_counts):
        with pytest.raises(ValueError, match=rf"scores of 'b' in clip 'x03' reach {broken}, expected numbers \(1 such"):
            evaluate(table, truth)


def test_clips_and_classes_without_scores_are_named():
    table, truth, _, _ = made_up(0)
    with pytest.raises(ValueError, match=r"no scores of clip 'x04' \(2 of 20 have none\)"):
        psds_of_scores(table.select([clip for clip in table.clips if clip not in ("x04", "x09")]), truth)
    with pytest.raises(ValueError, match=r"no scores of class 'c' \(1 of 3 have none\)"):
        f1_of_scores(table.select(labels=("a", "b")), truth)
    with pytest.raises(ValueError, match="the clip 'x04' is listed twice"):
        psds_of_scores(replace(table, clips=("x04", *table.clips[1:])), truth)


def test_criteria_that_do_not_fit_are_named():
    table, truth, _, _ = made_up(0)
    for bad, message in (
        ({**PSDS1, "alpha_ct": 0.5}, r"cttc_threshold \(None\) and alpha_ct \(0.5\) need each other"),
        ({**PSDS1, "cttc_threshold": 0.3}, r"cttc_threshold \(0.3\) and alpha_ct \(0.0\) need each other"),
        ({**PSDS1, "dtc_threshold": 0.0}, "dtc_threshold is 0.0, expected a share above 0, up to 1"),
        ({**PSDS1, "gtc_threshold": 1.5}, "gtc_threshold is 1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            psds_of_scores(table, truth, bad)
    with pytest.raises(ValueError, match="no criterion 'segment', expected one of collar, intersection"):
        f1_of_scores(table, truth, "segment")
    with pytest.raises(ValueError, match="one weight of at least 0 for each of 20 clips"):
        psds(candidates(table), truth, weights=[1, 1])


def one_class(events, boxes, seconds=10.0):
    """Truth and candidates of one class in one clip; boxes are (onset, offset, confidence)."""
    truth = Truth.of({"x": [(*event, "a") for event in events]}, {"x": seconds}, ["x"], ["a"])
    columns = np.array([(0, *box, -np.inf) for box in boxes], dtype=float).reshape(-1, 5).T
    return Candidates(columns[0].astype(int), *columns[1:]), truth, "a"


def test_intersections_by_hand():
    # Two pieces of 0.8 s cover an event of 2 s together; a third lies half outside; a fourth is elsewhere.
    given = one_class([(1, 3), (5, 6)], [(1, 1.8, 0.9), (2, 2.8, 0.7), (5.5, 6.5, 0.6), (8, 9, 0.8)], seconds=3600)
    scores, tp, fp = psd_counts(*given, PSDS1).at_thresholds()
    assert scores.tolist() == [np.inf, 0.8, 0.7, 0.6]
    assert (tp.tolist(), fp.tolist()) == ([0, 0, 1, 1], [0, 1, 1, 2])
    scores, tp, fp = psd_counts(*given, INTERSECTION).at_thresholds()
    assert (scores.tolist(), tp.tolist(), fp.tolist()) == ([np.inf, 0.8, 0.7, 0.6], [0, 0, 1, 2], [0, 1, 1, 1])
    rate, tpr = psd_counts(*given, INTERSECTION).roc()
    assert (rate.tolist(), tpr.tolist()) == ([0.0, 1.0], [0.0, 1.0])
    assert psd_counts(*given, INTERSECTION).psds(max_efpr=4.0) == 0.75
    assert psd_counts(*given, INTERSECTION).best_f1() == (0.8, -np.inf)


def test_cross_triggers_by_hand():
    events = {"x": [(0.0, 2.0, "a"), (4.0, 6.0, "b"), (4.5, 8.0, "c")]}
    truth = Truth.of(events, {"x": 3600.0}, ["x"], LABELS)
    boxes = Candidates(
        *np.array([(0, 0.0, 2.0, 0.5, -np.inf), (0, 4.0, 5.0, 0.9, -np.inf), (0, 20, 21, 0.8, -np.inf)]).T
    )
    boxes = boxes._replace(clip=boxes.clip.astype(int))
    counts = psd_counts(boxes, truth, "a", PSDS2)
    assert counts.triggers.sum() == 2  # the second covers b and c
    rate, tpr = counts.roc()
    assert (rate.tolist(), tpr.tolist()) == ([0.0], [0.0])
    # Two false positives per hour, and for each of two other classes one trigger in its 2.0 and 3.5 seconds.
    rate, tpr = counts.roc(max_efpr=1e4)
    np.testing.assert_allclose(rate, [0.0, 2.0 + 0.5 * (3600 / 2.0 + 3600 / 3.5) / 2])
    assert tpr.tolist() == [0.0, 1.0]


def test_a_class_is_no_cross_trigger_of_itself():
    truth = Truth.of({"x": [(0.0, 2.0, "a"), (0.0, 2.0, "b")]}, {"x": 10.0}, ["x"], ["a", "b"])
    box = Candidates(np.zeros(1, int), *np.array([[1.0], [3.0], [0.9], [-np.inf]]))
    counts = psd_counts(box, truth, "a", {**PSDS2, "dtc_threshold": 0.7})
    assert (counts.other.tolist(), counts.triggers.tolist(), counts.fp.tolist()) == ([0, 1], [0, 1], [1, 0])


def test_no_rate_is_below_zero():
    # Cross triggers that come and go one after the other: their costs do not quite add up to zero in floats.
    events = {"x": [(0.0, 2.0, "a"), (3.0, 4.0, "b"), (6.0, 7.5, "c")]}
    truth = Truth.of(events, {"x": 10.0}, ["x"], LABELS)
    rows = [(0, 3.0, 3.5, 0.9, 0.7), (0, 6.0, 6.5, 0.8, 0.6), (0, 0.0, 2.0, 0.6, -np.inf)]
    boxes = Candidates(*np.array(rows).T)._replace(clip=np.zeros(3, int))
    rate, tpr = psd_counts(boxes, truth, "a", PSDS2).roc()
    assert (rate.tolist(), tpr.tolist()) == ([0.0], [1.0])


def test_times_are_compared_in_microseconds():
    # 2.4 - 1.7 < 0.7 and 2.2 - 2.0 > 0.2 in floats.
    counts = psd_counts(*one_class([(1.0, 2.4)], [(1.7, 2.7, 0.5)]), {"dtc_threshold": 0.7, "gtc_threshold": 0.5})
    assert (counts.tp.tolist(), counts.fp.tolist()) == ([1], [0])
    counts = psd_counts(*one_class([(1.0, 2.39999)], [(1.7, 2.7, 0.5)]), {"dtc_threshold": 0.7, "gtc_threshold": 0.5})
    assert (counts.tp.tolist(), counts.fp.tolist()) == ([0], [1])
    for onset, found in ((2.2, 1), (2.20001, 0)):
        assert collar_counts(*one_class([(2.0, 3.0)], [(onset, 3.0, 0.5)])).tp.sum() == found


def test_each_detection_is_matched_with_one_event():
    # Both detections are within the collars of both events, the first event is within those of one only.
    events, boxes = [(1.0, 1.2), (1.25, 1.5)], [(1.05, 1.3, 0.9), (1.31, 1.45, 0.5)]
    scores, tp, fp = collar_counts(*one_class(events, boxes)).at_thresholds()
    assert (scores.tolist(), tp.tolist(), fp.tolist()) == ([np.inf, 0.9, 0.5], [0, 1, 2], [0, 0, 0])
    scores, tp, fp = collar_counts(*one_class(events[1:], boxes)).at_thresholds()
    assert (tp.tolist(), fp.tolist()) == ([0, 1, 1], [0, 0, 1])
    for some in (boxes[:1], boxes[1:]):
        scores, tp, fp = collar_counts(*one_class(events, some)).at_thresholds()
        assert (tp.tolist(), fp.tolist()) == ([0, 1], [0, 0])
    # The second leaves no choice to the first.
    scores, tp, fp = collar_counts(*one_class(events, [boxes[0], (0.85, 1.0, 0.7)])).at_thresholds()
    assert (tp.tolist(), fp.tolist()) == ([0, 1, 2], [0, 0, 0])


def test_collars_grow_with_the_event():
    for late, found in ((0.9, 1), (1.1, 0)):
        given = one_class([(1.0, 6.0)], [(1.2, 6.0 + late, 0.5)])
        assert collar_counts(*given).tp.sum() == found
        assert collar_best_f1(*given) == ((1.0, -np.inf) if found else (0.0, np.inf))


def test_boxes_without_length_or_threshold_are_no_detections():
    real = one_class([(1, 3)], [(1, 3, 0.9)])
    more = one_class([(1, 3)], [(1, 3, 0.9), (4, 4, 0.8), (5, 6, -np.inf)])
    for count, criteria in ((psd_counts, PSDS1), (collar_counts, COLLAR)):
        few, many = (count(*given, criteria).at_thresholds() for given in (real, more))
        assert [column.tolist() for column in few] == [column.tolist() for column in many]
    nothing = one_class([(1, 3)], [])
    assert collar_best_f1(*nothing) == (0.0, np.inf)
    assert psd_counts(*nothing, PSDS1).psds() == 0.0


def test_the_mean_curve_by_hand():
    curves = {"a": ([0.0, 2.0], [0.2, 0.8]), "b": ([0.0, 1.0], [0.0, 0.6]), "c": ([0.0], [np.nan])}
    curves = {label: (np.array(rate), np.array(tpr)) for label, (rate, tpr) in curves.items()}
    roc = macro_roc(curves, max_efpr=4.0)
    assert roc.efpr.tolist() == [0.0, 1.0, 2.0, 4.0]
    np.testing.assert_allclose(roc.etpr, [0.1, 0.4, 0.7, 0.7])
    assert roc.value == pytest.approx((0.1 + 0.4 + 2 * 0.7) / 4)
    stable = macro_roc(curves, alpha_st=1.0, max_efpr=4.0, points=2)
    np.testing.assert_allclose(stable.etpr, [0.0, 0.2, 0.6, 0.6])
    assert class_psds(roc, ("b", "c")) == pytest.approx({"b": 0.45, "c": np.nan}, nan_ok=True)


def test_rising_keeps_what_no_other_point_beats():
    rate, tpr = rising(
        np.array([3.0, 0.0, 1.0, 1.0, 2.0, 5.0, 9.0]), np.array([0.5, 0.0, 0.3, 0.4, 0.4, 0.6, 1.0]), 5.0
    )
    assert (rate.tolist(), tpr.tolist()) == ([0.0, 1.0, 3.0, 5.0], [0.0, 0.4, 0.5, 0.6])


def test_collar_counts_of_scores_spare_silent_clips():
    table, truth, _, _ = made_up(8)
    for k, label in enumerate(LABELS):
        fast = collar_counts_of_scores(table.scores[..., k], table.timestamps, truth, label)
        slow = collar_counts(candidates(table)[label], truth, label)
        for found, expected in zip(fast.at_thresholds(), slow.at_thresholds()):
            np.testing.assert_array_equal(found, expected)


def test_benchmark_agrees_with_sed_scores_eval():
    rng = np.random.default_rng(0)
    labels = tuple(f"class{k:03d}" for k in range(6))
    events = benchmark.make_events(40, len(labels), rng)
    scores = benchmark.make_scores(events, 50, labels, np.float16, rng)
    assert {event[2] for found in events.values() for event in found} == set(labels)
    table = ScoreTable(tuple(events), scores, np.linspace(0.0, 10.0, 51), labels)
    durations = dict.fromkeys(events, 10.0)
    for criteria in (PSDS1, PSDS2):
        difference, *_ = benchmark.compare(table, events, durations, criteria, clips=20, classes=4)
        assert difference < ERROR
