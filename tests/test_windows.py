"""Sliding windows: their places as published, their samples, what they keep in memory, and how they are batched."""

import numpy as np
import pytest

from helpers.windows import Window, batches, count, in_samples, sliding


def cut(x, pieces):
    """The same samples in blocks of these lengths, over and over."""
    start, position = 0, 0
    while start < len(x):
        length = pieces[position % len(pieces)]
        yield x[start : start + length]
        start, position = start + length, position + 1


def ramp(samples):
    """No two samples are the same, none is zero."""
    return np.arange(1, samples + 1, dtype=np.float32)


# -- places
@pytest.mark.parametrize(
    ("seconds", "size", "hop", "starts"),
    [
        (12.3, 10, 2.5, [0, 2.5]),
        (12.3, 5, 2.5, [0, 2.5, 5, 7.5]),
        (12.3, 4, 3, [0, 3, 6, 9]),
        (12.3, 12.3, 1, [0]),
        (12.3, 20, 10, [0]),
        (12.3, 20, 5, [0]),  # as published there is none
        (10, 10, 2.5, [0]),
        (10, 5, 2.5, [0, 2.5, 5]),
    ],
)
def test_places_as_published(seconds, size, hop, starts):
    rate = 320
    x, size, hop = ramp(int(seconds * rate)), int(size * rate), int(hop * rate)
    windows = list(sliding([x], size, hop))
    assert [window.start for window in windows] == [start * rate for start in starts]
    assert len(windows) == count(len(x), size, hop)


def test_every_window_has_its_samples():
    rng = np.random.default_rng(0)
    for _ in range(300):
        total, size, hop = rng.integers(1, 60), rng.integers(1, 25), rng.integers(1, 30)
        x = ramp(total)
        windows = list(sliding(cut(x, rng.integers(1, 20, 5)), size, hop))
        padded = np.concatenate([x, np.zeros(size + hop, np.float32)])
        for number, window in enumerate(windows):
            assert window.start == number * hop
            assert window.valid == min(size, total - window.start) > 0
            np.testing.assert_array_equal(window.samples, padded[window.start : window.start + size])
        if hop <= size:
            assert len(windows) == count(total, size, hop)
            assert windows[-1].start + size >= total
            assert len(windows) == 1 or windows[-2].start + size < total


def test_blocks_do_not_matter():
    x = ramp(1000)
    whole = list(sliding([x], 64, 17))
    for pieces in ([1], [7, 0, 31], [64], [999]):
        windows = list(sliding(cut(x, pieces), 64, 17))
        assert [window.start for window in windows] == [window.start for window in whole]
        for one, other in zip(windows, whole):
            np.testing.assert_array_equal(one.samples, other.samples)


def test_last_window_may_stay_short():
    last = list(sliding([ramp(25)], 10, 10, at_least=3))[-1]
    assert (last.start, last.valid, last.samples.tolist()) == (20, 5, [21, 22, 23, 24, 25])
    last = list(sliding([ramp(21)], 10, 10, at_least=3))[-1]
    assert (last.valid, last.samples.tolist()) == (1, [21, 0, 0])
    only = list(sliding([ramp(7)], 10, 10, at_least=3))
    assert [len(window.samples) for window in only] == [7]


def test_nothing_gives_nothing():
    assert list(sliding([], 4, 2)) == []
    assert list(sliding([np.zeros(0, np.float32)], 4, 2)) == []


# -- memory
def test_windows_come_as_soon_as_they_are_complete():
    taken = 0

    def blocks():
        nonlocal taken
        for _ in range(1000):
            taken += 10
            yield np.ones(10, np.float32)

    for window in sliding(blocks(), 25, 5):
        assert taken <= window.start + 25 + 10


def test_windows_are_copies():
    windows = list(sliding([ramp(20)], 10, 5))
    windows[0].samples[:] = 0
    assert windows[1].samples[0] == 6


# -- batches
def window(samples, start=0):
    return Window(start, np.zeros(samples, np.float32), samples)


def test_batches_hold_windows_of_one_length():
    lengths = [3, 3, 3, 5, 5, 3]
    groups = list(batches([(name, window(length)) for name, length in enumerate(lengths)], 2))
    assert [[owner for owner, _ in group] for group in groups] == [[0, 1], [2], [3, 4], [5]]
    assert list(batches([], 4)) == []


# -- bad input
def test_lengths_in_samples():
    assert in_samples(2.5, 32000, "hop_length") == 80000
    assert in_samples(0.99999, 10, "hop_length") == 9  # rounded down, as published
    for seconds in (0, -1, 0.00001):
        with pytest.raises(ValueError, match=r"hop_length is .* s, expected at least one sample of 32000 Hz"):
            in_samples(seconds, 32000, "hop_length")


@pytest.mark.parametrize(("size", "hop"), [(0, 1), (1, 0), (4, -2)])
def test_impossible_windows(size, hop):
    with pytest.raises(ValueError, match=f"windows of {size} samples every {hop}, expected at least 1 of both"):
        list(sliding([ramp(5)], size, hop))
