"""Score files of a split: layout, what is wrong with them, ensembles, and what is reported from them."""

import csv
import logging
from collections import namedtuple
from dataclasses import replace

import h5py
import numpy as np
import pytest

from helpers.caption_metrics import Placement, caption_values
from helpers.caption_report import (
    Retrieved,
    best,
    hardest,
    hardest_table,
    read_submission,
    write_ranks,
    write_retrieval,
    write_submission,
)
from helpers.caption_scores import CaptionScores, caption_scores, ensemble, read_caption_scores
from helpers.evaluation import Bootstrap
from helpers.files import clip_id

MODEL = {"arch": "cnn14", "checkpoint": "a.ckpt"}


class Clip(namedtuple("Clip", "file captions")):
    """As of data_util.captions."""

    @property
    def clip(self):
        return clip_id(self.file)


def make_rows(clips=12):
    """Clips with one to three captions; a name with blanks and one that is not ASCII."""
    names = ["Blade Big.wav", "Grüße, Straße.wav", *(f"clip {n}.wav" for n in range(2, clips))]
    captions = [[f"caption {k}, of «{clip_id(name)}»" for k in range(1 + n % 3)] for n, name in enumerate(names)]
    return [Clip(name, tuple(texts)) for name, texts in zip(names, captions)]


def make(rows, split="evaluation", seed=0, **options):
    captions = sum(len(row.captions) for row in rows)
    scores = np.random.default_rng(seed).normal(size=(captions, len(rows)))
    return caption_scores(split, rows, scores, model=MODEL, **options)


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.fixture
def rows():
    return make_rows()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scores" / "evaluation.hdf5"


# -- files


def test_round_trip(rows, path):
    scores = make(rows)
    assert scores.write(path) == path
    first = path.read_bytes()
    found = read_caption_scores(path, "evaluation", rows)
    assert (found.split, found.files, found.captions, found.ids, found.model, found.name) == (
        "evaluation", tuple(row.file for row in rows), scores.captions, scores.ids, MODEL, str(path)
    )  # fmt: skip
    assert found.ids[:6] == (
        "Blade Big#1", "Grüße, Straße#1", "Grüße, Straße#2", "clip 2#1", "clip 2#2", "clip 2#3"
    )  # fmt: skip
    assert found.owners[:3] == ("Blade Big", "Grüße, Straße", "Grüße, Straße")
    assert found.scores.dtype == np.float32
    np.testing.assert_array_equal(found.scores, scores.scores)
    np.testing.assert_array_equal(found.relevant, np.array(found.owners)[:, None] == np.array(found.clips))
    found.write(path)
    assert path.read_bytes() == first
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_is_written_whole_or_not_at_all(rows, path, monkeypatch):
    make(rows).write(path)
    before = path.read_bytes()

    def fails(*arguments, **options):
        raise RuntimeError("no space")

    monkeypatch.setattr(h5py.File, "create_dataset", fails)
    with pytest.raises(RuntimeError, match="no space"):
        make(rows, seed=1).write(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_scores_of_some_clips_and_several_right_ones(rows, path, caplog):
    relevant = np.zeros((24, 12), bool)
    relevant[np.arange(24), np.repeat(np.arange(12), [len(row.captions) for row in rows])] = True
    relevant[3, 0] = True
    captions, clips = [0, 3, 23], [0, 11]  # clips 1 to 10 cannot be read
    caption_scores("evaluation", rows, [[1, 2], [3, 4], [5, 6]], captions, clips, relevant).write(path)
    with caplog.at_level(logging.WARNING):
        found = read_caption_scores(path, rows=rows)
    assert found.ids == ("Blade Big#1", "clip 2#1", "clip 11#3")
    assert found.owners == ("Blade Big", "clip 2", "clip 11")  # one of them has no scores
    assert found.relevant.tolist() == [[True, False], [True, False], [False, True]]
    assert caplog.messages == [f"{path}: no scores of 10 of 12 clips, first 'Grüße, Straße'"]


def refusal(call):
    with pytest.raises(ValueError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_splits_clips_and_captions(rows, path):
    make(rows).write(path)
    message = refusal(lambda: read_caption_scores(path, "validation"))
    assert message == f"{path}: scores of the split 'evaluation', expected 'validation'"
    fewer = refusal(lambda: read_caption_scores(path, "evaluation", rows[2:]))
    assert fewer == (f"{path}: 2 of 12 clips are not in the split 'evaluation' of the data set, first 'Blade Big'")
    other = [Clip("Blade Big.wav", ("caption 0, of «Blade Big».",)), *rows[1:]]
    assert refusal(lambda: read_caption_scores(path, rows=other)) == (
        f"{path}: caption 'Blade Big#1' is 'caption 0, of «Blade Big»', expected 'caption 0, of «Blade Big».'"
    )
    shorter = [*rows[:-1], Clip(rows[-1].file, rows[-1].captions[:1])]
    assert refusal(lambda: read_caption_scores(path, rows=shorter)) == (
        f"{path}: 2 of 24 captions are not in the split 'evaluation' of the data set, first 'clip 11#2'"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.pop("right"), "no entry 'right', expected scores, caption_ids, captions, files, right, "),
        (lambda file: file["scores"].__setitem__((3, 2), np.nan), "NaN or infinite scores of 1 of 24 captions, first"),
        (lambda file: file["right"].__setitem__((0, 1), 12), "right is no list of pairs of one of 24 captions and"),
        (lambda file: file["files"].__setitem__(1, b"Blade Big.wav"), "clip 'Blade Big' is there twice, expected once"),
        (lambda file: file["caption_ids"].__setitem__(1, b"clip 3#1"), "caption 'clip 3#1' is there twice, expected"),
    ],
    ids=["entry", "nan", "right", "clips", "captions"],
)  # fmt: skip
def test_broken_files(rows, path, change, message):
    make(rows).write(path)
    with h5py.File(path, "r+") as file:
        change(file)
    assert refusal(lambda: read_caption_scores(path)).startswith(f"{path}: {message}")


def test_files_that_are_none(rows, path):
    with pytest.raises(FileNotFoundError, match="no file of audio-text scores "):
        read_caption_scores(path)
    make(rows).write(path)
    path.write_bytes(path.read_bytes()[:900])
    assert refusal(lambda: read_caption_scores(path)).startswith(f"{path}: not readable as HDF5 (")


def test_sizes_that_do_not_fit():
    message = refusal(lambda: CaptionScores("s", ("a.wav",), ("x", "y"), ("a#1",), [[1]], [[True]]))
    assert message == "scores: scores (1, 1) and right clips (1, 1) of 2 captions, expected (1, 1): captions, clips"
    message = refusal(lambda: CaptionScores("s", (), ("x",), ("a#1",), np.zeros((1, 0)), np.zeros((1, 0))))
    assert message == "scores: 1 captions and 0 clips, expected at least 1 of each"


# -- ensembles


def shuffled(scores, seed=0):
    rng = np.random.default_rng(seed)
    captions, clips = rng.permutation(len(scores.ids)), rng.permutation(len(scores.files))

    def pick(names, order):
        return tuple(names[number] for number in order)

    return CaptionScores(
        scores.split, pick(scores.files, clips), pick(scores.captions, captions), pick(scores.ids, captions),
        scores.scores[np.ix_(captions, clips)], scores.relevant[np.ix_(captions, clips)], scores.model, "shuffled",
    )  # fmt: skip


def test_members_are_aligned_by_name(rows):
    one, two = make(rows), make(rows, seed=1)
    both = ensemble([one, shuffled(two)])
    np.testing.assert_allclose(both.scores, (one.scores + two.scores) / 2, atol=1e-6)
    assert (both.ids, both.files, both.name) == (one.ids, one.files, "ensemble")
    assert both.model == {"ensemble": [MODEL, MODEL], "weights": [1, 1], "normalise": "none"}
    weighted = ensemble([one, shuffled(two)], [3, 1])
    np.testing.assert_allclose(weighted.scores, 0.75 * one.scores + 0.25 * two.scores, atol=1e-6)
    np.testing.assert_array_equal(ensemble([one, shuffled(two)], [1, 0]).scores, one.scores)
    for mixed, own in ((shuffled(both), both), (shuffled(one), one)):
        assert Retrieved.of(mixed).values() == pytest.approx(Retrieved.of(own).values(), abs=1e-12)


@pytest.mark.parametrize(("normalise", "axes"), [("all", (0, 1)), ("caption", (1,))])
def test_normalisation(rows, normalise, axes):
    one, two = make(rows), make(rows, seed=1)
    two = replace(two, scores=100 * two.scores + 7)
    expected = 0
    for member in (one, two):
        x = member.scores.astype(np.float64)
        x -= x.mean(axis=axes, keepdims=True)
        expected += x / np.sqrt((x**2).mean(axis=axes, keepdims=True)) / 2
    found = ensemble([one, shuffled(two)], normalise=normalise)
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)
    same = replace(one, scores=np.full_like(one.scores, 3))
    np.testing.assert_array_equal(ensemble([same], normalise=normalise).scores, 0)


def test_members_that_do_not_fit(rows):
    one, other = make(rows), make(rows, "validation")
    assert refusal(lambda: ensemble([one, other])) == (
        "scores of the split 'validation': scores of the split 'validation', expected 'evaluation'"
    )
    few = caption_scores("evaluation", rows, one.scores[:, 1:], clips=range(1, 12))
    name = "scores of the split 'evaluation'"
    assert refusal(lambda: ensemble([one, few])) == f"{name}: 1 of 12 clips are not in {name}, first 'Blade Big'"
    assert refusal(lambda: ensemble([few, one])) == f"{name}: 1 of 12 clips are not in {name}, first 'Blade Big'"
    text = replace(one, captions=("another", *one.captions[1:]), name="b")
    assert refusal(lambda: ensemble([one, text])) == f"b: caption 'Blade Big#1' is another text than in {name}"
    right = replace(one, relevant=np.ones_like(one.relevant), name="c")
    assert refusal(lambda: ensemble([one, right])) == f"c: other clips are right for the captions than in {name}"
    assert refusal(lambda: ensemble([])) == "0 score files, expected at least 1"
    for weights in ([1], [1, -1], [0, 0], [1, np.nan]):
        message = refusal(lambda weights=weights: ensemble([one, one], weights))
        assert message.endswith("expected one per score file (2), none below 0")
    message = refusal(lambda: ensemble([one], normalise="rank"))
    assert message == "normalise is 'rank', expected one of none, all, caption"


def test_scores_in_the_order_of_a_data_set(rows):
    scores = make(rows)
    order = [5, 1, 8]
    found = shuffled(scores).matrix_of([rows[number] for number in order])
    captions = [n for number in order for n, owner in enumerate(scores.owners) if owner == rows[number].clip]
    np.testing.assert_array_equal(found, scores.scores[np.ix_(captions, order)])
    message = refusal(lambda: scores.matrix_of([*rows, Clip("new.wav", ("a",))]))
    assert message == "the data set: 1 of 25 captions are not in scores of the split 'evaluation', first 'new#1'"


# -- reports


def test_values_and_intervals(rows):
    scores = make(rows)
    found = Retrieved.of(scores)
    assert found.values() == pytest.approx(caption_values(scores.scores, scores.relevant))
    bootstrap = Bootstrap(50, 3)
    by_metric = {row.metric: row for row in found.rows("model", bootstrap)}
    assert list(by_metric) == [p + m for p in ("", "a2t/") for m in ("mAP@10", "mAP@16", "R@1", "R@5", "R@10")]
    # resampled clips bring all their captions
    precision = found.to_audio.average_precision(10)
    owners, rng = np.array([scores.clips.index(clip) for clip in scores.owners]), np.random.default_rng(3)
    draws = rng.multinomial(12, np.full(12, 1 / 12), size=50)[:, np.argsort(np.argsort(scores.clips))]
    means = [np.average(precision, weights=draw[owners]) for draw in draws]
    row = by_metric["mAP@10"]
    assert (row.dataset, row.computed_by, row.value) == ("model", "ours", pytest.approx(precision.mean()))
    assert (row.low, row.high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))
    for row in by_metric.values():
        assert row.low <= row.value <= row.high


def test_chance(rows):
    found = Retrieved.of(make(rows)).chance()
    harmonic = np.sum(1 / np.arange(1, 11)) / 12
    assert found.values()["mAP@10"] == pytest.approx(harmonic)
    assert found.values()["R@5"] == pytest.approx(5 / 12)
    assert found.values()["a2t/R@5"] == pytest.approx(5 / 24)
    np.testing.assert_allclose(found.to_audio.recall_curve(), np.arange(1, 13) / 12)


def hand_made():
    rows = [Clip("a.wav", ("first, of a",)), Clip("b.wav", ("of b", "of b, too")), Clip("c.wav", ("of c",))]
    scores = [[9, 5, 1], [3, 2, 1], [0, 4, 4], [8, 7, 6]]
    return rows, caption_scores("test", rows, scores)


def test_ranks_of_every_query(tmp_path):
    _, scores = hand_made()
    found = Retrieved.of(scores)
    to_audio, to_text = write_ranks(found, tmp_path)
    assert table(to_audio) == [
        ["caption_id", "caption", "rank", "AP@10", "right", "retrieved"],
        ["a#1", "first, of a", "1", "1", "a.wav", "a.wav | b.wav | c.wav"],
        ["b#1", "of b", "2", "0.5", "b.wav", "a.wav | b.wav | c.wav"],
        ["b#2", "of b, too", "1.5", "0.75", "b.wav", "b.wav | c.wav | a.wav"],
        ["c#1", "of c", "3", "0.333333", "c.wav", "a.wav | b.wav | c.wav"],
    ]
    assert table(to_text)[1:] == [
        ["a.wav", "1", "1", "first, of a", "first, of a | of c | of b"],
        ["b.wav", "3", "0.416667", "of b | of b, too", "of c | first, of a | of b, too"],
        ["c.wav", "1", "1", "of c", "of c | of b, too | first, of a"],
    ]
    assert [row[0] for row in hardest(found, 2)] == ["c#1", "b#1"]
    assert hardest_table(found, 2).row_count == 2
    nothing = Retrieved.of(replace(scores, relevant=scores.relevant & [True, True, False]))
    assert table(write_ranks(nothing, tmp_path)[0])[4][2:5] == ["", "0", ""]
    assert len(hardest(nothing)) == 3


def test_best_of_equal_scores_is_the_earlier():
    assert best(np.array([[1, 3, 3, 2, 3]]), 4).tolist() == [[1, 2, 4, 3]]


def test_system_output(rows, tmp_path):
    scores = make(rows)
    path = write_submission(scores, tmp_path / "evaluation.t2a_retrieval.csv")
    head, *lines = table(path)
    assert head == ["caption", *(f"fname_{k}" for k in range(1, 11))]
    assert [line[0] for line in lines] == list(scores.captions)
    order = np.argsort(-scores.scores[4])[:10]
    assert lines[4][1:] == [rows[number].file for number in order]

    found = read_submission(path, "evaluation", rows)
    own, others = Retrieved.of(scores), Retrieved.of(found)
    for metric in ("mAP@10", "R@1", "R@5", "R@10"):
        np.testing.assert_allclose(others.to_audio.measures()[metric], own.to_audio.measures()[metric], atol=1e-12)
    assert (found.name, found.model) == (str(path), {"submission": path.name})
    few = caption_scores("test", rows[:3], np.arange(18).reshape(6, 3))
    assert table(write_submission(few, path))[1] == ["caption 0, of «Blade Big»", *(row.file for row in rows[2::-1])]


def test_equal_captions_have_a_row_each(tmp_path):
    rows = [Clip("a.wav", ("wind", "wind")), Clip("b.wav", ("wind",)), Clip("c.wav", ("rain",))]
    scores = caption_scores("test", rows, [[3, 2, 1], [1, 3, 2], [3, 1, 2], [2, 1, 3]])
    found = read_submission(write_submission(scores, tmp_path / "out.csv"), "test", rows)
    np.testing.assert_array_equal(found.scores, scores.scores)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[0].reverse(), ": columns fname_10, fname_9"),
        (lambda rows: rows.clear(), ": columns none, expected caption, fname_1, .. fname_10"),
        (lambda rows: rows[3].__setitem__(0, "Rain"), ", row 4: caption 'Rain' is not in the split 'evaluation', or"),
        (lambda rows: rows[3].__setitem__(0, rows[2][0]), ", row 4: caption 'caption 0, of «Grüße, Straße»' is not in"),
        (lambda rows: rows[3].__setitem__(2, "x.wav"), ", row 4: file 'x.wav' is not in the split 'evaluation'"),
        (lambda rows: rows[3].__setitem__(2, rows[3][1]), ", row 4: 9 different files, expected 10"),
        (lambda rows: rows[3].pop(), ", row 4: 9 different files, expected 10"),
        (lambda rows: rows.pop(), ": 1 captions of the split 'evaluation' have no row, first 'caption 2, of «c"),
    ],
)  # fmt: skip
def test_wrong_system_output(rows, tmp_path, change, message):
    path = write_submission(make(rows), tmp_path / "out.csv")
    lines = table(path)
    change(lines)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)
    assert refusal(lambda: read_submission(path, "evaluation", rows)).startswith(f"{path}{message}")


def test_everything_is_written(rows, tmp_path):
    one, two = make(rows), make(rows, seed=1)
    systems = {"first": one, "second": two, "ensemble": ensemble([one, two])}
    values, files = write_retrieval(systems, tmp_path / "out", Bootstrap(10), "evaluation")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(file.name for file in files)
    assert {file.name for file in files} == {
        "evaluation.csv", "evaluation.md", "recall.png", "text_to_audio.csv", "audio_to_text.csv", "hardest.csv",
        "evaluation.t2a_retrieval.csv",
    }  # fmt: skip
    by_system = {row.dataset: row for row in values if row.metric == "mAP@10"}
    assert list(by_system) == ["first", "second", "ensemble", "chance"]
    expected = Placement(one.scores + two.scores, one.relevant).average_precision(10).mean()
    assert by_system["ensemble"].value == pytest.approx(expected)
    assert np.isnan(by_system["chance"].low)
    stored = {(row[0], row[1]): row[3] for row in table(tmp_path / "out" / "evaluation.csv")}
    assert float(stored["ensemble", "mAP@10"]) == by_system["ensemble"].value
    assert (tmp_path / "out" / "recall.png").read_bytes().startswith(b"\x89PNG")
    assert len(table(tmp_path / "out" / "hardest.csv")) == 21


def test_published_baseline(real_data):
    """The system output of the DCASE 2022 baseline has the published values."""
    import json

    from data_util.captions import read_captions

    folder = real_data / "scores" / "clotho_retrieval_dcase2022_baseline"
    if not folder.is_dir():
        pytest.skip(f"no system output at {folder}")
    clips = read_captions(real_data / "clotho" / "clotho_captions_evaluation.csv")
    found = Retrieved.of(read_submission(folder / "test.output.csv", "evaluation", clips)).values()
    expected = json.loads((folder / "expected.json").read_text())
    for metric in ("R@1", "R@5", "R@10", "mAP@10"):
        assert found[metric] == pytest.approx(expected[metric.replace("R@", "recall@").replace("@", "_at_")], abs=1e-12)
