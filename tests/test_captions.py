"""Caption tables, their audio files, the published corrections, ids and statistics of text."""

import csv
import json
import unicodedata

import numpy as np
import pytest

from data_util.caption_text import normalised, published_caption_id, published_clip_id, text_report, text_rows
from data_util.captions import Captioned, match_audio, read_captions
from data_util.curate import changes, curate, curated_caption, write_curated
from data_util.errors import DataMissing, TableError
from tests.reference import golden

FIVE = tuple(f"caption_{number}" for number in range(1, 6))


def write(path, rows, header=("file_name", *FIVE)):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def five(text):
    return [f"{text} {number}, loudly" for number in range(1, 6)]


# -- layouts ----------------------------------------------------------------------------------------------------------
def test_clotho_layout_with_odd_names(tmp_path):
    names = [" e ieio ieai.wav", "Größe, naïve – é.wav", "Rain .wav"]
    path = write(tmp_path / "clotho_captions_validation.csv", [[name, *five(name)] for name in names])
    rows = read_captions(path)
    assert [row.file for row in rows] == names
    assert rows[1].captions == tuple(five(names[1]))
    assert [row.clip for row in rows] == [" e ieio ieai", "Größe, naïve – é", "Rain "]


def test_every_layout_gives_the_same_clips(tmp_path):
    captions = {"a_1.wav": ["A dog barks, twice.", "A bark"], "b_2.wav": ["Rain"]}
    expected = [(name, tuple(texts)) for name, texts in captions.items()]
    long = [(name, text) for name, texts in captions.items() for text in texts]
    tables = [
        write(tmp_path / "x_captions.csv", [(n, t, normalised(t)) for n, t in long], ("fname", "raw_text", "text")),
        write(tmp_path / "long.csv", long, ("file_name", "caption")),
        write(
            tmp_path / "test.csv",
            [(i, n[0], n[2], t) for i, (n, t) in enumerate(long)],
            ("audiocap_id", "youtube_id", "start_time", "caption"),
        ),
        tmp_path / "list.json",
        tmp_path / "wavcaps.json",
    ]
    entries = [{"file_name": name, "captions": texts} for name, texts in captions.items()]
    tables[3].write_text(json.dumps(entries))
    entries = [{"id": n, "audio": "wav_path", "caption": t if len(t) > 1 else t[0]} for n, t in captions.items()]
    tables[4].write_text(json.dumps({"num_captions_per_audio": 1, "data": entries}))
    for table in tables:
        assert [(row.file, row.captions) for row in read_captions(table)] == expected, table.name


def test_wide_table_may_have_another_number_of_captions(tmp_path):
    rows = read_captions(write(tmp_path / "my.csv", [("a.wav", "x", "y")], ("file_name", "caption_1", "caption_2")))
    assert rows[0].captions == ("x", "y")
    long = write(tmp_path / "long.csv", [("a.wav", "x"), ("a.wav", "y")], ("file_name", "caption"))
    with pytest.raises(TableError, match=r"has 2 captions, expected 3"):
        read_captions(long, captions=3)


def test_one_caption_column_or_several(tmp_path):
    path = write(tmp_path / "both.csv", [("a.wav", "x", "y")], ("file_name", "caption", "caption_1"))
    with pytest.raises(TableError, match=r"both.csv: columns caption, caption_1, expected either caption or caption_1"):
        read_captions(path)


def test_json_captions_by_number(tmp_path):
    (tmp_path / "t.json").write_text(json.dumps([{"wav": 7, "caption_2": "b", "caption_10": "c", "caption_1": "a"}]))
    assert read_captions(tmp_path / "t.json") == [Captioned("7", ("a", "b", "c"), f"{tmp_path / 't.json'}, entry 1")]


# -- mistakes ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("header", "missing"),
    [
        (("file_name", *FIVE[:4]), "no column 'caption_5'"),
        (("file_name", *FIVE[:2], *FIVE[3:]), "no column 'caption_3'"),
        (("name", *FIVE), "no column 'file_name'"),
        (("file_name",), "no column 'caption_1'"),
        (("fname", "text"), "no column 'raw_text'"),
        (("youtube_id", "caption"), "no column 'start_time'"),
    ],
)
def test_missing_columns(tmp_path, header, missing):
    path = write(tmp_path / "clotho_captions_validation.csv", [["x"] * len(header)], header)
    with pytest.raises(TableError, match=missing) as error:
        read_captions(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_mistakes_are_named(tmp_path):
    path = tmp_path / "clotho_captions_x.csv"
    write(path, [["a.wav", *five("a")], ["b.wav", "x", "y", " ", "z", "w"]])
    with pytest.raises(TableError, match=r"line 3: caption 3 of 'b.wav' is empty"):
        read_captions(path)
    write(path, [["a.wav", *five("a")], ["b.wav", *five("b")], ["a.wav", *five("c")]])
    with pytest.raises(TableError, match=r"line 4: two clips have the id 'a'"):
        read_captions(path)
    write(path, [["a.wav", *five("a")], ["a.flac", *five("c")]])
    with pytest.raises(TableError, match=r"two clips have the id 'a' \('a.wav' and 'a.flac'\)"):
        read_captions(path)
    write(path, [["", *five("a")]])
    with pytest.raises(TableError, match=r"line 2: no file name"):
        read_captions(path)
    write(path, [])
    with pytest.raises(TableError, match=r"0 clips"):
        read_captions(path)
    path.write_bytes("file_name,caption\nä.wav,x\n".encode("latin-1"))
    with pytest.raises(TableError, match=r"not readable as UTF-8, first at byte 18"):
        read_captions(path)
    with pytest.raises(DataMissing, match=r"no caption table .*none\.csv"):
        read_captions(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not readable as JSON"),
        ('{"clips": []}', "no list of clips"),
        ('[{"caption": "x"}]', "entry 1: no file"),
        ('[{"id": "a", "caption": 3}]', r"entry 1: 'caption' of 'a' is \[3\]"),
        ('[{"id": "a"}]', r"'caption' of 'a' is \[\]"),
        ('[{"id": "a", "caption": ""}]', "caption 1 of 'a' is empty"),
    ],
)
def test_mistakes_in_json(tmp_path, content, message):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(TableError, match=message):
        read_captions(tmp_path / "t.json")


# -- audio ------------------------------------------------------------------------------------------------------------
def test_audio_is_found_under_similar_names(tmp_path):
    names = ["typical.wav", unicodedata.normalize("NFD", "Größe.wav"), "7.flac", "Rain .wav", "Rain.wav", "x.txt"]
    for name in names:
        (tmp_path / name).touch()
    wanted = [" typical.wav", unicodedata.normalize("NFC", "Größe.wav"), "7", "Rain.wav", " Rain.wav", "x.wav"]
    paths = match_audio([Captioned(name, ()) for name in wanted], tmp_path)
    found = [path and path.removeprefix(f"{tmp_path}/") for path in paths]
    assert found == ["typical.wav", names[1], "7.flac", "Rain.wav", None, None]
    assert match_audio([Captioned("a.wav", ())], tmp_path / "none") == [None]


# -- corrections ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Water echos. Echos  fade ", "Water echoes. Echoes fade"),
        ("A a wind up", "A wind up"),
        ("making click click click sound", "making click sound"),
        ("passes at at a high speed on the the tracks", "passes at a high speed on the tracks"),
        ("is going tick tick throughout", "is ticking throughout"),
        ("sings Rain Rain go away", "sings Rain Rain go away"),
        ("Scraping and shaking shaking", "Scraping and shaking shaking"),
        ("Anna nags, in, in peace", "Anna nags, in, in peace"),
        ("gravelled neighbourhood", "gravelled neighbourhood"),
    ],
)
def test_corrected_captions(before, after):
    assert curated_caption(before) == after
    assert curated_caption(after) == after


def test_curate_is_pure_and_switchable(tmp_path):
    rows = [Captioned(" birds.wav", ("it echos", "a  b")), Captioned("x.wav", ("fine",))]
    new = curate(rows)
    assert [(row.file, row.captions) for row in new] == [("birds.wav", ("it echoes", "a b")), ("x.wav", ("fine",))]
    assert rows[0].file == " birds.wav"
    assert curate(rows, captions=False)[0].captions == rows[0].captions
    assert curate(rows, names=False)[0].file == " birds.wav"
    assert [tuple(change) for change in changes(rows, new)] == [
        (" birds.wav", " birds.wav", "birds.wav"),
        (" birds.wav", "it echos", "it echoes"),
        (" birds.wav", "a  b", "a b"),
    ]
    assert changes(new, curate(new)) == []
    write_curated(tmp_path / "x_captions.csv", new)
    assert [(row.file, row.captions) for row in read_captions(tmp_path / "x_captions.csv")] == [
        (row.file, row.captions) for row in new
    ]


# -- text -------------------------------------------------------------------------------------------------------------
def test_normal_form_ids_and_id_table_as_published():
    stored = golden("lbar/ids.json")
    for _, raw, text in stored["captions"]:
        assert normalised(raw) == text
    frame = stored["text_frames"]["validation"]
    path = "./data/Clotho/validation/val clip.wav"
    assert published_clip_id(path) == frame[0]["fid"]
    assert published_caption_id(frame[0]["fid"], "Caption 1.") == frame[0]["tid"]
    rows = [Captioned("val clip.wav", tuple(row["raw_text"] for row in frame))]
    ours = [{**row._asdict(), "tokens": str(row.tokens)} for row in text_rows(rows, [published_clip_id(path)])]
    assert ours == frame


def test_text_report_by_hand():
    train = [Captioned("a.wav", ("A dog barks.", "a dog BARKS", "Rain")), Captioned("b.wav", ("Rain!", "wind blows"))]
    test = [Captioned("a.wav", ("a cat",))]
    report = text_report({"train": train, "test": test}, tokenize=lambda texts: [[0] * len(text) for text in texts])
    assert report["splits"]["train"] == {
        "clips": 2,
        "captions": 5,
        "words": 10,
        "words_per_caption": [1, 2.0, 3],
        "vocabulary": 6,
        "once": 2,
        "distinct": 3,
        "repeated_in_clip": 1,
        "shared": 2,
        "unseen": 0,
        "tokens": 12 + 11 + 4 + 5 + 10,
        "tokens_per_caption": [4, 8.4, 12],
    }
    assert report["splits"]["test"]["unseen"] == 1
    assert (report["vocabulary"], report["clips_in_two_splits"], report["captions_in_two_splits"]) == (7, ["a"], 0)


# -- real captions ----------------------------------------------------------------------------------------------------
@pytest.mark.data
def test_real_captions(real_data):
    splits = ("development", "validation", "evaluation")
    rows = {split: read_captions(real_data / f"clotho/clotho_captions_{split}.csv") for split in splits}
    report = text_report(rows)
    found = {split: [values[key] for key in ("clips", "captions", "vocabulary")] for split, values in
             report["splits"].items()}  # fmt: skip
    assert found == {
        "development": [3839, 19195, 4369],
        "validation": [1045, 5225, 2877],
        "evaluation": [1045, 5225, 3516],
    }
    assert all(values["words_per_caption"][::2] == [8, 20] for values in report["splits"].values())
    assert [values["unseen"] for values in report["splits"].values()] == [0, 0, 0]
    assert report["vocabulary"] == 4369
    assert report["splits"]["development"]["distinct"] == 19178
    assert len(report["clips_in_two_splits"]) == 4
    curated = {split: curate(own) for split, own in rows.items()}
    assert [len(changes(rows[split], curated[split])) for split in splits] == [91, 72, 8]
    table = text_rows(curated["validation"], [row.clip for row in curated["validation"]])
    assert len({row.tid for row in table}) == 5225
    assert np.mean([len(row.tokens) for row in table]) == pytest.approx(11.39, abs=0.01)


@pytest.mark.data
def test_real_tables_find_their_audio(real_data):
    rows = read_captions(real_data / "audiocaps/test.csv")
    assert [len(row.captions) for row in rows] == [5] * 7
    assert all(match_audio(rows, real_data / "audiocaps/audio"))
    rows = read_captions(real_data / "clotho/clotho_captions_evaluation.csv")
    assert sum(path is not None for path in match_audio(rows, real_data / "clotho/evaluation")) == 3
