"""Data loaders: training batches with fixed counts per source, evaluation sets split over ranks."""

import os
import signal
import threading

from torch.utils.data import DataLoader, Subset

from data_util.samplers import SourceBatchSampler

# Loader options which make no sense beside a batch sampler.
SAMPLING = ("batch_size", "shuffle", "sampler", "batch_sampler", "drop_last")


def train_loader(dataset, batch_sizes, seed, rank=0, world_size=1, epoch=0, start=0, **options):
    """Batches with ``batch_sizes[i]`` clips of source i.

    Args:
        dataset: concatenation of the sources, see ``data_util.task4.training_set``.
        batch_sizes: clips of each source in a batch of one rank; 0 leaves a source out.
        seed: of the order of clips and of the draws of every clip.
        rank, world_size: this process, and how many share the epoch.
        epoch, start: the first batch is number ``start`` of that epoch.
        **options: further options of the DataLoader.
    """
    sampler = SourceBatchSampler(
        [len(source) for source in dataset.datasets], batch_sizes, seed=seed, rank=rank, world_size=world_size
    )
    sampler.set_epoch(epoch)
    sampler.start = start
    options = {key: value for key, value in options.items() if key not in SAMPLING}
    return DataLoader(dataset, batch_sampler=sampler, **_with_init(options))


def evaluation_loader(dataset, rank=0, world_size=1, **options):
    """Every clip once: rank r has clips r, r + world_size, ...; nothing is repeated to even the ranks out."""
    if world_size > 1:
        dataset = Subset(dataset, range(rank, len(dataset), world_size))
    return DataLoader(dataset, **_with_init(options))


def _with_init(options):
    return {**options, "worker_init_fn": options.get("worker_init_fn") or leave_signals_to_parent}


def batched_by_dataset(options):
    """Options of a DataLoader whose data set makes the batches itself."""
    kept = {key: value for key, value in options.items() if key not in (*SAMPLING, "collate_fn")}
    return kept | {"worker_init_fn": leave_signals_to_parent}


def leave_signals_to_parent(worker):
    """Makes a worker process outlive the Ctrl-C or SIGTERM that goes to all processes of a run.

    What they mean is settled by the process that trains, and it needs data until it stops. The SIGTERM by which that
    process ends its workers still ends them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent):
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
