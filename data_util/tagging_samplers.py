"""Which clips an epoch of tagging has: each once, or drawn by the rarity of their labels; and the training loader."""

import logging

import numpy as np
from torch.utils.data import DataLoader

from data_util.loaders import SAMPLING, leave_signals_to_parent
from data_util.samplers import SourceBatchSampler
from data_util.strong_clips import StrongClips
from data_util.tagging_clips import clips_of, unpacked

logger = logging.getLogger(__name__)

BLOCK = 65536  # clips whose labels are unpacked at once


def label_weights(targets, classes, reduce="sum"):
    """Weight of every clip: sum over its labels of ``1000 / (100 + clips with that label)``, as published.

    Args:
        targets: [clips, columns] packed bits, or [clips, classes] labels.
        classes: number of classes.
        reduce: "sum", or "max" for the rarest label's alone.

    Returns:
        [clips] float32; 0 for a clip without label.
    """
    if reduce not in ("sum", "max"):
        raise ValueError(f"reduce is '{reduce}', expected 'sum' or 'max'")
    blocks = [slice(first, first + BLOCK) for first in range(0, len(targets), BLOCK)]
    counts = sum(unpacked(targets[block], classes).sum(axis=0, dtype=np.float64) for block in blocks)
    per_label = (1000 / (100 + counts)).astype(np.float32)
    if reduce == "sum":
        return np.concatenate([unpacked(targets[block], classes) @ per_label for block in blocks])
    return np.concatenate([(unpacked(targets[block], classes) * per_label).max(axis=1) for block in blocks])


def frame_weights(clip, label, frames, clips, classes):
    """Weight of every clip: sum over its classes of ``frames * 1000 / (30 + frames of all clips)``, as published.

    Args:
        clip, label, frames: arrays, how many frames of a class are active in a clip.
        clips, classes: how many there are.

    Returns:
        [clips] float64; 0 for a clip without active frame.
    """
    per_frame = 1000 / (30 + np.bincount(label, frames, minlength=classes))
    return np.bincount(clip, frames * per_frame[label], minlength=clips)


def sampling_weights(clips):
    """[clips] weights by the rarity of labels: of clips, or of frames where those are labelled."""
    classes = len(clips.classes)
    if isinstance(clips, StrongClips):
        return frame_weights(*clips.active_frames, len(clips), classes)
    return label_weights(clips.targets, classes)


class ClipBatchSampler(SourceBatchSampler):
    """Batches of one data set as lists of ``(index, key)``; the key is ``(seed, epoch, index)``.

    An epoch has every clip once, or ``epoch_len`` of them. With weights, clips are drawn without replacement, a clip of
    twice the weight being twice as likely to come next; so no clip is drawn twice, and clips of weight 0 never. The
    drawn ones are then shuffled: a draw in order of weights would put the rare labels at the beginning of every epoch.
    The last batch may be smaller.

    In distributed training the ranks have disjoint parts of equal size: together, the processes' batches number n are
    what one process with ``world_size`` times the batch size would draw. For that, up to ``world_size - 1`` of the
    drawn clips are left out.

    Args:
        length: clips of the data set.
        batch_size: clips in a batch of one rank.
        seed, rank, world_size: see :class:`data_util.samplers.SourceBatchSampler`.
        weights: [clips], see :func:`sampling_weights`; None: all alike.
        epoch_len: clips of an epoch; None: all. It is cut, with a warning, to the clips that can be drawn.

    Raises:
        ValueError: a size is not positive, or there are fewer clips than processes.
    """

    def __init__(self, length, batch_size, seed=42, rank=0, world_size=1, weights=None, epoch_len=None):
        if batch_size < 1 or (epoch_len is not None and epoch_len < 1):
            raise ValueError(f"batch_size is {batch_size}, epoch_len {epoch_len}: expected positive numbers")
        available = length if weights is None else int(np.count_nonzero(weights))
        drawn = available if epoch_len is None else min(epoch_len, available)
        if drawn < world_size:
            raise ValueError(f"{drawn} clips can be drawn, expected at least 1 for each of {world_size} processes")
        if epoch_len is not None and drawn < epoch_len:
            logger.warning("an epoch has %d clips, not epoch_len = %d: no more can be drawn", drawn, epoch_len)
        super().__init__((length,), (1,), seed, rank, world_size)
        self.batch_size = batch_size
        self.weights = None if weights is None else np.asarray(weights, dtype=np.float64)
        self.drawn = drawn

    def __len__(self):
        return -(-self._used // (self.batch_size * self.world_size))

    @property
    def _used(self):
        """Clips of an epoch over all processes, which have equally many."""
        return self.drawn - self.drawn % self.world_size

    def _orders(self):
        if self.weights is None:
            return [super()._orders()[0][: self._used]]
        # Another stream than that of the plain order.
        rng = np.random.default_rng(np.random.SeedSequence((self.seed, self.epoch), spawn_key=(0, 1)))
        # Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006: the first arrivals of
        # exponential clocks are a weighted draw without replacement.
        with np.errstate(divide="ignore"):
            arrivals = rng.standard_exponential(len(self.weights)) / self.weights
        first = np.argpartition(arrivals, self.drawn - 1)[: self.drawn]
        return [rng.permutation(np.sort(first))[: self._used]]

    def _batch(self, orders, number):
        whole = self.batch_size * self.world_size
        together = orders[0][number * whole : (number + 1) * whole]
        size = len(together) // self.world_size
        return together[self.rank * size : (self.rank + 1) * size].tolist()


def training_loader(
    dataset, batch_size, seed, rank=0, world_size=1, epoch=0, start=0, weighted=False, epoch_len=None, **options
):
    """Batches of a training set, see :class:`ClipBatchSampler`.

    Args:
        dataset: of :func:`data_util.tagging.training_set`.
        batch_size: clips in a batch of one rank.
        seed: of the order of clips and of the draws of every clip.
        rank, world_size: this process, and how many share the epoch.
        epoch, start: the first batch is number ``start`` of that epoch.
        weighted: draw clips by the rarity of their labels.
        epoch_len: clips of an epoch; None: all.
        **options: further options of the DataLoader.
    """
    weights = sampling_weights(clips_of(dataset)) if weighted else None
    sampler = ClipBatchSampler(len(dataset), batch_size, seed, rank, world_size, weights, epoch_len)
    sampler.set_epoch(epoch)
    sampler.start = start
    options = {key: value for key, value in options.items() if key not in SAMPLING}
    options["worker_init_fn"] = options.get("worker_init_fn") or leave_signals_to_parent
    return DataLoader(dataset, batch_sampler=sampler, **options)
