"""Which pairs meet in a batch of contrastive training."""

import logging

import numpy as np

from data_util.tagging_samplers import ClipBatchSampler

logger = logging.getLogger(__name__)


class PairBatchSampler(ClipBatchSampler):
    """Batches in which no two pairs are of one group, as lists of ``(index, key)``, the key ``(seed, epoch, index)``.

    In the loss, pairs of one sound are negatives of each other although both answers are right. Here an epoch's
    groups, in random order, are dealt out one pair after the other, one to each batch in turn: pairs of a group stand
    next to each other and so come into different batches, and the sizes of batches differ by one at most. What is
    drawn depends only on seed and epoch.

    In distributed training the ranks have disjoint parts of equal size of these batches, so that no two pairs of a
    group meet when the ranks' embeddings are gathered. Up to ``world_size - 1`` pairs of a batch are left out for that,
    and of a group with more pairs than an epoch has batches, another random part in every epoch.

    Args:
        groups: [pairs] numbers of their groups, see :func:`groups_of`.
        batch_size: pairs in a batch of one rank, at most.
        seed, rank, world_size: see :class:`data_util.samplers.SourceBatchSampler`.

    Raises:
        ValueError: the groups are so few and large that a rank would have no pair of a batch.
    """

    def __init__(self, groups, batch_size, seed=42, rank=0, world_size=1):
        super().__init__(len(groups), batch_size, seed, rank, world_size)
        _, self.groups, counts = np.unique(groups, return_inverse=True, return_counts=True)
        self.batches = -(-len(groups) // (batch_size * world_size))
        self.drawn = int(np.minimum(counts, self.batches).sum())
        if self.drawn // self.batches < world_size:
            raise ValueError(
                f"{len(counts)} sounds with {len(groups)} pairs make batches of {self.drawn // self.batches} pairs of "
                f"different sounds, expected at least 1 for each of {world_size} processes"
            )
        if self.drawn < len(groups):
            logger.warning(
                "an epoch has %d of %d pairs: some sounds have more pairs than there are batches (%d)",
                self.drawn, len(groups), self.batches,
            )  # fmt: skip

    def __len__(self):
        return self.batches

    def _orders(self):
        rng = np.random.default_rng(np.random.SeedSequence((self.seed, self.epoch), spawn_key=(0, 2)))
        shuffled = rng.permutation(len(self.groups))
        place = rng.permutation(self.groups.max() + 1)[self.groups[shuffled]]
        order = np.argsort(place, kind="stable")
        ordered, place = shuffled[order], place[order]
        within = np.arange(len(place)) - np.searchsorted(place, place)
        return [ordered[within < self.batches]]

    def _batch(self, orders, number):
        together = orders[0][number :: self.batches]
        size = len(together) // self.world_size
        return together[self.rank * size : (self.rank + 1) * size].tolist()


def groups_of(pairs):
    """Numbers of groups such that pairs of one query or one item are of one group, also over several steps.

    Args:
        pairs: [pairs, 2] numbers of query and item.

    Returns:
        [pairs] int64.
    """
    group_of_item = {int(item): int(item) for item in pairs[:, 1]}

    def leader(item):
        while group_of_item[item] != item:
            item = group_of_item[item]
        return item

    first = {}
    for query, item in pairs.tolist():
        group_of_item[leader(item)] = leader(first.setdefault(query, item))
    return np.array([leader(item) for item in pairs[:, 1].tolist()], np.int64)
