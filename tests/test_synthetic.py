"""Mixing of generated audio with originals, by the published rules."""

import itertools
import logging

import pytest

from data_util.caption_text import published_clip_id, text_rows
from data_util.captions import Captioned
from data_util.errors import DataMissing
from data_util.synthetic import (
    COLUMNS,
    chunk,
    find_generated,
    generated_name,
    missing_generated,
    mix,
    require_generated,
    without_generated,
)
from tests.reference import golden


@pytest.fixture(scope="module")
def published():
    """(stored expectations, originals, their paths, their generated clips)."""
    stored = golden("lbar/ids.json")
    table = {}
    for file, raw, _ in stored["captions"]:
        table.setdefault(file, []).append(raw)
    listed = [Captioned(file, tuple(captions)) for file, captions in table.items()]
    rows, _ = without_generated(listed, listed)
    there = {column: stored["files"][f"./data/Clotho_caption_{column}"] for column in COLUMNS}
    generated = [
        {
            column: f"./data/Clotho_caption_{column}/development/{generated_name(row.file, column)}"
            for column in COLUMNS
            if generated_name(row.file, column) in there[column]
        }
        for row in rows
    ]
    return stored, rows, [f"./data/Clotho/development/{row.file}" for row in rows], generated


def test_selection_as_published(published):
    stored, rows, paths, generated = published
    assert len(rows) == 5
    for name, selected in stored["selected"].items():
        _, factor, _, seed = name.split("_")
        mixture = mix(rows, paths, generated, int(factor), int(seed))
        ours = [(published_clip_id(clip.path), clip.row.file) for clip in mixture]
        assert ours == list(selected["development"].items()), name


def test_id_table_of_a_mixture_as_published(published):
    stored, *collection = published
    mixture = mix(*collection, replication_factor=3, seed=24)
    rows = text_rows([clip.row for clip in mixture], [published_clip_id(clip.path) for clip in mixture])
    ours = sorted((row.fid, row.tid, row.fname, row.raw_text, row.text, str(row.tokens)) for row in rows)
    expected = stored["text_frames"]["development"]
    assert ours == sorted(
        tuple(row[key] for key in ("fid", "tid", "fname", "raw_text", "text", "tokens")) for row in expected
    )


def test_generated_clips_have_their_own_caption(published):
    _, rows, paths, generated = published
    for clip in mix(rows, paths, generated, 5):
        original = rows[clip.original]
        if clip.column:
            assert clip.row.captions == (original.captions[clip.column - 1],)
            assert clip.path == generated[clip.original][clip.column]
        else:
            assert (clip.row, clip.path) == (original, paths[clip.original])


def test_generated_clips_alone_are_the_same_draws(published):
    _, *collection = published
    both = mix(*collection, replication_factor=2, seed=88)
    alone = mix(*collection, replication_factor=2, seed=88, originals=False)
    assert alone == [clip for clip in both if clip.column]


def test_larger_factors_contain_smaller_ones(published):
    _, *collection = published
    chosen = [{clip.row.file for clip in mix(*collection, replication_factor=factor)} for factor in COLUMNS]
    assert all(small < large for small, large in itertools.pairwise(chosen))


@pytest.mark.parametrize("factor", [0, 6, 2.5])
def test_factor_is_checked(published, factor):
    with pytest.raises(ValueError, match=r"data.replication_factor is .*, expected 1 to 5"):
        mix(*published[1:], replication_factor=factor)


def test_generated_files_are_found_in_both_layouts(tmp_path):
    rows = [Captioned("Größe 1.wav", ("a", "b", "c", "d", "e")), Captioned(" x.wav", ("a", "b", "c", "d", "e"))]
    (tmp_path / "Clotho_caption_2/development").mkdir(parents=True)
    (tmp_path / "Clotho_caption_2/development/Größe 1_cap_2.wav").touch()
    (tmp_path / "Clotho_caption_1").mkdir()
    (tmp_path / "Clotho_caption_1/x_cap_1.wav").touch()
    found = find_generated(rows, tmp_path / "Clotho_caption_{column}")
    assert [sorted(own) for own in found] == [[2], [1]]
    assert found[0][2].endswith("Clotho_caption_2/development/Größe 1_cap_2.wav")
    one = find_generated(rows, tmp_path / "Clotho_caption_1")
    assert [sorted(own) for own in one] == [[], [1]]
    with pytest.raises(DataMissing, match=r"no folder of generated audio"):
        find_generated(rows, tmp_path / "none")


def test_missing_files_are_listed(caplog):
    rows = [Captioned("a.wav", ("x",) * 5), Captioned("b.wav", ("y",) * 5)]
    generated = [{1: "a1", 2: "a2", 3: "a3", 4: "a4", 5: "a5"}, {2: "b2", 4: "b4"}]
    names = ["b_cap_1.wav", "b_cap_3.wav", "b_cap_5.wav"]
    assert missing_generated(rows, generated) == names
    with pytest.raises(DataMissing, match=r"3 generated audio files are not there, and 1 of 2 clips .*'b_cap_1.wav'"):
        require_generated(rows, generated, 3, "wavs")
    with caplog.at_level(logging.WARNING):
        assert require_generated(rows, generated, 2, "wavs") == names
        assert require_generated(rows, generated, 3, "wavs", on_missing="skip") == names
    assert caplog.text.count("'b_cap_5.wav'") == 2
    assert [len(mix(rows, ["a", "b"], generated, factor)) for factor in (1, 2, 3)] == [4, 6, 7]


def test_chunks_of_the_comparison_of_seeds():
    parts = [chunk(range(3839), number) for number in range(1, 11)]
    assert [len(part) for part in parts] == [384] * 9 + [383]
    assert [value for part in parts for value in part] == list(range(3839))
    with pytest.raises(ValueError, match=r"data.chunk is 11, expected 1 to 10"):
        chunk(range(3839), 11)
