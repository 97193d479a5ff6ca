"""Running a model over a data set and storing what it predicts, on any number of devices, however often interrupted."""

import logging
import os
import signal
import threading
from contextlib import contextmanager
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate

from helpers.files import clip_id
from helpers.predictions import Partial
from helpers.runs import make_trainer

log = logging.getLogger(__name__)


class Batches(Dataset):
    """Whole batches of a data set, each beside its number.

    Args:
        dataset: the clips.
        partial: says which of them are a batch.
        numbers: of the batches.
    """

    def __init__(self, dataset, partial: Partial, numbers):
        self.dataset, self.partial, self.numbers = dataset, partial, list(numbers)

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        number = self.numbers[index]
        return number, default_collate([self.dataset[clip] for clip in self.partial.batch(number)])


class Predicting(L.LightningModule):
    """Predicts the batches that are still to do, every rank its part of them, and stores each at once.

    Args:
        predict: module, waveforms [B, samples] -> logits [B, frames, classes].
        dataset: its samples are collated to batches; they name their ``filename``.
        partial: the storage.
        loader_options: options of the DataLoader apart from those of sampling.
    """

    def __init__(self, predict: nn.Module, dataset, partial: Partial, loader_options):
        super().__init__()
        self.model, self.dataset, self.partial = predict, dataset, partial
        self.loader_options = loader_options
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer batches than ranks

    def predict_dataloader(self):
        # The ranks must share the same list: another one may look at the folder when batches have come in already.
        numbers = self.trainer.strategy.broadcast(self.partial.todo())
        mine = numbers[self.global_rank :: self.trainer.world_size]
        return DataLoader(Batches(self.dataset, self.partial, mine), batch_size=None, **self.loader_options)

    def on_predict_start(self):
        if threading.current_thread() is threading.main_thread():
            # Instead of the trainer's own handlers, which predict to the end; it puts the former ones back.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, _stop)

    def predict_step(self, batch, batch_idx):
        return self.model(batch[1]["audio"])

    def on_predict_batch_end(self, outputs, batch, batch_idx):
        number, samples = batch
        expected = [self.partial.clips[clip] for clip in self.partial.batch(number)]
        for name, clip in zip(samples["filename"], expected, strict=True):
            if clip_id(name) != clip:
                raise ValueError(f"{self.partial.path}: the data set has {name} where clip '{clip}' is expected")
        self.partial.put(number, outputs.float().cpu().numpy())


def store(trainer_entries, predict: nn.Module, dataset, partial: Partial, *, loader_options=None) -> Path:
    """Predicts what is not stored yet of a data set and makes the final file; nothing to do starts no trainer.

    A run that ends early, by a signal or an error, leaves its batches for the next one, on whatever number of devices.
    So that the file does not show it, no kernels are chosen by their speed on the day; on a CPU, every process must
    have as many threads as before.

    Args:
        trainer_entries: the config section ``trainer``, see :func:`helpers.runs.make_trainer`.
        predict: module, waveforms [B, samples] -> logits [B, frames, classes].
        dataset: the clips, in the order of ``partial.clips``.
        partial: where to store them.
        loader_options: options of the DataLoader apart from those of sampling; with worker processes, a
            ``worker_init_fn`` that leaves signals to this one keeps Ctrl-C quiet.

    Returns:
        path of the file; on ranks other than zero it may not be there yet if all that was left was to finish it.

    Raises:
        ValueError: see :meth:`helpers.predictions.Partial.put`; the data set has other clips.
    """
    left = partial.todo()
    if not left:
        rank_zero_only(partial.finish)()
        return partial.path
    log.info("%s: %d of %d batches to predict", partial.path, len(left), partial.n_batches)
    entries = {**trainer_entries, "limit_predict_batches": None, "benchmark": False}
    trainer = make_trainer(entries, partial.path.parent, loggers=False)
    with _ending_with_parent(trainer.local_rank):
        trainer.predict(Predicting(predict, dataset, partial, loader_options or {}), return_predictions=False)
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            partial.finish()
        trainer.strategy.barrier()
    return partial.path


def _stop(number, frame):
    log.warning("stopped; the same command goes on from here")
    raise SystemExit(128 + number)


@contextmanager
def _ending_with_parent(local_rank):
    """Lets a process of a further device end when the one that started it has ended, however that came about.

    It would wait for the other ranks, holding its device, long after a new run has begun.
    """
    done, parent = threading.Event(), os.getppid()

    def watch():
        while not done.wait(0.2):
            if os.getppid() != parent:
                os._exit(1)

    watching = threading.Thread(target=watch, daemon=True)
    if local_rank > 0:
        watching.start()
    try:
        yield
    except RuntimeError:
        if local_rank > 0:
            watching.join(10)  # a lost connection is no error to report when the parent is about to end
        raise
    finally:
        done.set()
