"""Runs that store predictions: killed, told to stop, on several devices; the file is that of an uninterrupted run.

``KILLS=50 pytest -s tests/test_storing.py -k random_moments`` kills fifty times and reports at which moments.
"""

import functools
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from helpers import storing
from helpers.predictions import Partial, StoredPredictions
from helpers.storing import store

ROOT = Path(__file__).parents[1]
KILLS = int(os.environ.get("KILLS", 5))
FRAMES, CLASSES, BATCH = 6, 3, 4
ENTRIES = {
    "accelerator": "cpu",
    "devices": 1,
    "precision": "32-true",
    "enable_progress_bar": False,
    "callbacks": None,
    "log_every_n_steps": None,
}


class Noise(Dataset):
    """Clips of noise, each always the same."""

    def __init__(self, clips):
        self.clips = clips

    def __len__(self):
        return self.clips

    def __getitem__(self, index):
        audio = np.random.default_rng(index).standard_normal(FRAMES * 8).astype(np.float32)
        return {"audio": torch.from_numpy(audio), "filename": f"/data/{clip(index)}.wav"}


def clip(index):
    return f"clip_{index:02d}"


class Tiny(nn.Module):
    """A model whose predictions depend, in their last bits, on nothing but its input.

    Args:
        seconds: that a batch takes.
        act: called with the number of the batch, counted from 1.
    """

    def __init__(self, seconds=0.0, act=None):
        super().__init__()
        self.layer = nn.Linear(8, CLASSES)
        nn.init.normal_(self.layer.weight, generator=torch.Generator().manual_seed(0))
        nn.init.zeros_(self.layer.bias)
        self.seconds, self.act, self.batches = seconds, act, 0

    def forward(self, audio):
        assert not self.training
        self.batches += 1
        time.sleep(self.seconds)
        if self.act:
            self.act(self.batches)
        return self.layer(audio.unflatten(1, (FRAMES, 8)))


def partial(path, clips=22, settings=None, batch_size=BATCH):
    names = [clip(i) for i in range(clips)]
    return Partial(path, names, (FRAMES, CLASSES), settings=settings or {"model": "tiny"}, batch_size=batch_size)


def run(path, model=None, clips=22, loader_options=None, **entries):
    """A run in this process."""
    options = {"loader_options": loader_options}
    return store({**ENTRIES, **entries}, model or Tiny(), Noise(clips), partial(path, clips), **options)


def assert_stored(path, whole):
    """The file is there, is the uninterrupted one, and nothing else is left in its folder."""
    assert path.read_bytes() == whole
    assert [file.name for file in path.parent.iterdir() if path.name in file.name] == [path.name]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Bytes of the file of 22 clips, of a run that nothing stops."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("whole") / "devtest.hdf5"
    assert run(path) == path
    return path.read_bytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "devtest.hdf5"


def test_contents(path):
    model = Tiny().eval()
    run(path, model)
    stored = StoredPredictions(path, FRAMES, CLASSES)
    assert stored.clips == tuple(clip(i) for i in range(22))
    with torch.no_grad():
        expected = torch.cat([model(Noise(22)[i]["audio"][None]) for i in range(22)])
    np.testing.assert_allclose(stored.logits(slice(None)), expected, rtol=1e-3, atol=1e-6)


def test_mixed_precision(path):
    run(path, precision="bf16-mixed")
    model, numbers = Tiny().eval(), partial(path).batch(2)
    audio = torch.stack([Noise(22)[i]["audio"] for i in numbers])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = model(audio)
    assert expected.dtype == torch.bfloat16
    np.testing.assert_array_equal(StoredPredictions(path).logits(numbers), expected.half().float())


def test_loader_processes(path, whole):
    run(path, loader_options={"num_workers": 2})
    assert_stored(path, whole)


def test_nothing_to_do_starts_no_trainer(path, whole, monkeypatch):
    partial(path).put(3, np.zeros((4, FRAMES, CLASSES)))
    partial(path).put(5, np.zeros((2, FRAMES, CLASSES)))
    model = Tiny()
    run(path, model)
    assert model.batches == 4
    assert path.read_bytes() != whole

    monkeypatch.setattr(storing, "make_trainer", None)
    assert run(path) == path
    last = path.with_name("last.hdf5")
    partial(last, clips=1).put(0, np.ones((1, FRAMES, CLASSES)))
    run(last, clips=1)  # all that was left was to finish it
    assert (StoredPredictions(last).logits([0]) == 1).all()
    assert sorted(file.name for file in path.parent.iterdir()) == ["devtest.hdf5", "last.hdf5"]


def test_what_is_left_is_logged(path, caplog):
    partial(path).put(3, np.zeros((4, FRAMES, CLASSES)))
    with caplog.at_level(logging.INFO, "helpers"):
        run(path)
    assert f"{path}: 5 of 6 batches to predict" in caplog.messages


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [0, 1])
def test_told_to_stop(path, whole, number, workers):
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    model = Tiny(act=lambda batch: batch == 3 and os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as exit:
        run(path, model, loader_options={"num_workers": workers})
    assert exit.value.code == 128 + number
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert partial(path).todo() == [2, 3, 4, 5]
    assert not path.exists()
    model = Tiny()
    run(path, model)
    assert model.batches == 4
    assert_stored(path, whole)


def test_another_data_set(path):
    names = [f"other_{i:02d}" for i in range(22)]
    other = Partial(path, names, (FRAMES, CLASSES), settings={}, batch_size=BATCH)
    with pytest.raises(ValueError) as error:
        store(ENTRIES, Tiny(), Noise(22), other)
    assert str(error.value) == f"{path}: the data set has /data/clip_00.wav where clip 'other_00' is expected"
    assert other.todo() == list(range(6))


# -- kills -----------------------------------------------------------------------------------------
def slow_run(path, begun, ended):
    """In a process of its own."""
    torch.set_num_threads(1)
    begun.set()
    run(path, Tiny(seconds=0.05))
    ended.set()


@pytest.fixture(scope="module")
def start():
    """Starts runs in processes that have all modules already; gives the process, and the event of its end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "h5py"])

    def start(path):
        begun, ended = context.Event(), context.Event()
        process = context.Process(target=slow_run, args=(path, begun, ended))
        process.start()
        assert begun.wait(60)
        return process, ended

    return start


def test_killed_at_random_moments(tmp_path, whole, start):
    process, ended = start(tmp_path / "0" / "devtest.hdf5")
    begin = time.monotonic()
    assert ended.wait(60)
    longest = time.monotonic() - begin
    process.join()
    assert_stored(tmp_path / "0" / "devtest.hdf5", whole)

    rng, moments, files = np.random.default_rng(0), [], 0
    while len(moments) < KILLS:
        files += 1
        path, done = tmp_path / str(files) / "devtest.hdf5", set()
        while not path.exists() and len(moments) < KILLS:
            process, ended = start(path)
            ended.wait(rng.uniform(0, longest))
            process.kill()
            process.join()
            left = partial(path).todo()
            if path.exists():  # killed too late to count
                assert path.read_bytes() == whole
            else:
                moments.append(len(left))
            assert done <= set(range(6)) - set(left)
            done = set(range(6)) - set(left)
        model = Tiny()
        run(path, model)
        assert model.batches == len(left)
        assert_stored(path, whole)
    print(f"\n{KILLS} kills, {files} files, all as uninterrupted; of 6 batches were left: {moments}")


# -- several devices -------------------------------------------------------------------------------
SCRIPT = """
import os, signal
from pathlib import Path

from tests.test_storing import Tiny, partial, run

rank, log = os.environ.get("LOCAL_RANK", "0"), Path("batches.txt")


def act(batch):
    with open(log, "a") as file:
        file.write(f"{name} {rank}\\n")
    if name == "third" and batch == 2 and rank == "0":
        os.kill(os.getpid(), signal.SIGTERM)


for name, clips in (("first", 22), ("second", 3), ("third", 22)):
    run(Path(name) / "devtest.hdf5", Tiny(0.1 if name == "third" else 0.0, act), clips, devices=2, strategy="ddp")
"""


def test_two_devices(tmp_path, path, whole):
    """Three data sets: one begun on one device, one with fewer batches than devices, one stopped and ended on one."""
    with pytest.raises(RuntimeError):
        run(tmp_path / "first" / path.name, Tiny(act=functools.partial(fail, in_batch=2)))
    (tmp_path / "script.py").write_text(SCRIPT)
    stopped = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert stopped.returncode == 143, stopped.stderr
    assert "Traceback" not in stopped.stderr
    batches = (tmp_path / "batches.txt").read_text().splitlines()
    assert sorted(line for line in batches if "first" in line) == ["first 0"] * 3 + ["first 1"] * 2
    assert [line for line in batches if "second" in line] == ["second 0"]
    assert_stored(tmp_path / "first" / path.name, whole)
    run(path, clips=3)
    assert (tmp_path / "second" / path.name).read_bytes() == path.read_bytes()

    third = tmp_path / "third" / path.name
    assert not third.exists()
    left = partial(third).todo()
    assert 0 not in left
    assert {2, 4} <= set(left)  # those of the rank that was told to stop
    model = Tiny()
    run(third, model)
    assert model.batches == len(left)
    assert_stored(third, whole)


def fail(batch, in_batch):
    if batch == in_batch:
        raise RuntimeError("out of memory")
