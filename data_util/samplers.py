"""Batches with a fixed number of clips from every source."""

import numpy as np
from torch.utils.data import Sampler

from data_util.samples import TRAINING_SOURCES


class SourceBatchSampler(Sampler):
    """Batches over concatenated data sets, each with ``batch_sizes[i]`` clips of data set i, in that order.

    An epoch draws without replacement and ends when the first source has no full batch left. What is drawn depends
    only on seed and epoch. Batches are lists of ``(index, key)``, see :mod:`data_util.clips`; the key is
    ``(seed, epoch, index)``.

    In distributed training every process makes one of these; together, the processes' batches number n are what one
    process with ``world_size`` times the batch sizes would draw.

    Args:
        lengths: clips per data set.
        batch_sizes: clips per data set in a batch; 0 leaves a data set out.
        seed: of all draws.
        rank: number of this process.
        world_size: how many processes there are.

    Attributes:
        epoch: number of the epoch, see :meth:`set_epoch`.
        start: batches of this epoch that are left out, without reading data: where a stopped run continues. The length
            stays that of the full epoch; another epoch begins at its beginning.

    Raises:
        ValueError: sizes do not fit the data sets, or a data set has less than one batch.
    """

    def __init__(self, lengths, batch_sizes=(12, 10, 10, 20, 20), seed=42, rank=0, world_size=1):
        names = [source.name.lower() for source in TRAINING_SOURCES]
        if len(lengths) != len(names):
            names = [str(number) for number in range(len(lengths))]
        if len(batch_sizes) != len(lengths):
            raise ValueError(
                f"training.batch_sizes has {len(batch_sizes)} entries, expected {len(lengths)}: {', '.join(names)}"
            )
        if min(batch_sizes) < 0 or sum(batch_sizes) == 0:
            raise ValueError(f"training.batch_sizes is {tuple(batch_sizes)}, expected sizes >= 0, not all of them 0")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}, expected 0 <= rank < world_size = {world_size}")
        for name, length, size in zip(names, lengths, batch_sizes):
            if length < size * world_size:
                times = f" on each of {world_size} processes" if world_size > 1 else ""
                raise ValueError(f"source {name} has {length} clips, but training.batch_sizes asks for {size}{times}")
        self.lengths, self.batch_sizes, self.seed = tuple(lengths), tuple(batch_sizes), seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch):
        """Makes the next iteration draw epoch number ``epoch``."""
        if epoch != self.epoch:
            self.start = 0
        self.epoch = epoch

    @property
    def sampler(self):
        """Itself: of a batch sampler, Lightning tells the ``sampler`` which epoch begins."""
        return self

    def __len__(self):
        return min(length // (size * self.world_size) for length, size in zip(self.lengths, self.batch_sizes) if size)

    def __iter__(self):
        if not 0 <= self.start <= len(self):
            raise ValueError(f"cannot start at batch {self.start} of an epoch of {len(self)} batches")
        orders = self._orders()
        keys = (self.seed, self.epoch)
        return ([(i, (*keys, i)) for i in self._batch(orders, n)] for n in range(self.start, len(self)))

    def _orders(self):
        """A permutation of every data set's indices into the concatenation."""
        offsets = np.cumsum((0, *self.lengths))
        orders = []
        for number, length in enumerate(self.lengths):
            # The zero tells these streams from those of the items, whose spawn keys have one entry.
            sequence = np.random.SeedSequence((self.seed, self.epoch), spawn_key=(0, number))
            orders.append(offsets[number] + np.random.default_rng(sequence).permutation(length))
        return orders

    def _batch(self, orders, number):
        indices = []
        for order, size in zip(orders, self.batch_sizes):
            first = (number * self.world_size + self.rank) * size
            indices.extend(order[first : first + size].tolist())
        return indices
