"""Files of the challenge, their validator, and the page on which failures are heard."""

import csv
import json
import re
import urllib.parse

import numpy as np
import pytest
import soundfile

from helpers.listening_page import hardest_first, listened, write_listening_page
from helpers.qvim_submission import evaluation_files, ranking, validate_submission, write_submission
from tests.sounds import tone, write

QUERIES, ITEMS = ["q1.wav", "q2.wav", "grün, \"2\".wav"], ["a.wav", "b, c.wav", "d.wav", "e.wav"]  # fmt: skip
SIMILARITY = np.array([[0.1, 0.9, 0.5, 0.5], [-0.25, 1 / 3, 0, 1e-7], [0, 0, 0, 1]], np.float32)


@pytest.fixture
def written(tmp_path):
    write_submission(tmp_path, SIMILARITY, QUERIES, ITEMS)
    return tmp_path


def test_files(written):
    scores = json.loads((written / "similarities.json").read_text(encoding="utf-8"))
    assert list(scores) == QUERIES
    assert [list(row) for row in scores.values()] == [ITEMS] * 3
    np.testing.assert_array_equal(np.float32([list(row.values()) for row in scores.values()]), SIMILARITY)
    with open(written / "similarities.csv", newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == ["query", *ITEMS]
    np.testing.assert_array_equal(np.float32([row[1:] for row in rows]), SIMILARITY)
    with open(written / "ranked.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["item"] for row in rows[:4]] == ["b, c.wav", "d.wav", "e.wav", "a.wav"]  # ties as they come
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"] * 3
    assert (rows[8]["query"], rows[8]["item"], float(rows[8]["score"])) == (QUERIES[2], "e.wav", 1.0)
    assert validate_submission(written, QUERIES, ITEMS) == {"queries": 3, "items": 4, "pairs": 12}


def test_ranking_is_stable():
    np.testing.assert_array_equal(ranking(SIMILARITY), [[1, 2, 3, 0], [1, 3, 2, 0], [3, 0, 1, 2]])


@pytest.mark.parametrize(
    ("similarity", "queries", "items", "message"),
    [
        (SIMILARITY[:2], QUERIES, ITEMS, r"similarity \(2, 4\), expected 3 x 4 finite numbers"),
        (np.full((3, 4), np.nan), QUERIES, ITEMS, "expected 3 x 4 finite numbers"),
        (SIMILARITY, ["q1.wav", "q1.wav", "q2.wav"], ITEMS, r"query 'q1\.wav' occurs more than once"),
        (SIMILARITY, QUERIES, ["a.wav", "b.wav", "a.wav", "c.wav"], r"item 'a\.wav' occurs more than once"),
    ],
)
def test_what_cannot_be_written(tmp_path, similarity, queries, items, message):
    with pytest.raises(ValueError, match=message):
        write_submission(tmp_path / "out", similarity, queries, items)
    assert not (tmp_path / "out").exists()


def change_scores(change):
    def apply(folder):
        path = folder / "similarities.json"
        scores = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(change(scores) or scores), encoding="utf-8")

    return apply


def substitute(name, old, new):
    def apply(folder):
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_scores(lambda s: s.pop("q2.wav") and None), r"queries: 1 of 3 are missing \(q2\.wav\)"),
        (change_scores(lambda s: s.update(x={})), r"queries: 1 of 3 are not in the evaluation set \(x\)"),
        (change_scores(lambda s: s["q1.wav"].pop("d.wav") and None), r"query 'q1\.wav', items: 1 of 4 are missing"),
        (change_scores(lambda s: s["q1.wav"].update(x=1)), r"items: 1 of 4 are not in the evaluation set \(x\)"),
        (change_scores(lambda s: s["q1.wav"].update({"a.wav": "high"})), "has score 'high', expected a finite number"),
        (change_scores(lambda s: s["q1.wav"].update({"a.wav": True})), "has score 'True', expected a finite number"),
        (change_scores(lambda s: s["q1.wav"].update({"a.wav": np.nan})), "has score 'nan', expected a finite number"),
        (change_scores(lambda s: s.update({"q1.wav": [1, 2]})), r"has \[1, 2\], expected scores by item"),
        (change_scores(lambda s: [s]), r"expected \{query: \{item: score\}\}"),
        (change_scores(lambda s: s["q1.wav"].update({"a.wav": 0.2})), r"'a\.wav' has 0\.1.*, expected 0\.2 as in"),
        (substitute("similarities.json", '"q2.wav"', '"q1.wav"'), r"key 'q1\.wav' occurs more than once"),
        (substitute("similarities.json", "{", ""), r"similarities\.json: no JSON"),
        (substitute("similarities.csv", "q2.wav", "q1.wav"), r"similarities\.csv: query 'q1\.wav' occurs more than"),
        (substitute("similarities.csv", "d.wav", "x.wav"), r"columns: 1 of 5 are missing \(d\.wav\)"),
        (substitute("similarities.csv", "q2.wav,", "q2.wav,3,"), "rows of other lengths, expected 5 values"),
        (substitute("similarities.csv", "0.333333343", "x"), "score 'x', expected a number"),
        (substitute("ranked.csv", "q1.wav,1", "q1.wav,2"), r"query 'q1\.wav' has other ranks than 1 to 4"),
        (substitute("ranked.csv", "0.899999976", "0.3"), "has scores that rise with the rank"),
        (substitute("ranked.csv", "0.899999976", "0.8"), r"has 0\.8, expected 0\.899999976 as in similarities\.json"),
        (substitute("ranked.csv", "d.wav", "e.wav"), r"item 'e\.wav' occurs more than once"),
        (substitute("ranked.csv", "query,rank", "query,place"), "columns query, place, item, score, expected query"),
        (lambda folder: (folder / "ranked.csv").write_text(""), r"ranked\.csv: empty"),
    ],
)
def test_the_validator_finds(written, damage, message):
    damage(written)
    with pytest.raises(ValueError, match=message) as error:
        validate_submission(written, QUERIES, ITEMS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["similarities.json", "similarities.csv", "ranked.csv"])
def test_missing_files(written, name):
    (written / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}: no such file"):
        validate_submission(written, QUERIES, ITEMS)


def test_evaluation_files(tmp_path):
    for path in ("Items/dog/b.wav", "Items/a.wav", "Queries/x/y/q.wav", "Items/note.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    items, queries = evaluation_files(tmp_path)
    assert items == {"a.wav": tmp_path / "Items/a.wav", "b.wav": tmp_path / "Items/dog/b.wav"}
    assert list(queries) == ["q.wav"]
    (tmp_path / "Items/dog/a.wav").write_bytes(b"")
    with pytest.raises(ValueError, match=r"dog/a\.wav: called like .*Items/a\.wav, expected every file name once"):
        evaluation_files(tmp_path)
    with pytest.raises(FileNotFoundError, match="Items: no such folder"):
        evaluation_files(tmp_path / "Queries")
    (tmp_path / "none" / "Items").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="Items: 0 wav files"):
        evaluation_files(tmp_path / "none")


# -- listening
def page_of(tmp_path, **options):
    items = [write(tmp_path / "Items" / name, tone(300 + 100 * i)) for i, name in enumerate(["a.wav", "b & c.wav"])]
    items.append(write(tmp_path / "Items" / "d.aiff", tone(900)))
    queries = [write(tmp_path / "Queries" / f"q{i}.wav", tone(350)) for i in range(4)]
    similarity = [[0.9, 0.1, 0.2], [0.9, 0.1, 0.2], [0.1, 0.2, 0.3], [0.5, 0.5, 0.5]]
    targets = [items[0], items[1], tmp_path / "Items" / "absent.wav", None]
    entries = listened(similarity, queries, items, targets, labels=["dog", "<cat>", "", ""], top=2)
    return entries, write_listening_page(tmp_path / "out" / "page.html", entries, "Page <1>", **options)


def test_hardest_failures_first(tmp_path):
    entries, _ = page_of(tmp_path)
    assert [(entry.query.name, entry.rank) for entry in hardest_first(entries)] == [
        ("q2.wav", None), ("q1.wav", 3), ("q0.wav", 1), ("q3.wav", None),
    ]  # fmt: skip
    assert [(path.name, score) for path, score in entries[1].found] == [("a.wav", 0.9), ("d.aiff", 0.2)]
    assert (entries[1].score, entries[2].score) == (0.1, None)


def test_page(tmp_path):
    _, page = page_of(tmp_path)
    text = page.read_text(encoding="utf-8")
    heads = re.findall(r"<h2>(.*?)</h2>", text)
    assert heads == [
        "q2.wav: the right sound is not in the collection", "q1.wav (&lt;cat&gt;): right sound at rank 3",
        "q0.wav (dog): right sound at rank 1", "q3.wav: no right sound is known",
    ]  # fmt: skip
    assert "4 queries, mean reciprocal rank 0.4444." in text  # (1 + 1 / 3 + 0) / 3
    sources = re.findall(r'<audio controls preload="none" src="(.*?)">', text)
    assert len(sources) == 3 + 4 + 4 + 3
    assert sources[0] == "../Queries/q2.wav"
    assert "../Items/b%20%26%20c.wav" in sources
    for source in sources:
        assert (page.parent / urllib.parse.unquote(source)).is_file()
    assert "<cat>" not in text
    assert "Page <1>" not in text


def test_page_to_give_away(tmp_path):
    _, page = page_of(tmp_path, copy=True, limit=2)
    sources = re.findall(r'src="(.*?)"', page.read_text(encoding="utf-8"))
    assert {source.split("/")[0] for source in sources} == {"page_sounds"}
    assert len(sources) == 3 + 4
    for source in sources:  # the aiff, too
        assert soundfile.info(page.parent / source).format == "WAV"
    assert "2 are shown" in page.read_text(encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"\(1, 3\) similarities and 1 right sounds, expected those of 1 queries and 2"
    ):
        listened(np.zeros((1, 3)), ["q"], ["a", "b"], [None])
