"""Batches with fixed counts per source: epochs, processes, resuming."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from data_util.clips import Concat
from data_util.samplers import SourceBatchSampler
from tests.reference import golden

LENGTHS, SIZES = (11, 6, 9, 20, 14), (2, 1, 2, 3, 3)
OFFSETS = np.cumsum((0, *LENGTHS))


def batches(epoch=0, **options):
    sampler = SourceBatchSampler(LENGTHS, SIZES, **options)
    sampler.set_epoch(epoch)
    return list(sampler)


def indices(batch):
    return [index for index, _ in batch]


def drawn_in(epoch):
    return [index for batch in epoch for index in indices(batch)]


def test_epoch_as_published():
    expected = golden("sed/data_preparation.json")["batch_sampler"]
    assert (expected["dataset_sizes"], expected["batch_sizes"]) == (list(LENGTHS), list(SIZES))
    sampler = SourceBatchSampler(LENGTHS, SIZES)
    assert len(sampler) == expected["n_batches"]
    drawn = list(sampler)
    assert len(drawn) == expected["n_batches"]
    ends = np.cumsum(SIZES)
    for batch in drawn:
        for source, end in enumerate(ends):
            part = indices(batch)[end - SIZES[source] : end]
            assert all(OFFSETS[source] <= index < OFFSETS[source + 1] for index in part)
    everything = drawn_in(drawn)
    assert len(set(everything)) == len(everything)  # without replacement


def test_default_sizes():
    assert len(SourceBatchSampler((1200, 1000, 1000, 2000, 2000))) == 100


def test_keys():
    for batch in batches(epoch=3, seed=5):
        assert [key for _, key in batch] == [(5, 3, index) for index in indices(batch)]


def test_epochs_and_seeds_differ_and_repeat():
    assert batches(epoch=1, seed=5) == batches(epoch=1, seed=5)
    drawn = [tuple(map(tuple, map(indices, batches(epoch=e, seed=s)))) for e in range(3) for s in (5, 6)]
    assert len(set(drawn)) == 6
    counts = np.zeros(sum(LENGTHS))
    for epoch in range(200):
        counts[drawn_in(batches(epoch))] += 1
    expected = np.repeat([4 * size / length for size, length in zip(SIZES, LENGTHS)], LENGTHS)
    assert np.abs(counts / 200 - expected).max() < 0.15


def test_resuming():
    sampler = SourceBatchSampler(LENGTHS, SIZES, seed=1)
    sampler.set_epoch(2)
    full = list(sampler)
    sampler.start = 3
    assert len(sampler) == 4
    assert list(sampler) == full[3:]
    assert list(sampler) == full[3:]  # a DataLoader with workers starts to iterate twice
    sampler.set_epoch(2)
    assert list(sampler) == full[3:]
    sampler.set_epoch(3)
    assert len(list(sampler)) == 4  # the next epoch is a whole one
    sampler.start = 4
    assert list(sampler) == []
    sampler.start = 5
    with pytest.raises(ValueError, match="cannot start at batch 5 of an epoch of 4 batches"):
        iter(sampler)


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_an_epoch(world_size):
    lengths, sizes = (40, 25, 30, 61, 50), SIZES
    ranks = [SourceBatchSampler(lengths, sizes, rank=rank, world_size=world_size) for rank in range(world_size)]
    single = SourceBatchSampler(lengths, [size * world_size for size in sizes])
    assert {len(rank) for rank in ranks} == {len(single)}
    for parts, whole in zip(zip(*ranks), single):
        assert sorted(item for part in parts for item in part) == sorted(whole)
        assert all(len(part) == sum(sizes) for part in parts)


def test_source_left_out():
    sampler = SourceBatchSampler((11, 0, 9, 20, 14), (2, 0, 2, 3, 3))
    assert len(sampler) == 4
    assert all(len(batch) == 10 for batch in sampler)


@pytest.mark.parametrize(
    ("lengths", "sizes", "options", "message"),
    [
        (
            LENGTHS,
            (2, 1, 2, 3),
            {},
            "training.batch_sizes has 4 entries, expected 5: maestro, real, synth, weak, unlabeled",
        ),
        (LENGTHS, (2, 1, 10, 3, 3), {}, "source synth has 9 clips, but training.batch_sizes asks for 10$"),
        (LENGTHS, (2, 4, 2, 3, 3), {"world_size": 2}, "source real has 6 clips, .* asks for 4 on each of 2 processes"),
        (LENGTHS, (0, 0, 0, 0, 0), {}, "not all of them 0"),
        (LENGTHS, (2, 1, -1, 3, 3), {}, r"training.batch_sizes is \(2, 1, -1, 3, 3\), expected sizes >= 0"),
        ((3, 3), (1, 4), {}, "source 1 has 3 clips, but training.batch_sizes asks for 4"),
        (LENGTHS, SIZES, {"rank": 2, "world_size": 2}, "rank is 2, expected 0 <= rank < world_size = 2"),
    ],
)
def test_bad_sizes(lengths, sizes, options, message):
    with pytest.raises(ValueError, match=message):
        SourceBatchSampler(lengths, sizes, **options)


class Draws(Dataset):
    """Items say where they are from and what their key draws."""

    def __init__(self, source, length):
        self.source, self.length = source, length

    def __len__(self):
        return self.length

    def __getitem__(self, item):
        index, key = item
        return {"source": self.source, "index": index, "draw": np.random.default_rng(key).random()}


def load(workers, rank=0, world_size=1):
    data = Concat([Draws(source, length) for source, length in enumerate(LENGTHS)])
    sampler = SourceBatchSampler(LENGTHS, [1] * 5, rank=rank, world_size=world_size)
    return list(DataLoader(data, batch_sampler=sampler, num_workers=workers))


def test_loader_gives_the_same_draws_for_any_number_of_processes():
    plain = load(workers=0)
    assert len(plain) == 6
    assert all(batch["source"].tolist() == [0, 1, 2, 3, 4] for batch in plain)
    for ours, theirs in zip(plain, load(workers=2)):
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    draws = {(s, i): d for b in plain for s, i, d in zip(*(b[key].tolist() for key in ("source", "index", "draw")))}
    for rank in range(2):
        for batch in load(workers=0, rank=rank, world_size=2):
            for s, i, d in zip(*(batch[key].tolist() for key in ("source", "index", "draw"))):
                assert draws[s, i] == d
