"""Data loaders: training batches with fixed counts per source, evaluation sets split over ranks."""

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
    return DataLoader(dataset, batch_sampler=sampler, **options)


def evaluation_loader(dataset, rank=0, world_size=1, **options):
    """Every clip once: rank r has clips r, r + world_size, ...; nothing is repeated to even the ranks out."""
    if world_size > 1:
        dataset = Subset(dataset, range(rank, len(dataset), world_size))
    return DataLoader(dataset, **options)
