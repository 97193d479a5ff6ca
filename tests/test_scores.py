"""Post-processing against stored results, against slow loops and by hand."""

import numpy as np
import pytest

from helpers.scores import (
    ScoreTable,
    clip_duration,
    clip_id,
    clip_span,
    detections,
    events_of_files,
    events_of_table,
    file_segment_scores,
    median_filter,
    merge_events,
    segment_scores,
)
from tests.reference import golden

TIMESTAMPS = np.arange(157) * 0.064


@pytest.fixture(scope="module")
def decoding():
    return golden("sed/labels_and_decoding.json"), golden("sed/labels_and_decoding.npz")


@pytest.fixture(scope="module")
def evaluation():
    return golden("sed/evaluation.json"), golden("sed/evaluation_scores.npz")


@pytest.fixture(scope="module")
def table(decoding):
    facts, arrays = decoding
    clips = tuple(clip_id(name) for name in facts["preds"]["files"])
    return ScoreTable(clips, arrays["preds"].transpose(0, 2, 1), TIMESTAMPS, tuple(facts["labels"]))


def test_clip_id_drops_folder_and_last_suffix(decoding):
    preds = decoding[0]["preds"]
    assert [clip_id(name) for name in preds["files"]] == preds["clip_ids"]


def test_clip_span_reads_hundredths_of_a_second():
    assert clip_span("metro_station_03-150-1150") == ("metro_station_03", 1.5, 11.5)
    assert clip_span("a-b-0-1000") == ("a-b", 0.0, 10.0)


@pytest.mark.parametrize("name", ["metro_station_03", "x-1", "x-a-b"])
def test_a_clip_with_another_name_is_named(name):
    with pytest.raises(ValueError, match=rf"clip '{name}' is not named <file>-<onset>-<offset>"):
        clip_span(name)


def test_median_filter_golden(decoding):
    facts, arrays = decoding
    smoothed = median_filter(arrays["median_input"], facts["preds"]["median_window"])
    np.testing.assert_array_equal(smoothed, arrays["median_output"])


def test_median_filter_of_a_batch_golden(decoding, table):
    facts, arrays = decoding
    np.testing.assert_array_equal(table.smooth(facts["preds"]["median_window"]).scores, arrays["preds_median"])


def test_median_filter_by_hand():
    scores = np.array([5.0, 1.0, 1.0, 4.0, 0.0])[:, None]
    # mirrored with the edge frame repeated: 5 5 1 1 4 0 0
    np.testing.assert_array_equal(median_filter(scores, [3])[:, 0], [5.0, 1.0, 1.0, 1.0, 0.0])
    np.testing.assert_array_equal(scores[:, 0], [5.0, 1.0, 1.0, 4.0, 0.0])  # input untouched


def test_median_filter_of_a_batch_is_that_of_its_items():
    scores = np.random.default_rng(0).random((4, 30, 3), dtype=np.float32)
    windows = [1, 5, 7]
    together = median_filter(scores, windows)
    assert together.dtype == np.float32
    np.testing.assert_array_equal(together, [median_filter(item, windows) for item in scores])
    np.testing.assert_array_equal(together[..., 0], scores[..., 0])


def test_median_filter_of_nothing():
    assert median_filter(np.zeros((0, 30, 2)), [3, 5]).shape == (0, 30, 2)


@pytest.mark.parametrize("windows", [[3], [3, 5, 7], [3, 0]])
def test_wrong_windows_are_named(windows):
    with pytest.raises(ValueError, match=r"median_window needs 2 lengths of at least 1 frame"):
        median_filter(np.zeros((10, 2)), windows)


@pytest.mark.parametrize("threshold", ["0.3", "0.5"])
def test_detections_golden(decoding, table, threshold):
    facts, _ = decoding
    found = detections(table.smooth(facts["preds"]["median_window"]), float(threshold))
    rows = [(f"{clip}.wav", label, onset, offset) for clip, events in found.items() for onset, offset, label in events]
    expected = facts["preds"]["detections"][threshold]
    assert [row[:2] for row in rows] == [tuple(row[:2]) for row in expected]
    np.testing.assert_allclose([row[2:] for row in rows], [row[2:] for row in expected], atol=1e-9)


def test_detections_are_strictly_above_a_threshold_per_class():
    scores = np.array([[[0.5, 0.9], [0.6, 0.5], [0.5, 0.9]]])
    table = ScoreTable(("x",), scores, np.arange(4.0), ("a", "b"))
    assert detections(table, 0.5) == {"x": [(1.0, 2.0, "a"), (0.0, 1.0, "b"), (2.0, 3.0, "b")]}
    assert detections(table, [0.4, 0.9]) == {"x": [(0.0, 3.0, "a")]}


def test_score_data_frames_are_those_of_sed_scores_eval(decoding, table):
    from sed_scores_eval.base_modules.scores import validate_score_dataframe

    facts, arrays = decoding
    frames = table.data_frames()
    assert list(frames) == facts["preds"]["clip_ids"]
    for clip, frame in frames.items():
        assert list(frame) == facts["preds"]["columns"]
        validate_score_dataframe(frame, event_classes=facts["labels"])
        np.testing.assert_allclose(frame["onset"], arrays["preds_onset"], atol=1e-12)
        np.testing.assert_allclose(frame["offset"], arrays["preds_offset"], atol=1e-12)
        np.testing.assert_array_equal(frame[facts["labels"]], table.select([clip]).scores[0])


def test_select_orders_and_names_what_is_unknown(table):
    part = table.select(["c.name", "clip_a"], ["Dog", "Cat"])
    assert part.scores.shape == (2, 156, 2)
    np.testing.assert_array_equal(part.scores[1, :, 0], table.scores[0, :, table.labels.index("Dog")])
    with pytest.raises(ValueError, match="no 'Cow'"):
        table.select(labels=["Cow"])


def test_a_table_checks_its_shape():
    with pytest.raises(ValueError, match=r"\(1, 156, 2\).* \(1, 156, 1\)"):
        ScoreTable(("x",), np.zeros((1, 156, 2)), TIMESTAMPS, ("a",))


def test_quantised_scores_detect_what_the_thresholds_detect(table):
    from sed_scores_eval.base_modules.detection import scores_to_event_list

    thresholds = [0.2, 0.5, 0.8]
    levels = table.quantise(thresholds)
    assert set(np.unique(levels.scores)) <= {-np.inf, 1.0, 2.0, 3.0}
    for i, threshold in enumerate(thresholds):
        direct = scores_to_event_list(table.data_frames(), np.full(27, threshold))
        assert scores_to_event_list(levels.data_frames(), np.full(27, i + 0.5)) == direct


def test_segment_scores_of_a_clip_golden(evaluation):
    facts, arrays = evaluation
    clips = facts["clips.maestro_dev"]
    i = clips.index(facts["functions"]["segment_scores_of_first_clip"])
    columns = [facts["labels"].index(label) for label in sorted(facts["labels"][10:])]
    scores = arrays["maestro_dev.student"][i].T[:, columns]
    np.testing.assert_allclose(
        segment_scores(scores, TIMESTAMPS, 10.0), arrays["segment_scores_of_first_clip"], atol=1e-6
    )


@pytest.mark.parametrize("kind", ["raw", "median"])
def test_segment_scores_of_files_golden(evaluation, kind):
    facts, arrays = evaluation
    scores = arrays["maestro_dev.student"].transpose(0, 2, 1)
    table = ScoreTable(tuple(facts["clips.maestro_dev"]), scores, TIMESTAMPS, tuple(facts["labels"]))
    if kind == "median":
        table = table.smooth(facts["median_window"])
    durations = {name[:-4]: seconds for name, seconds in facts["tables"]["real_maestro_val_dur"]["rows"]}
    files = file_segment_scores(table.select(labels=sorted(facts["labels"][10:])), durations)
    assert set(files) == {"cafe_restaurant_00", "metro_station_03"}
    for file, (segments, boundaries) in files.items():
        np.testing.assert_allclose(segments, arrays[f"segments_{kind}.{file}"], atol=1e-6)
        expected = arrays[f"segments_{kind}.{file}.times"]
        np.testing.assert_allclose(np.stack([boundaries[:-1], boundaries[1:]], axis=1), expected, atol=1e-9)


def test_segment_scores_by_hand():
    scores = np.array([[1.0], [3.0], [5.0]])  # frames of 0.75 s
    timestamps = np.array([0.0, 0.75, 1.5, 2.25])
    # second 0: 0.75 s of 1, 0.25 s of 3; second 1: 0.5 s of 3, 0.5 s of 5; second 2: 0.25 s of 5; second 3: nothing
    np.testing.assert_allclose(segment_scores(scores, timestamps, 4.0)[:, 0], [1.5, 4.0, 5.0, 0.0])
    np.testing.assert_allclose(segment_scores(scores, timestamps, 2.0, 2.0)[:, 0], [(0.75 + 2.25 + 2.5) / 2.0])


def test_file_segments_cut_clips_at_the_end_and_are_zero_in_gaps():
    timestamps = np.arange(3.0)
    scores = np.array([[[1.0], [2.0]], [[4.0], [6.0]], [[8.0], [9.0]]])
    table = ScoreTable(("f-0-200", "f-100-300", "f-500-700"), scores, timestamps, ("a",))
    segments, boundaries = file_segment_scores(table, {"f": 5.5})["f"]
    np.testing.assert_allclose(segments[:, 0], [1.0, 3.0, 6.0, 0.0, 0.0, 8.0])
    np.testing.assert_allclose(boundaries, [0, 1, 2, 3, 4, 5, 5.5])


def test_maestro_events_of_files_golden(evaluation):
    pandas = pytest.importorskip("pandas")
    facts, _ = evaluation
    rows = facts["tables"]["real_maestro_val_tsv"]
    events = events_of_table(
        pandas.DataFrame(rows["rows"], columns=rows["columns"]), facts["maestro_eval_classes"], above=0.5
    )
    files = events_of_files(events)
    expected = facts["functions"]["maestro_merged_ground_truth"]
    assert {file: sorted(found) for file, found in files.items()} == {
        file: sorted(map(tuple, found)) for file, found in expected.items()
    }


def test_events_of_a_table_keep_clips_without_events():
    import pandas

    rows = [("d/a.x.wav", 0.0, 1.0, "Dog"), ("d/a.x.wav", 0.5, 2.0, "Cow"), ("b.wav", None, None, None)]
    table = pandas.DataFrame(rows, columns=["filename", "onset", "offset", "event_label"])
    assert events_of_table(table, ["Dog"]) == {"a.x": [(0.0, 1.0, "Dog")], "b": []}
    with pytest.raises(ValueError, match="lacks the column confidence"):
        events_of_table(table, above=0.5)
    with pytest.raises(ValueError, match="lacks the column event_label"):
        events_of_table(table.drop(columns="event_label"))


def test_soft_labels_count_strictly_above():
    import pandas

    rows = [("a.wav", 0.0, 1.0, "car", 0.5), ("a.wav", 1.0, 2.0, "car", 0.51)]
    table = pandas.DataFrame(rows, columns=["filename", "onset", "offset", "event_label", "confidence"])
    assert events_of_table(table, above=0.5) == {"a": [(1.0, 2.0, "car")]}


def test_merging_joins_touching_events_of_a_class():
    events = [(2.0, 3.0, "a"), (0.0, 1.0, "a"), (1.0, 1.5, "a"), (0.5, 2.5, "b"), (2.2, 2.4, "a"), (7.0, 7.0, "b")]
    assert merge_events(events) == [(0.0, 1.5, "a"), (2.0, 3.0, "a"), (0.5, 2.5, "b")]


def test_a_clip_ends_with_its_file():
    assert clip_duration("f-500-1500", {}) == 10.0
    assert clip_duration("f-500-1500", {"f": 12.5}) == 7.5
    assert clip_duration("f-500-1500", {"f": 12.5, "f-500-1500": 10.0}) == 10.0
    assert clip_duration("Y1_2", {"Y1_2": 9.5}) == 9.5
