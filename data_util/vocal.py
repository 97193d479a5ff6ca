"""The data sets of query by vocal imitation: pairs to train on, and a collection of sounds with queries to search it.

The keyword defaults of :func:`training_pairs` and :func:`evaluation_pairs` are the config section ``data``; samples are
those of :mod:`data_util.vocal_clips`. What is missing is downloaded on first use, or one line says what to put where.
"""

import logging
from pathlib import Path

from torch.utils.data import DataLoader

from data_util.archives import provide
from data_util.cache import complete_cache
from data_util.errors import DataMissing
from data_util.loaders import SAMPLING, leave_signals_to_parent
from data_util.tagging_samplers import ClipBatchSampler
from data_util.vocal_augment import AugmentedPairs, Switches
from data_util.vocal_clips import Pairs, Retrieval, SoundFiles, Sounds, pairs_of
from data_util.vocal_listings import (
    DEV_TABLE,
    DEVELOPMENT,
    IMITATIONS,
    VIMSKETCH,
    read_collection,
    restrict,
)
from data_util.vocal_samplers import PairBatchSampler, groups_of

logger = logging.getLogger(__name__)

VIMSKETCH_URL = "https://zenodo.org/records/2596911/files/Vim_Sketch_Dataset.zip?download=1"
DEVELOPMENT_URL = "https://cloud.cp.jku.at/index.php/s/R2tJQnPmxp6RSSz/download/qvim-dev.zip"


def training_pairs(
    dataset_path="data",
    train_root=None,
    train_url=VIMSKETCH_URL,
    train_checksum=None,
    train_list=None,
    download=True,
    sample_rate=32000,
    duration=10.0,
    cache_path=None,
    on_bad_audio="skip",
    pitch_shift=0.0,
    time_stretch=0.0,
    gain_augment=0.0,
    crop=0.0,
    mix_p=0.0,
    mix_snr=(5.0, 20.0),
    mix_folder=None,
    augment_references=False,
):
    """Pairs of an imitation and its sound, see :mod:`data_util.vocal_clips` for the samples.

    Args:
        dataset_path: folder of the data sets, ``Vim_Sketch_Dataset`` and ``qvim-dev``.
        train_root: folder to train on, of any layout of :mod:`data_util.vocal_listings`; None: ``Vim_Sketch_Dataset``
            in ``dataset_path``, downloaded if it is not there.
        train_url, train_checksum: archive of VimSketch, and its "sha256:..." or "md5:..." if known.
        train_list: split list of QBV; None: all imitations.
        download: whether data sets may be downloaded.
        sample_rate: Hz; other rates are resampled.
        duration: seconds; longer recordings are cut, shorter ones padded.
        cache_path: folder in which decoded and resampled files are kept; None decodes them in every epoch.
        on_bad_audio: "skip" pairs that cannot be decoded, or "raise", see :class:`data_util.stand_ins.StandIns`.
        pitch_shift, time_stretch, gain_augment, crop, mix_p, mix_snr, mix_folder, augment_references: augmentation,
            see :class:`data_util.vocal_augment.Switches`.

    Raises:
        DataMissing, TableError: a folder, file or table is missing or wrong.
        ValueError: an option has a value that is none of those above.
    """
    root = _provided(train_root, "data.train_root", dataset_path, VIMSKETCH, train_url, IMITATIONS, train_checksum,
                     download)  # fmt: skip
    collection = read_collection(root)
    if train_list is not None:
        collection = restrict(collection, train_list)
    if not len(collection.pairs):
        raise DataMissing(f"{root} has {len(collection.queries)} imitations and 0 pairs, expected at least 1 pair")
    pairs = Pairs(collection, *_read_by(collection, sample_rate, duration, cache_path), on_bad_audio)
    logger.info("%s: %d pairs of %d sounds", root, len(pairs), len(collection.items))
    switches = Switches(
        pitch_shift, time_stretch, gain_augment, crop, mix_p, tuple(mix_snr), mix_folder, augment_references
    )
    return AugmentedPairs(pairs, switches, sample_rate) if switches.any else pairs


def evaluation_pairs(
    dataset_path="data",
    test_root=None,
    test_url=DEVELOPMENT_URL,
    test_checksum=None,
    test_list=None,
    download=True,
    sample_rate=32000,
    duration=10.0,
    cache_path=None,
    on_bad_audio="skip",
):
    """A collection of sounds and the queries to search it with, as :class:`data_util.vocal_clips.Retrieval`.

    Arguments and errors as in :func:`training_pairs`, and

    Args:
        test_root: folder to evaluate on, of any layout; None: ``qvim-dev`` in ``dataset_path``.
        test_url, test_checksum: archive of the development set.
        test_list: split list of QBV: only these queries, in the whole collection.
    """
    root = _provided(test_root, "data.test_root", dataset_path, DEVELOPMENT, test_url, DEV_TABLE, test_checksum,
                     download)  # fmt: skip
    collection = read_collection(root)
    if test_list is not None:
        collection = restrict(collection, test_list)
    audio = _read_by(collection, sample_rate, duration, cache_path)
    queries, items = (Sounds(part, on_bad_audio) for part in audio)
    logger.info("%s: %d queries, %d sounds", root, len(queries), len(items))
    return Retrieval(items, queries, collection.targets, collection.classes)


def pair_loader(
    dataset, batch_size, seed, rank=0, world_size=1, epoch=0, start=0, unique_references=False, **options
):  # fmt: skip
    """Training batches.

    Args:
        dataset: of :func:`training_pairs`.
        batch_size: pairs in a batch of one rank.
        seed: of the order of pairs and of the draws of every pair.
        rank, world_size: this process, and how many share the epoch.
        epoch, start: the first batch is number ``start`` of that epoch.
        unique_references: whether pairs of one sound or of one imitation never meet in a batch, those of the other
            ranks included; see :class:`data_util.vocal_samplers.PairBatchSampler`.
        **options: further options of the DataLoader.
    """
    position = (batch_size, seed, rank, world_size)
    if unique_references:
        sampler = PairBatchSampler(groups_of(pairs_of(dataset).pairs), *position)
    else:
        sampler = ClipBatchSampler(len(dataset), *position)
    sampler.set_epoch(epoch)
    sampler.start = start
    options = {key: value for key, value in options.items() if key not in SAMPLING}
    options["worker_init_fn"] = options.get("worker_init_fn") or leave_signals_to_parent
    return DataLoader(dataset, batch_sampler=sampler, **options)


# -- building ---------------------------------------------------------------------------------------------------------
def _provided(root, entry, dataset_path, name, address, holds, checksum, download):
    if root is not None:
        if not Path(root).expanduser().is_dir():
            raise DataMissing(f"no folder {entry} = {root}")
        return Path(root).expanduser()
    folder = Path(dataset_path).expanduser() / name
    provide(folder, address, holds, checksum, download)
    return folder


def _read_by(collection, sample_rate, duration, cache_path):
    """:class:`SoundFiles` of the queries and of the items."""
    if duration <= 0 or sample_rate <= 0:
        raise ValueError(f"data.duration is {duration}, data.sample_rate {sample_rate}: expected numbers above 0")
    files = (collection.queries, collection.items)
    cache = (
        None
        if cache_path is None
        else complete_cache([path for part in files for path in part], cache_path, sample_rate)
    )
    return [SoundFiles(part, sample_rate, round(duration * sample_rate), cache) for part in files]
