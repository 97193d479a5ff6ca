"""How alike synthetic and original audio are: measures of pairs of clips, and of two sets of them.

Measures of a pair, 0 for equal clips unless said otherwise, on log-mels that are scaled to 0 ... 1 each by its own
minimum and maximum:

* ``dtw``, ``wcc``, ``model``: as in the published study of AudioGen and EzAudio clips for training on Clotho, to be
  compared with its tables. The published ``dtw`` warps the mel axis, and its scaling takes the distance itself away, so
  that clips of equal length always get 0;
* ``dtw_time``: what was meant, the distance of two frames on the best path in time.

And on the embeddings and class probabilities of any tagger:

* ``embedding``: 1 - cosine;
* ``kl``: Kullback-Leibler divergence of the synthetic clip's class probabilities from the original's, in nats;
* ``same_class``, ``among_five``: whether the original's best class is the synthetic clip's, or among its best five.

Two sets have a Fréchet audio distance [Kilgour et al., "Fréchet Audio Distance: A Reference-free Metric for Evaluating
Music Enhancement Algorithms", Interspeech 2019]. It grows with fewer clips; sets are comparable at equal numbers.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from helpers.audio_distances import (
    Gaussian,
    cosine_distance,
    dtw_in_time,
    frechet_distance,
    kl_divergence,
    published_dtw,
    same_classes,
    scaled,
    windowed_correlation,
)

FEW = 5  # classes
OF_MELS = {"dtw": published_dtw, "wcc": windowed_correlation, "dtw_time": dtw_in_time}
MEL_MEASURES = ("dtw", "wcc", "model", "dtw_time")
TAG_MEASURES = ("embedding", "kl", "same_class", "among_five")


@dataclass(frozen=True)
class Pair:
    """A synthetic clip and the original of its caption: id of the original, number of the caption, and both files."""

    clip: str
    column: int
    original: str
    synthetic: str


@dataclass
class Comparison:
    """What was found.

    Attributes:
        pairs: those that could be compared.
        values: measure -> [pairs], nan where it has no value.
        chance: measure -> its mean where every synthetic clip is held against another original.
        frechet: number of the caption, 0 for all synthetic clips -> distance from their originals.
        floor: Fréchet distance of one half of the originals from the other; None for fewer than four.
        skipped: file -> why it could not be compared.
    """

    pairs: list[Pair]
    values: dict[str, np.ndarray] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)
    frechet: dict[int, float] = field(default_factory=dict)
    floor: float | None = None
    skipped: dict[str, str] = field(default_factory=dict)


def pair_up(
    clips: Sequence[str], originals: Sequence[str | None], synthetic: Sequence[Mapping[int, str]]
) -> list[Pair]:
    """Pairs of all synthetic clips whose original is there.

    Args:
        clips: ids of the originals.
        originals: their files; None where there is none.
        synthetic: of each original, number of the caption -> file.
    """
    return [
        Pair(clip, column, str(original), str(made[column]))
        for clip, original, made in zip(clips, originals, synthetic)
        if original is not None
        for column in sorted(made)
    ]


def compare(
    pairs: Sequence[Pair],
    features: Callable[[str], np.ndarray] | None = None,
    encode: Callable[[np.ndarray], np.ndarray] | None = None,
    analyse: Callable[[list[str]], tuple[np.ndarray, np.ndarray | None]] | None = None,
    multi_label: bool = True,
    measures: Sequence[str] = MEL_MEASURES,
    apply: Callable[[Callable, list], Iterable] = map,
) -> Comparison:
    """Compares synthetic clips with their originals.

    Args:
        pairs: see :func:`pair_up`.
        features: file -> log-mel [frames, bands]; None: no measures of log-mels.
        encode: scaled log-mel [frames, bands] -> embedding, for ``model``; None: without that.
        analyse: files -> embeddings [n, dimensions], with rows of nan for files that cannot be read, and class
            probabilities [n, classes], or None instead of those. None: no measures of taggers.
        multi_label: see :func:`helpers.audio_distances.kl_divergence`.
        measures: which of :data:`MEL_MEASURES`.
        apply: calls a function for every job, in order, such as ``map`` or that of a pool.

    Raises:
        ValueError: an unknown measure, no pair, or none that can be compared.
    """
    unknown = [name for name in measures if name not in MEL_MEASURES]
    if unknown:
        raise ValueError(f"compare.measures has '{unknown[0]}', expected some of {', '.join(MEL_MEASURES)}")
    if not pairs:
        raise ValueError("0 pairs of original and synthetic audio, expected at least 1")
    result = Comparison(list(pairs))
    chosen = tuple(name for name in measures if features is not None and (name != "model" or encode is not None))
    if not chosen and analyse is None:
        raise ValueError("compare: no measure of log-mels and no tagger, expected at least one of them")
    if chosen:
        _compare_mels(result, functools.partial(_mel_job, features, encode, chosen), chosen, apply)
    if analyse is not None and result.pairs:
        _compare_tags(result, analyse, multi_label)
    if not result.pairs:
        raise ValueError(f"none of {len(pairs)} pairs can be compared: {next(iter(result.skipped.values()))}")
    return result


def _compare_mels(result, job, names, apply):
    groups: dict[str, list[Pair]] = {}
    for pair in result.pairs:
        groups.setdefault(pair.original, []).append(pair)
    jobs = [(original, [pair.synthetic for pair in own]) for original, own in groups.items()]
    found = {}
    for own, (rows, skipped) in zip(groups.values(), apply(job, jobs)):
        result.skipped.update(skipped)
        found.update({pair: row for pair, row in zip(own, rows) if row is not None})
    result.pairs = [pair for pair in result.pairs if pair in found]
    result.values = {name: np.array([found[pair][name] for pair in result.pairs]) for name in names}


def _mel_job(features, encode, names, job):
    """Measures of an original and each of its synthetic clips (None where that cannot be read), and what cannot."""
    original, files = job
    try:
        reference = scaled(features(original))
    except (ValueError, OSError) as error:
        return [None] * len(files), {original: str(error).splitlines()[0]}
    encoded = encode(reference) if "model" in names else None
    rows, skipped = [], {}
    for file in files:
        try:
            mel = scaled(features(file))
        except (ValueError, OSError) as error:
            skipped[file] = str(error).splitlines()[0]
            rows.append(None)
            continue
        row = {name: OF_MELS[name](reference, mel) for name in names if name in OF_MELS}
        if "model" in names:
            row["model"] = float(cosine_distance(encoded, encode(mel)))
        rows.append(row)
    return rows, skipped


def _compare_tags(result, analyse, multi_label):
    files = list(dict.fromkeys(file for pair in result.pairs for file in (pair.original, pair.synthetic)))
    embeddings, probabilities = analyse(files)
    readable = np.isfinite(embeddings).all(1)
    result.skipped.update({file: "no finite embedding" for file, there in zip(files, readable) if not there})
    number = {file: k for k, file in enumerate(files)}
    rows = np.array([(number[pair.original], number[pair.synthetic]) for pair in result.pairs])
    kept = readable[rows].all(1)
    result.pairs = [pair for pair, there in zip(result.pairs, kept) if there]
    result.values = {name: values[kept] for name, values in result.values.items()}
    if not result.pairs:
        return
    original, synthetic = rows[kept].T
    result.values |= _tag_measures(embeddings, probabilities, original, synthetic, multi_label)
    columns = np.array([pair.column for pair in result.pairs])
    other = _another(original, columns)
    if (other != original).all():
        by_chance = _tag_measures(embeddings, probabilities, other, synthetic, multi_label)
        result.chance = {name: float(np.nanmean(values)) for name, values in by_chance.items()}
    _frechet(result, np.asarray(embeddings), original, synthetic, columns)


def _frechet(result, embeddings, original, synthetic, columns):
    """Distances of all synthetic clips and of those of a caption from their originals; every clip counts once."""
    known: dict[bytes, Gaussian] = {}  # captions share their originals

    def gaussian(rows):
        rows = np.unique(rows)
        if rows.tobytes() not in known:
            known[rows.tobytes()] = Gaussian.of(embeddings[rows])
        return known[rows.tobytes()]

    for column in (0, *np.unique(columns)):
        chosen = columns == column if column else np.ones(len(columns), bool)
        if min(len(np.unique(original[chosen])), len(np.unique(synthetic[chosen]))) > 1:
            result.frechet[int(column)] = frechet_distance(gaussian(original[chosen]), gaussian(synthetic[chosen]))
    originals = np.unique(original)
    if len(originals) > 3:
        result.floor = frechet_distance(gaussian(originals[::2]), gaussian(originals[1::2]))


def _tag_measures(embeddings, probabilities, original, synthetic, multi_label):
    embeddings = np.asarray(embeddings)
    values = {"embedding": cosine_distance(embeddings[original], embeddings[synthetic])}
    if probabilities is not None:
        p, q = np.asarray(probabilities)[original], np.asarray(probabilities)[synthetic]
        values["kl"] = kl_divergence(p, q, multi_label)
        values["same_class"], values["among_five"] = same_classes(p, q), same_classes(p, q, FEW)
    return values


def _another(original, columns):
    """For every pair the original of the next pair of the same caption column."""
    other = original.copy()
    for column in np.unique(columns):
        chosen = columns == column
        other[chosen] = np.roll(original[chosen], -1)
    return other
