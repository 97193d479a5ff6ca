"""What the Lightning modules of all experiments share: seeded draws, and metrics over the clips of all processes."""

from collections.abc import Mapping

import lightning as L
import numpy as np
import torch
from torch.nn import functional


class SeededModule(L.LightningModule):
    """Draws that depend on (seed, epoch, batch, rank) alone, and metrics that are computed once.

    So a run which goes on from a checkpoint draws what an uninterrupted one would have drawn, and several processes
    find the metrics of one.

    Args:
        seed: of all draws.
        evaluation: "validation" and "test" -> metrics with ``reset``, ``state``, ``merge`` and ``publish``.

    Attributes:
        results: name -> value of the latest evaluation, on every rank.
    """

    def __init__(self, seed: int, evaluation: Mapping):
        super().__init__()
        self.seed, self.evaluation = seed, evaluation
        self.results: dict[str, float] = {}

    def generator(self, batch_idx):
        """The numpy generator of a step; torch's own, which dropout uses, is seeded alike."""
        sequence = np.random.SeedSequence([self.seed, self.current_epoch, batch_idx, self.global_rank])
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
        return np.random.default_rng(sequence)

    def features(self, audio, rng=None):
        """What the front end ``mel`` makes of [B, samples]; those too short for a frame are filled up with zeros."""
        rate = self.mel.input_rate or self.mel.sample_rate
        missing = -(-self.mel.min_samples * rate // self.mel.sample_rate) - audio.shape[-1]
        return self.mel(functional.pad(audio, (0, missing)) if missing > 0 else audio, rng=rng)

    def start(self, part):
        """Forgets the clips of an earlier evaluation; running statistics are those of rank zero, as in a checkpoint."""
        self.evaluation[part].reset()
        if self.trainer.world_size > 1:
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def finish(self, part, prefix):
        """Gathers the clips of all ranks, computes on one of them, logs everywhere."""
        evaluation = self.evaluation[part]
        if self.trainer.world_size > 1:
            states = [None] * self.trainer.world_size if self.trainer.is_global_zero else None
            torch.distributed.gather_object(evaluation.state(), states)
            if states:
                evaluation.merge(states)
        values = dict(evaluation.publish(prefix)) if self.trainer.is_global_zero else None
        self.results = self.trainer.strategy.broadcast(values)
        self.log_dict(self.results, rank_zero_only=False, sync_dist=False)

    def on_validation_epoch_start(self):
        self.start("validation")

    def on_test_epoch_start(self):
        self.start("test")

    def on_validation_epoch_end(self):
        self.finish("validation", "val")

    def on_test_epoch_end(self):
        self.finish("test", "test")
