"""Frame grid, label matrices and event tables against the published code's numbers and by hand."""

import numpy as np
import pandas as pd
import pytest

from data_util.classes import (
    CLASSES,
    DESED_CLASSES,
    DESED_TO_MAESTRO,
    MAESTRO_CLASSES,
    MAESTRO_EVAL_CLASSES,
    MAESTRO_TO_DESED,
    desed_mask,
    maestro_mask,
)
from data_util.errors import DataMissing, TableError
from data_util.events import (
    SOFT_COLUMNS,
    FrameGrid,
    StrongLabels,
    WeakLabels,
    add_aliases,
    add_weak_aliases,
    clip_events,
    decode_strong,
    decode_weak,
    durations,
    encode_strong,
    encode_weak,
    make_events,
    read_events,
    read_weak,
)
from helpers.files import clip_id
from helpers.scores import events_of_table
from tests.reference import golden

GRID = FrameGrid()
HEADER = "filename\tonset\toffset\tevent_label\n"


@pytest.fixture(scope="module")
def labels():
    return golden("sed/labels_and_decoding.json"), golden("sed/labels_and_decoding.npz")


@pytest.fixture(scope="module")
def preparation():
    return golden("sed/data_preparation.json")


@pytest.fixture
def table(tmp_path):
    """Writes a table and returns its path."""

    def write(text):
        path = tmp_path / "some.tsv"
        path.write_text(text)
        return path

    return write


def events_of(rows):
    table = pd.DataFrame(rows)
    confidence = table["confidence"] if "confidence" in table else None
    return make_events(table["event_label"], table["onset"], table["offset"], confidence)


# -- classes ---------------------------------------------------------------------------------------
def test_classes_and_masks(labels, preparation):
    assert list(CLASSES) == labels[0]["labels"] == preparation["class_masks"]["labels"]
    assert CLASSES == DESED_CLASSES + MAESTRO_CLASSES
    assert (len(DESED_CLASSES), len(MAESTRO_CLASSES)) == (10, 17)
    assert list(MAESTRO_EVAL_CLASSES) == golden("sed/evaluation.json")["maestro_eval_classes"]
    masks = preparation["class_masks"]
    np.testing.assert_array_equal(desed_mask(use_desed_maestro_alias=True), masks["desed_train"])
    np.testing.assert_array_equal(desed_mask(), masks["desed_validation_and_test"])
    np.testing.assert_array_equal(
        maestro_mask(use_maestro_desed_alias=True), masks["maestro_train_validation_and_test"]
    )
    np.testing.assert_array_equal(maestro_mask(), [name in MAESTRO_CLASSES for name in CLASSES])


@pytest.mark.parametrize(("key", "aliases"), [("desed_alias", DESED_TO_MAESTRO), ("maestro_alias", MAESTRO_TO_DESED)])
def test_aliases(preparation, key, aliases):
    expected = preparation[key]
    assert dict(aliases) == expected["alias"]
    assert add_aliases(pd.DataFrame(expected["input"]), aliases).to_dict("records") == expected["output"]


def test_weak_aliases(preparation):
    expected = preparation["weak_alias"]
    result = add_weak_aliases(pd.DataFrame(expected["input"]), DESED_TO_MAESTRO)
    assert result.to_dict("records") == expected["output"]


def test_alias_of_an_absent_class_changes_nothing():
    table = pd.DataFrame([("a.wav", 0.0, 1.0, "Cat")], columns=["filename", "onset", "offset", "event_label"])
    pd.testing.assert_frame_equal(add_aliases(table, DESED_TO_MAESTRO), table)


# -- grid ------------------------------------------------------------------------------------------
def test_grid(labels):
    facts, arrays = labels
    fine = FrameGrid(frame_hop=160)
    assert (GRID.n_frames, fine.n_frames) == (facts["n_frames"]["hop 256"], facts["n_frames"]["hop 160"])
    assert GRID.frame_seconds == 0.064
    np.testing.assert_array_equal(GRID.timestamps, arrays["frame_to_time"])
    np.testing.assert_array_equal(fine.timestamps, arrays["frame_to_time_hop160"])
    np.testing.assert_array_equal(GRID.to_frames(arrays["time_to_frame_input"]), arrays["time_to_frame"])


@pytest.mark.parametrize("entry", ["audio_len", "frame_len", "frame_hop", "net_pooling", "fs"])
def test_grid_refuses_sizes_that_are_not_positive(entry):
    with pytest.raises(ValueError, match=rf"encoder\.{entry} is 0, expected a positive number"):
        FrameGrid(**{entry: 0})


def test_grid_refuses_clips_shorter_than_a_frame():
    with pytest.raises(ValueError, match=r"encoder\.audio_len is 0\.05 s, expected at least 0\.064 s"):
        FrameGrid(audio_len=0.05)


# -- labels ----------------------------------------------------------------------------------------
def test_encode_strong(labels):
    facts, arrays = labels
    events = events_of(facts["events"])
    for key in ("strong", "strong_list"):
        np.testing.assert_array_equal(encode_strong(events, GRID).T, arrays[key])
    np.testing.assert_array_equal(encode_strong(events, FrameGrid(frame_hop=160)).T, arrays["strong_hop160"])
    soft = encode_strong(events_of(facts["events_with_confidence"]), GRID)
    np.testing.assert_array_equal(soft.T, arrays["strong_confidence"])
    assert soft.dtype == np.float32
    whole = make_events(["Dog", "car"], [0, 0], [10, 10])
    np.testing.assert_array_equal(encode_strong(whole, GRID).T, arrays["strong_list_of_names"])


def test_encode_weak(labels):
    facts, arrays = labels
    inputs = facts["weak_inputs"]
    np.testing.assert_array_equal(encode_weak(inputs["weak"]), arrays["weak"])
    np.testing.assert_array_equal(encode_weak(inputs["weak_string"]), arrays["weak_string"])
    np.testing.assert_array_equal(encode_weak([e["event_label"] for e in facts["events"]]), arrays["weak_frame"])
    assert not encode_weak("").any()
    assert not encode_weak([]).any()


def test_encode_refuses_unknown_classes():
    with pytest.raises(ValueError, match=r"unknown class 'Dgo' \(did you mean 'Dog'\?\), expected one of Alarm"):
        encode_weak(["Dgo"])
    with pytest.raises(ValueError, match="unknown class 'Piano', expected one of"):
        make_events(["Piano"], [0], [1])


def test_decode(labels):
    facts, arrays = labels
    decoded = decode_strong(arrays["decode_input"].T, GRID)
    assert [label for label, _, _ in decoded] == [label for label, _, _ in facts["decoded"]]
    times, expected = ([row[1:] for row in rows] for rows in (decoded, facts["decoded"]))
    np.testing.assert_allclose(times, expected, rtol=0, atol=1e-9)
    assert decode_weak(arrays["weak"]) == facts["decoded_weak"]


def test_encode_then_decode_gives_events_on_the_grid_back():
    events = [("Cat", 0.64, 1.28), ("Cat", 1.92, 2.56), ("car", 0.0, GRID.timestamps[-1])]
    active = encode_strong(make_events(*zip(*events)), GRID) > 0.5
    assert decode_strong(active, GRID) == events


def test_clip_events(preparation):
    expected = preparation["clip_events"]
    rows = pd.DataFrame([{"filename": "a.wav", **row} for row in expected["input"]]).drop_duplicates()
    start, length = expected["onset"], expected["offset"] - expected["onset"]
    result = clip_events(events_of(rows), start, length)
    names = [CLASSES[label] for label in result.label]
    rows = [dict(event_label=n, onset=on, offset=off) for n, on, off in zip(names, result.onset, result.offset)]
    assert rows == expected["output"]


def test_strong_labels_are_those_of_the_clip_alone():
    rows = [
        ("b.wav", 0.0, 1.0, "Cat"),
        ("a.wav", np.nan, np.nan, np.nan),
        ("b.wav", 2.0, 20.0, "Dog"),
        ("c.wav", 1.0, 1.0, "Dog"),  # no duration: published training drops it
        ("b.wav", 0.0, 1.0, "Cat"),
    ]
    labels = StrongLabels(pd.DataFrame(rows, columns=["filename", "onset", "offset", "event_label"]), GRID)
    assert labels.filenames == ["b.wav", "a.wav", "c.wav"]
    strong, weak = labels(0)
    np.testing.assert_array_equal(strong, encode_strong(make_events(["Cat", "Dog"], [0, 2], [1, 10]), GRID))
    assert decode_weak(weak) == ["Cat", "Dog"]
    strong, weak = labels(0, start=1.5)  # the cat is over, the dog begins at 0.5 s
    np.testing.assert_array_equal(strong, encode_strong(make_events(["Dog"], [0.5], [10]), GRID))
    assert decode_weak(weak) == ["Dog"]
    for index in (1, 2):
        strong, weak = labels(index)
        assert not strong.any()
        assert not weak.any()


def test_later_soft_labels_overwrite_earlier_ones():
    rows = [("a.wav", 0.0, 2.0, "car", 0.9), ("a.wav", 1.0, 2.0, "car", 0.2)]
    strong, weak = StrongLabels(pd.DataFrame(rows, columns=SOFT_COLUMNS), GRID)(0)
    car = strong[CLASSES.index("car")]
    np.testing.assert_allclose(car[[0, 14, 15, 31, 32]], [0.9, 0.9, 0.2, 0.2, 0.0], rtol=1e-6)
    assert weak[CLASSES.index("car")] == 1


def test_order_of_rows_survives_interleaved_clips():
    rows = [(f"{n % 3}.wav", 0.0, 1.0, "car", n / 100) for n in range(60)]
    labels = StrongLabels(pd.DataFrame(rows, columns=SOFT_COLUMNS), GRID)
    last = [labels(i)[0][CLASSES.index("car"), 0] for i in range(3)]
    np.testing.assert_allclose(last, [0.57, 0.58, 0.59], rtol=1e-6)


def test_weak_labels():
    table = pd.DataFrame(
        [("a.wav", "Cat,Dog"), ("b.wav", ""), ("a.wav", "Speech")], columns=["filename", "event_labels"]
    )
    labels = WeakLabels(table, GRID)
    assert labels.filenames == ["a.wav", "b.wav"]
    strong, weak = labels(0)
    assert strong.shape == (27, 156)
    assert not strong.any()
    assert decode_weak(weak) == ["Cat", "Dog"]
    weak[:] = 0
    assert decode_weak(labels(0)[1]) == ["Cat", "Dog"]  # what a caller does to the array stays his own
    assert not labels(1)[1].any()


# -- tables ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/x/clip_a.wav", "clip_a"),
        ("c.name.wav", "c.name"),
        ("cafe_restaurant_00-0-1000.wav", "cafe_restaurant_00-0-1000"),
        ("Yabc_30.000_40.000.wav", "Yabc_30.000_40.000"),
        ("Yabc_30.000_40.000", "Yabc_30.000_40.000"),
        ("x.FLAC", "x"),
        ("dir.wav/plain", "plain"),
    ],
)
def test_clip_id(path, name):
    assert clip_id(path) == name


def test_clip_ids_of_published_decoding(labels):
    assert [clip_id(path) for path in labels[0]["preds"]["files"]] == labels[0]["preds"]["clip_ids"]


def test_read_events_and_ground_truth(table):
    path = table(HEADER + "a.wav\t0.5\t1.25\tCat\nb.wav\t\t\t\nc.wav\t\t\tempty\na.wav\t2\t3\tDog\n")
    events = read_events(path)
    assert list(events.columns) == ["filename", "onset", "offset", "event_label"]
    assert events["event_label"].isna().tolist() == [False, True, True, False]
    assert events_of_table(events) == {"a": [(0.5, 1.25, "Cat"), (2.0, 3.0, "Dog")], "b": [], "c": []}


def test_read_events_of_a_table_without_any_event(table):
    events = read_events(table(HEADER + "a.wav\t\t\t\n"))
    assert events_of_table(events) == {"a": []}
    assert not StrongLabels(events, GRID)(0)[0].any()
    assert StrongLabels(read_events(table(HEADER)), GRID).filenames == []


def test_read_soft_events(table):
    path = table("filename\tonset\toffset\tevent_label\tconfidence\nx-0-1000.wav\t0\t1\tcar\t0.25\n")
    assert read_events(path, SOFT_COLUMNS)["confidence"].tolist() == [0.25]
    assert read_events(path)["confidence"].tolist() == [0.25]


def test_file_names_stay_strings(table):
    assert read_events(table(HEADER + "123\t0\t1\tCat\n"))["filename"].tolist() == ["123"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename\tonset\tevent_label\na.wav\t0\tCat\n", "no column 'offset' .*found filename, onset, event_label"),
        ("filename,onset,offset,event_label\na.wav,0,1,Cat\n", "no column 'filename'"),
        (HEADER + "a.wav\t0\t1\tCat\nb.wav\t0\t1\tCta\n", r"row 3 \(b.wav\): unknown class 'Cta' \(did you mean 'Cat'"),
        (HEADER + "a.wav\tzero\t1\tCat\n", r"row 2 \(a.wav\): onset is 'zero', expected a number"),
        (HEADER + "a.wav\t0\t1s\tCat\n", r"row 2 \(a.wav\): offset is '1s', expected a number"),
        (HEADER + "a.wav\t\t1\tCat\n", r"row 2 \(a.wav\): an event without onset"),
        (HEADER + "a.wav\t0\t1\t\n", r"row 2 \(a.wav\): an onset without event_label"),
        (HEADER + "a.wav\t2\t1\tCat\n", r"row 2 \(a.wav\): the offset is before the onset"),
        (HEADER + "\t0\t1\tCat\n", "row 2 .*the filename is empty"),
        (HEADER[:-1] + "\tconfidence\na.wav\t0\t1\tcar\t1.5\n", "row 2 .*confidence out of range"),
        ("", "not a tab-separated table"),
    ],
)
def test_bad_event_tables(table, text, message):
    path = table(text)
    with pytest.raises(TableError, match=message) as error:
        read_events(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_confidence(table):
    with pytest.raises(TableError, match="no column 'confidence'"):
        read_events(table(HEADER + "a.wav\t0\t1\tcar\n"), SOFT_COLUMNS)


def test_missing_table(tmp_path):
    with pytest.raises(DataMissing, match=r"no table .*nowhere\.tsv"):
        read_events(tmp_path / "nowhere.tsv")


def test_read_weak(table):
    weak = read_weak(table("filename\tevent_labels\na.wav\tCat, Dog\nb.wav\t\nc.wav\tempty\n"))
    assert weak["event_labels"].tolist() == ["Cat,Dog", "", ""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename\tevent_label\na.wav\tCat\n", "no column 'event_labels'"),
        ("filename\tevent_labels\na.wav\tCat\nb.wav\tDog,Frog\n", r"row 3 \(b.wav\): unknown class 'Frog'"),
    ],
)
def test_bad_weak_tables(table, text, message):
    with pytest.raises(TableError, match=message):
        read_weak(table(text))


def test_durations(table):
    path = table("filename\tduration\na.wav\t10\ncafe_restaurant_07\t301.25\n")
    assert durations(path) == {"a": 10.0, "cafe_restaurant_07": 301.25}
    with pytest.raises(TableError, match=r"row 2 \(a.wav\): duration expected as a positive number"):
        durations(table("filename\tduration\na.wav\t0\n"))


@pytest.mark.data
def test_tables_of_desed(real_data):
    metadata = real_data / "desed" / "metadata"
    events = read_events(metadata / "validation" / "validation.tsv", classes=DESED_CLASSES)
    truth = events_of_table(events)
    assert len(truth) == 1168  # as the published set; 15 of them without events
    assert sum(not rows for rows in truth.values()) == 15
    assert truth.keys() == durations(metadata / "validation" / "validation_durations.tsv").keys()
    assert len(events_of_table(read_events(metadata / "eval" / "public.tsv"))) == 692
    assert len(read_weak(metadata / "train" / "weak.tsv")) == 1578
    labels = StrongLabels(events, GRID)
    assert sum(labels(i)[0].any() for i in range(len(labels.filenames))) == 1153
