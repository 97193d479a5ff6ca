"""Submission files hold the scores they are given; the validator names the file and what is wrong with it."""

import os

import numpy as np
import pandas as pd
import pytest

from helpers.scores import ScoreTable
from helpers.submission import output_folders, validate_submission, write_events, write_submission

SYSTEM = "Somebody_Somewhere_task4_1"
CLIPS, LABELS = ("Ya_30.000_40.000", "b-0-1000"), ("Cat", "door opens/closes")
DURATIONS = {"Ya_30.000_40.000": 0.2, "b-0-1000": 0.13}
TIMES = np.array([0.0, 0.064, 0.128, 0.192])


def scores(factor=1.0, clips=CLIPS, labels=LABELS):
    values = np.linspace(0, 0.9, len(clips) * 3 * len(labels), dtype=np.float32) * np.float32(factor)
    return ScoreTable(tuple(clips), values.reshape(len(clips), 3, len(labels)), TIMES, tuple(labels))


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def system(tmp_path):
    """A correct submission of one run, not cut to the durations."""
    return write_submission(tmp_path, SYSTEM, scores(), scores(0.5), durations=DURATIONS)


def check(system, clips=CLIPS, durations=None, labels=LABELS, **options):
    validate_submission(system, clips, DURATIONS if durations is None else durations, labels, **options)


def test_files_of_a_submission(tmp_path):
    table = ScoreTable(("a",), np.float32([[[0.1, 1e-8], [1.0, 0.0]]]), np.array([0.0, 0.064, 0.128]), LABELS)
    frame = pd.DataFrame({"onset": [0.0, 0.1], "offset": [0.1, 0.128], "Cat": [0.25, 0], "door opens/closes": [1, 0.5]})
    folder = write_submission(tmp_path / "out", SYSTEM, table, {"a": frame})
    assert folder == tmp_path / "out" / SYSTEM
    assert tree(tmp_path) == {
        f"out/{SYSTEM}/{SYSTEM}_run1.output/a.tsv": b"onset\toffset\tCat\tdoor opens/closes\n"
        b"0.000000\t0.100000\t0.25\t1\n0.100000\t0.128000\t0\t0.5\n",
        f"out/{SYSTEM}/{SYSTEM}_run1_unprocessed.output/a.tsv": b"onset\toffset\tCat\tdoor opens/closes\n"
        b"0.000000\t0.064000\t0.100000001\t9.99999994e-09\n0.064000\t0.128000\t1\t0\n",
    }


def test_sed_scores_eval_reads_exactly_what_was_given(tmp_path):
    from sed_scores_eval.base_modules.io import read_sed_scores

    values = np.random.default_rng(0).random((2, 3, 2), dtype=np.float32) ** 8
    table = ScoreTable(CLIPS, values, TIMES, LABELS)
    folder = write_submission(tmp_path, SYSTEM, table, table)
    found = read_sed_scores(output_folders(folder)[1])
    assert sorted(found) == sorted(CLIPS)
    for clip, expected in zip(CLIPS, values):
        assert list(found[clip]) == ["onset", "offset", *LABELS]
        np.testing.assert_array_equal(found[clip][list(LABELS)].to_numpy(np.float32), expected)
        np.testing.assert_array_equal(found[clip]["offset"], TIMES[1:])


def test_scores_end_with_the_clip(system):
    check(system)
    rows = (output_folders(system)[0] / "b-0-1000.tsv").read_text().splitlines()
    assert [row.split("\t")[:2] for row in rows[1:]] == [
        ["0.000000", "0.064000"],
        ["0.064000", "0.128000"],
        ["0.128000", "0.130000"],
    ]
    cut = write_submission(system.parent, SYSTEM, scores(), scores(), durations=dict.fromkeys(CLIPS, 0.064))
    assert len((output_folders(cut)[1] / "b-0-1000.tsv").read_text().splitlines()) == 2


def test_the_same_scores_give_the_same_bytes(tmp_path):
    first = write_submission(tmp_path / "first", SYSTEM, scores(), scores(0.5))
    second = write_submission(tmp_path / "second", SYSTEM, scores().data_frames(), scores(0.5).data_frames())
    assert tree(first) == tree(second)


def test_a_run_is_replaced_and_others_stay(system):
    write_submission(system.parent, SYSTEM, scores(), scores(0.5), run=2, durations=DURATIONS)
    before = tree(system)
    check(system, runs=2)
    one = CLIPS[:1]
    write_submission(system.parent, SYSTEM, scores(0.1, one), scores(0.2, one), run=2)
    after = tree(system)
    assert {name: data for name, data in after.items() if "_run1" in name} == {
        name: data for name, data in before.items() if "_run1" in name
    }
    assert [name for name in after if "_run2" in name] == [
        f"{SYSTEM}_run2.output/{one[0]}.tsv",
        f"{SYSTEM}_run2_unprocessed.output/{one[0]}.tsv",
    ]
    assert len(list(system.iterdir())) == 4


def test_a_failure_leaves_what_was_there(system):
    before = tree(system)
    broken = {**scores(0.1).data_frames(), CLIPS[1]: scores(0.1, labels=("Dog",)).data_frames()[CLIPS[1]]}
    with pytest.raises(ValueError, match="clip 'b-0-1000' has the columns onset, offset, Dog, others have onset"):
        write_submission(system.parent, SYSTEM, scores(0.1), broken)
    with pytest.raises(ValueError, match="has the columns onset, offset, Dog"):
        write_submission(system.parent, SYSTEM, scores(labels=("Dog",)), scores(0.1))
    assert tree(system.parent) == {f"{SYSTEM}/{name}": data for name, data in before.items()}


def test_a_failed_rename_brings_the_old_folder_back(system, monkeypatch):
    before, rename = tree(system), os.replace

    def fails(source, target):
        if str(source).endswith(".partial"):
            raise OSError("disk full")
        rename(source, target)

    monkeypatch.setattr("os.replace", fails)
    with pytest.raises(OSError, match="disk full"):
        write_submission(system.parent, SYSTEM, scores(0.1), scores(0.1))
    assert tree(system) == before
    assert len(list(system.iterdir())) == 2


@pytest.mark.parametrize(
    ("raw", "processed", "options", "message"),
    [
        (CLIPS[:1], CLIPS, {}, "clip 'b-0-1000' has no unprocessed scores (1 of 2 clips have none)"),
        (CLIPS, CLIPS[1:], {}, "clip 'Ya_30.000_40.000' has no processed scores (1 of 2 clips have none)"),
        (("a", "a"), ("a",), {}, "clip 'a' is there 2 times"),
        (("x/a",), ("x/a",), {}, "clip 'x/a' cannot be the name of a file"),
        (("a",), ("a",), {"durations": {"b": 1.0}}, "no duration of clip 'a' among the 1 given"),
    ],
)
def test_writing_what_cannot_be_written(tmp_path, raw, processed, options, message):
    with pytest.raises(ValueError) as error:
        write_submission(tmp_path, SYSTEM, scores(clips=raw), scores(clips=processed), **options)
    assert str(error.value) == message
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("name", ["me", "a_b_task4", "a_b_c_task4_1", "a_b_task3_1"])
def test_names_of_systems(tmp_path, name):
    with pytest.raises(ValueError) as error:
        write_submission(tmp_path, name, scores(), scores())
    assert str(error.value) == f"system '{name}' is not named <author>_<affiliation>_task4_<index>"


HEAD = "onset\toffset\tCat\tdoor opens/closes\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD.replace("door opens/closes", "Cat") + "0\t0.2\t0\t0\n", "twice the column 'Cat'"),
        ("onset\toffset\tCat\n0\t0.2\t0\n", "no column 'door opens/closes'"),
        (HEAD[:-1] + "\tDog\n0\t0.2\t0\t0\t0\n", "an unknown column 'Dog'"),
        ("onset\toffset\tdoor opens/closes\tCat\n0\t0.2\t0\t0\n",
         "the classes are in another order, starting with 'door opens/closes'"),
        ("offset\tonset\tCat\tdoor opens/closes\n0\t0.2\t0\t0\n",
         "the first columns are offset, onset, expected onset, offset"),
        (HEAD + "0.064\t0.2\t0\t0\n", "the first frame starts at 0.064 s, expected 0"),
        (HEAD + "0\t0.064\t0\t0\n0.128\t0.2\t0\t0\n", "frame 1 starts at 0.128 s, the one before ends at 0.064 s"),
        (HEAD + "0\t0.1\t0\t0\n0.1\t0.1\t0\t0\n0.1\t0.2\t0\t0\n", "frame 1 ends at 0.1 s, not after its start"),
        (HEAD + "0\tnan\t0\t0\n", "an onset or offset is no finite number"),
        (HEAD + "0\t0.13\t0\t0\n", "the last frame ends at 0.13 s, the clip at 0.2 s"),
        (HEAD + "0\t0.27\t0\t0\n", "the last frame ends at 0.27 s, the clip at 0.2 s"),
        (HEAD + "0\t0.1\t0\t0\n0.1\t0.2\t0\tnan\n", "score nan of 'door opens/closes' in frame 1 is not in 0..1"),
        (HEAD + "0\t0.2\tinf\t0\n", "score inf of 'Cat' in frame 0 is not in 0..1"),
        (HEAD + "0\t0.2\t-0.5\t0\n", "score -0.5 of 'Cat' in frame 0 is not in 0..1"),
        (HEAD + "0\t0.2\t0\t1.5\n", "score 1.5 of 'door opens/closes' in frame 0 is not in 0..1"),
        ("", "no frames"),
        (HEAD, "no frames"),
        (HEAD + "0\t0.2\t0\n", "rows of 3 values below 4 columns"),
    ],
)  # fmt: skip
def test_validator_names_file_and_fault(system, text, message):
    path = output_folders(system)[1] / "Ya_30.000_40.000.tsv"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        check(system)
    assert str(error.value) == f"{path}: {message}"


@pytest.mark.parametrize("data", [b"onset\toffset\n0\thello\n", b"\xff\xfe\x00", b"onset\toffset\n0\t1\n0\n"])
def test_validator_reads_only_tables(system, data):
    path = output_folders(system)[0] / "b-0-1000.tsv"
    path.write_bytes(data)
    with pytest.raises(ValueError) as error:
        check(system)
    assert str(error.value).startswith(f"{path}: unreadable as tsv: ")
    assert "\n" not in str(error.value)


def test_validator_compares_clips(system):
    processed, raw = output_folders(system)
    with pytest.raises(ValueError) as error:
        check(system, clips=[*CLIPS, "c"])
    assert str(error.value) == f"{processed / 'c.tsv'}: missing (1 of 3 clips have no file)"
    with pytest.raises(ValueError) as error:
        check(system, clips=CLIPS[:1])
    extra = processed / "b-0-1000.tsv"
    assert str(error.value) == f"{extra}: belongs to no clip of the set (1 of 2 files)"
    with pytest.raises(ValueError, match="no duration of clip 'b-0-1000' among the 1 given"):
        check(system, durations={CLIPS[0]: 0.2})
    (raw / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"notes\.txt: belongs to no clip"):
        check(system)


def test_validator_wants_both_folders_of_every_run(system, tmp_path):
    with pytest.raises(ValueError, match=f"{SYSTEM}_run2.output: no such folder"):
        check(system, runs=3)
    raw = output_folders(system)[1]
    raw.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError) as error:
        check(system)
    assert str(error.value) == f"{raw}: no such folder"
    with pytest.raises(ValueError, match="system 'elsewhere' is not named"):
        check(tmp_path / "elsewhere")


def test_the_last_frame_may_miss_the_end_by_one_frame(system):
    longer = {CLIPS[0]: 0.256, CLIPS[1]: 0.13}
    check(system, durations=longer)
    with pytest.raises(ValueError, match=r"the last frame ends at 0.192 s, the clip at 0.256 s"):
        check(system, durations=longer, tolerance=0.04)


BOXES = {
    "b": [(1.5, 2.0, "Dog", 0.25), (0.0, 0.5124, "Cat", 1.0)],
    "a": [],
}


def test_list_of_events(tmp_path):
    path = write_events(tmp_path / "new" / "events.tsv", BOXES)
    assert path.read_bytes() == (
        b"filename\tonset\toffset\tevent_label\tconfidence\n"
        b"a.wav\t\t\t\t\n"
        b"b.wav\t0.000\t0.512\tCat\t1.000000\n"
        b"b.wav\t1.500\t2.000\tDog\t0.250000\n"
    )
    assert write_events(tmp_path / "events.csv", BOXES).read_text().splitlines()[1:3] == [
        "a.wav,,,,",
        "b.wav,0.000,0.512,Cat,1.000000",
    ]


def test_a_list_of_events_is_read_back(tmp_path):
    from helpers.scores import events_of_table

    table = pd.read_csv(write_events(tmp_path / "events.tsv", BOXES), sep="\t")
    assert events_of_table(table) == {"a": [], "b": [(0.0, 0.512, "Cat"), (1.5, 2.0, "Dog")]}
    assert events_of_table(table, above=0.5)["b"] == [(0.0, 0.512, "Cat")]


@pytest.mark.data
def test_real_challenge_scores_are_valid(real_data, tmp_path):
    """The scores of a system that took part, in the folders of a submission."""
    from sed_scores_eval.base_modules.io import read_audio_durations, read_sed_scores

    folder = real_data / "scores" / "dcase2023_task4a_baseline2_run1"
    found, durations = read_sed_scores(folder / "scores"), read_audio_durations(folder / "audio_durations.tsv")
    labels = list(next(iter(found.values())))[2:]
    system = write_submission(tmp_path, SYSTEM, found, found, durations=durations)
    validate_submission(system, found, durations, labels)
    again = read_sed_scores(output_folders(system)[0])
    for clip, frame in found.items():
        np.testing.assert_allclose(again[clip][labels], frame[labels][: len(again[clip])], rtol=1e-8, atol=0)
