"""Files of predictions: reading, what is wrong with them, storing that is killed."""

import os
import re
import signal
import sys
import time

import h5py
import numpy as np
import pytest

from helpers.predictions import BLOCK, Partial, StoredPredictions

FRAMES, CLASSES = 5, 3
LABELS = ("Cat", "Dog", "Speech")
TIMESTAMPS = np.arange(FRAMES + 1) * 0.064


def match_whole(line, pattern):
    """A message is one line and nothing but this."""
    assert re.fullmatch(pattern, line), line


def ids(number):
    return [f"clip_{i:03d}" for i in range(number)]


def write(path, clips, logits=None, seed=0):
    """A file as others write it; its logits."""
    if logits is None:
        logits = np.random.default_rng(seed).normal(0, 3, (len(clips), FRAMES, CLASSES)).astype(np.float32)
    with h5py.File(path, "w") as file:
        file["filenames"] = list(clips)
        file["strong_logits"] = logits
    return logits


@pytest.fixture
def path(tmp_path):
    return tmp_path / "devtest.hdf5"


# -- reading ---------------------------------------------------------------------------------------
def test_layout(path):
    logits = write(path, ids(4))
    stored = StoredPredictions(path, n_frames=FRAMES, n_classes=CLASSES)
    assert (stored.path, stored.clips, stored.shape) == (str(path), tuple(ids(4)), (4, FRAMES, CLASSES))
    assert (stored.dtype, stored.settings, len(stored)) == (np.float32, None, 4)
    assert "clip_003" in stored
    assert "clip_004" not in stored
    for rows in (slice(None), slice(1, 3), slice(3, 3), [2], [3, 0, 1], [0, 2], [1, 1, 0], []):
        read = stored.logits(rows)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, logits[rows].reshape(-1, FRAMES, CLASSES))


def test_table(path):
    clips = ids(2 * BLOCK + 3)
    logits = write(path, clips)
    logits[0, 0] = (-300.0, 0.0, 300.0)
    write(path, clips, logits.astype(np.float16))
    expected = 1 / (1 + np.exp(-logits.astype(np.float16).astype(np.float64)))
    table = StoredPredictions(path).table(TIMESTAMPS, LABELS)
    assert (table.clips, table.labels, table.scores.dtype) == (tuple(clips), LABELS, np.float32)
    np.testing.assert_array_equal(table.timestamps, TIMESTAMPS)
    np.testing.assert_allclose(table.scores, expected, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(table.scores[0, 0], (0, 0.5, 1))

    backwards = clips[::-2]
    selected = StoredPredictions(path).table(TIMESTAMPS, LABELS, backwards)
    assert selected.clips == tuple(backwards)
    np.testing.assert_array_equal(selected.scores, table.scores[::-2])


# -- what is wrong with a file ---------------------------------------------------------------------
def truncated(path):
    write(path, ids(3))
    path.write_bytes(path.read_bytes()[:-100])


def no_hdf5(path):
    path.write_text("filenames")


def no_names(path):
    with h5py.File(path, "w") as file:
        file["strong_logits"] = np.zeros((3, FRAMES, CLASSES))


def no_logits(path):
    with h5py.File(path, "w") as file:
        file["filenames"] = ids(3)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: None, "no file of predictions {path}"),
        (no_hdf5, "{path}: not readable as HDF5 (.*)"),
        (truncated, "{path}: not readable as HDF5 (.*truncated file.*)"),
        (no_names, "{path}: no entry 'filenames', expected 'filenames' and 'strong_logits'"),
        (no_logits, "{path}: no entry 'strong_logits', expected 'filenames' and 'strong_logits'"),
        (lambda path: write(path, ["a", "b", "c", "b", "a"]), "{path}: clip 'b' is there twice"),
        (
            lambda path: write(path, ids(2), np.zeros((2, 4, CLASSES))),
            r"{path}: strong_logits has shape \(2, 4, 3\), expected \(2, 5, 3\): clips, frames, classes",
        ),
        (
            lambda path: write(path, ids(2), np.zeros((2, FRAMES, 27))),
            r"{path}: strong_logits has shape \(2, 5, 27\), expected \(2, 5, 3\): clips, frames, classes",
        ),
        (lambda path: write(path, ids(2), np.zeros((1, FRAMES, CLASSES))), r".* expected \(2, 5, 3\): .*"),
        (lambda path: write(path, ids(2), np.zeros((2, FRAMES))), r".* shape \(2, 5\), expected \(2, 5, 3\): .*"),
    ],
)
def test_bad_files(path, spoil, message):
    spoil(path)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        StoredPredictions(path, n_frames=FRAMES, n_classes=CLASSES)
    match_whole(str(error.value), message.replace("{path}", str(path)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_numbers(path, value):
    logits = write(path, ids(BLOCK + 9))
    logits[[BLOCK + 3, BLOCK + 6], 2, 1] = value
    write(path, ids(BLOCK + 9), logits)
    stored = StoredPredictions(path)
    with pytest.raises(ValueError, match=r"devtest\.hdf5: NaN or infinite logits, first in clip 'clip_067'$"):
        stored.table(TIMESTAMPS, LABELS)
    stored.table(TIMESTAMPS, LABELS, ids(BLOCK))
    with pytest.raises(ValueError, match=r"first in clip 'clip_070'$"):
        stored.logits([70, 0, 67])


def test_table_of_other_clips_frames_and_classes(path):
    write(path, ids(2))
    stored = StoredPredictions(path)
    with pytest.raises(ValueError, match=r"devtest\.hdf5: no predictions for 2 of 3 clips: clip_007$"):
        stored.table(TIMESTAMPS, LABELS, ["clip_001", "clip_007", "clip_005"])
    with pytest.raises(ValueError, match=r"devtest\.hdf5: strong_logits has shape .* expected \(2, 4, 3\)"):
        stored.table(TIMESTAMPS[:-1], LABELS)
    with pytest.raises(ValueError, match=r"devtest\.hdf5: strong_logits has shape .* expected \(2, 5, 2\)"):
        stored.table(TIMESTAMPS, LABELS[:2])


# -- storing ---------------------------------------------------------------------------------------
SETTINGS = {"checkpoint": "atst_stage2", "head": {"embed_pool": "int", "classes": [0, 1]}}
CLIPS = ids(11)
LOGITS = np.random.default_rng(1).normal(0, 3, (len(CLIPS), FRAMES, CLASSES)).astype(np.float32)


def partial(path, clips=CLIPS, settings=SETTINGS, batch_size=4, **options):
    return Partial(path, clips, (FRAMES, CLASSES), settings=settings, batch_size=batch_size, **options)


def go_on(path, **options):
    """Stores what is left; the batches that were."""
    storage = partial(path, **options)
    left = storage.todo()
    for number in left[::-1]:
        storage.put(number, LOGITS[list(storage.batch(number))])
    storage.finish()
    return left


def test_stored(path):
    assert go_on(path) == [0, 1, 2]
    stored = StoredPredictions(path)
    assert (stored.clips, stored.dtype) == (tuple(CLIPS), np.float16)
    np.testing.assert_array_equal(stored.logits(slice(None)), LOGITS.astype(np.float16).astype(np.float32))
    assert stored.settings["head"] == SETTINGS["head"]
    assert stored.settings["batch_size"] == 4
    assert [file.name for file in path.parent.iterdir()] == ["devtest.hdf5"]
    assert go_on(path) == []


def test_layout_is_the_published_one(path):
    go_on(path)
    with h5py.File(path) as file:
        assert [name.decode("UTF-8") for name in file["filenames"]] == CLIPS
        assert np.array(file["strong_logits"]).shape == (len(CLIPS), FRAMES, CLASSES)


def test_same_bytes_at_another_time(path):
    go_on(path)
    before = path.read_bytes()
    path.unlink()
    time.sleep(1.1)  # time stamps would be of seconds
    go_on(path)
    assert path.read_bytes() == before


def test_other_precision_and_clipping(path, tmp_path):
    storage = partial(path, clips=["a"])
    rows = np.full((1, FRAMES, CLASSES), 1e6)
    rows[0, 0] = (-np.inf, -65504, 1.5)
    storage.put(0, rows)
    storage.finish()
    stored = StoredPredictions(path).logits([0])[0]
    np.testing.assert_array_equal(stored[0], (-65504, -65504, 1.5))
    assert (stored[1:] == 65504).all()

    exact = tmp_path / "exact.hdf5"
    go_on(exact, dtype=np.float32)
    np.testing.assert_array_equal(StoredPredictions(exact).logits(slice(None)), LOGITS)


def test_no_clips(path):
    go_on(path, clips=[])
    assert StoredPredictions(path).shape == (0, FRAMES, CLASSES)


def test_work_goes_on(path):
    partial(path).put(1, LOGITS[4:8])
    (partial(path).folder / ".000002.rows.77.partial").write_bytes(b"killed")
    assert partial(path).todo() == [0, 2]
    assert not path.exists()
    with pytest.raises(ValueError, match=r"devtest\.hdf5: 2 of 3 batches are not stored yet"):
        partial(path).finish()
    assert go_on(path) == [0, 2]
    assert [file.name for file in path.parent.iterdir()] == ["devtest.hdf5"]


def test_finished_meanwhile(path, monkeypatch):
    """By another process, while this one looks for what is left."""
    storage, other = partial(path), partial(path)
    for number in storage.todo():
        storage.put(number, LOGITS[list(storage.batch(number))])

    def listdir(folder, original=os.listdir):
        monkeypatch.undo()
        other.finish()
        return original(folder)

    monkeypatch.setattr(os, "listdir", listdir)
    assert storage.todo() == []
    assert not storage.folder.exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": {"checkpoint": "beats_stage2"}}, "checkpoint='atst_stage2', this run has 'beats_stage2'"),
        (
            {"settings": {**SETTINGS, "head": {"embed_pool": "aap", "classes": (0, 1)}}},
            "head.embed_pool='int', this run has 'aap'",
        ),
        ({"settings": {**SETTINGS, "role": "teacher"}}, "role=None, this run has 'teacher'"),
        ({"batch_size": 5}, "batch_size=4, this run has 5"),
        ({"dtype": np.float32}, "dtype='float16', this run has 'float32'"),
        ({"clips": CLIPS[:-1]}, "clips='11 .sha256 [0-9a-f]+.', this run has '10 .*"),
        ({"clips": CLIPS[::-1]}, "clips='11 .*"),
    ],
)
def test_other_settings(path, change, named):
    partial(path).put(0, LOGITS[:4])
    assert partial(path, **change).todo() == list(range(partial(path, **change).n_batches))
    go_on(path)
    with pytest.raises(ValueError) as error:
        partial(path, **change)
    match_whole(str(error.value), f"{path} was stored with {named}; choose another out_name, or overwrite=True")


def test_overwrite(path):
    go_on(path)
    first = path.read_bytes()
    assert go_on(path, overwrite=True) == []
    changed = {"settings": {"checkpoint": "beats_stage2"}, "overwrite": True}
    partial(path, **changed).put(0, LOGITS[:4])
    assert path.read_bytes() == first  # until the new one is complete
    assert go_on(path, **changed) == [1, 2]
    assert StoredPredictions(path).settings["checkpoint"] == "beats_stage2"
    assert go_on(path, **changed) == []


def test_files_of_others_stay(path):
    write(path, CLIPS)
    with pytest.raises(ValueError, match=r"devtest\.hdf5 does not say what it was stored with; choose another"):
        partial(path)
    truncated(path)
    with pytest.raises(ValueError, match=r"devtest\.hdf5: not readable as HDF5 .*; choose another out_name, or over"):
        partial(path)
    assert go_on(path, overwrite=True) == [0, 1, 2]


def test_bad_batches(path):
    storage = partial(path)
    with pytest.raises(ValueError, match=r"logits of batch 2 have shape \(4, 5, 3\), expected \(3, 5, 3\)"):
        storage.put(2, LOGITS[:4])
    rows = LOGITS[4:8].copy()
    rows[2:, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"devtest\.hdf5: the model predicts NaN for clip 'clip_006'"):
        storage.put(1, rows)
    assert storage.todo() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"devtest\.hdf5: two clips are called 'clip_002'"):
        partial(path, clips=[*CLIPS, "clip_002"])
    with pytest.raises(ValueError, match=r"devtest\.hdf5: settings of 70\d\d\d bytes, at most 60000 fit in"):
        partial(path, settings={"text": "x" * 70_000})


FILE_STEPS = set("open write flush fsync replace sendfile listdir mkdir scandir unlink rmdir fromfile close".split())


def killed_at(step, act) -> bool:
    """Whether a process that is killed before its n-th step in the file system got through ``act`` before that."""
    child = os.fork()
    if not child:
        try:
            count = [0]

            def profile(frame, event, function):
                if event == "c_call" and function.__name__ in FILE_STEPS:
                    count[0] += 1
                    if count[0] == step:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.setprofile(profile)
            act()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def test_killed_at_every_step(path, tmp_path):
    """Before each thing that a run does to files, the last ones of ``finish`` included."""
    go_on(path)
    whole = path.read_bytes()
    left = []
    for step in range(1, 200):
        file = tmp_path / str(step) / path.name
        through = killed_at(step, lambda file=file: go_on(file))
        assert not file.exists() or file.read_bytes() == whole
        left.append(len(go_on(file)))
        assert file.read_bytes() == whole
        assert [each.name for each in file.parent.iterdir()] == [path.name]
        if through:
            break
    assert step > 30
    assert left == sorted(left, reverse=True)
    assert set(left) == {3, 2, 1, 0}
