"""Runners: their threads, batches that are begun before others are ready, and ensembles of them."""

import threading

import numpy as np
import pytest
import torch

from helpers.tagging_runners import Ensemble, Runner, computed, single_threaded


class Levels(Runner):
    """A runner whose logits are the mean and the maximum of a clip; a gate holds clip 0 back until clip 2 begins."""

    name, sample_rate, n_classes, embed_dim, min_samples, identity = "levels", 100, 2, 1, 1, "levels"

    def __init__(self, workers=1, offset=0.0):
        super().__init__(workers)
        self.offset, self.begun, self.gate = offset, [], None

    def run(self, waveforms):
        self.begun.append(float(waveforms[0, 0]))
        if self.gate is not None and waveforms[0, 0] == 2:
            self.gate.set()
        if self.gate is not None and waveforms[0, 0] == 0:
            assert self.gate.wait(10)
        logits = np.stack([waveforms.mean(1), waveforms.max(1)], axis=1) + np.float32(self.offset)
        return logits, waveforms[:, :1]


def batches(*sizes):
    """Batches of clips of three samples that count from 0."""
    number = iter(range(100))
    return [np.array([[n, n + 1, n + 5] for _, n in zip(range(size), number)], np.float32) for size in sizes]


def test_pool_threads_use_one_thread_of_torch():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        pool, ready = single_threaded(2), threading.Barrier(2)

        def threads(_):
            torch.ones(300, 300) @ torch.ones(300, 300)  # the first operation of a thread could set its number anew
            ready.wait()
            return torch.get_num_threads()

        assert list(pool.map(threads, range(2))) == [1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("sizes", [(), (1,), (1, 1, 1, 1, 1), (3, 3, 1), (1, 4)])
def test_outputs_come_in_order(workers, sizes):
    given = batches(*sizes)
    found = list(computed(Levels(workers), enumerate(given)))
    assert [number for number, _ in found] == list(range(len(sizes)))
    for (_, (logits, embeddings)), waveforms in zip(found, given):
        np.testing.assert_allclose(logits, np.stack([waveforms[:, 0] + 2, waveforms[:, 0] + 5], 1), rtol=1e-6)
        np.testing.assert_array_equal(embeddings, waveforms[:, :1])


def test_later_batches_begin_while_one_is_worked_on():
    runner = Levels(2)
    runner.gate = threading.Event()
    outputs = computed(runner, enumerate(batches(1, 1, 1, 1)))
    assert next(outputs)[1][1] == 0
    assert set(runner.begun[:3]) == {0.0, 1.0, 2.0}  # the other worker went on with them


def test_no_more_batches_are_taken_than_needed():
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield None, np.zeros((2, 3), np.float32)

    next(computed(Levels(2), endless()))
    assert len(taken) == 2
    next(computed(Levels(1), endless()))
    assert len(taken) == 3


def test_an_ensemble_begins_all_members_at_once():
    one, other = Levels(2), Levels(2, offset=3.0)
    both = Ensemble([one, other])
    (waveforms,) = batches(2)
    finish = both.submit(waveforms)
    logits, embeddings = finish()
    assert sorted(one.begun) == sorted(other.begun) == [0.0, 1.0]
    np.testing.assert_allclose(logits, [[3.5, 6.5], [4.5, 7.5]])
    np.testing.assert_array_equal(embeddings, [[0, 0], [1, 1]])
    ((_, again),) = computed(both, [(None, waveforms)])
    np.testing.assert_array_equal(again[0], logits)


def test_errors_reach_the_caller():
    class Failing(Levels):
        def run(self, waveforms):
            raise ValueError("another length is needed")

    for workers in (1, 2):
        with pytest.raises(ValueError, match="another length is needed"):
            list(computed(Failing(workers), enumerate(batches(1, 1))))
