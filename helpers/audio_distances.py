"""Distances of clips and of sets of clips: log-mels, embeddings, class probabilities. What they are for says
:mod:`helpers.audio_quality`.
"""

from dataclasses import dataclass

import numpy as np

EPSILON = 1e-7  # probabilities are kept so far from 0 and 1


# -- log-mels ---------------------------------------------------------------------------------------------------------
def scaled(mel) -> np.ndarray:
    """Features of a clip, scaled to 0 ... 1 by their own minimum and maximum; zeros where all are equal."""
    mel = np.asarray(mel, dtype=np.float64)
    low, high = mel.min(), mel.max()
    return (mel - low) / (high - low) if high > low else np.zeros_like(mel)


def dtw_cost(distances, diagonal_weight: float = 1.0) -> np.ndarray:
    """Cost of the best path of dynamic time warping from corner to corner.

    Args:
        distances: [..., n, m] between the elements of two sequences.
        diagonal_weight: of a step in both sequences; 2 makes all paths equally heavy [Sakoe and Chiba, "Dynamic
            Programming Algorithm Optimization for Spoken Word Recognition", 1978, symmetric form].

    Returns:
        [...] sums of distances.
    """
    distances = np.asarray(distances, dtype=np.float64)
    n, m = distances.shape[-2:]
    last = np.full((*distances.shape[:-2], n + 1), np.inf)  # [..., 1 + i]: cost at row i of an antidiagonal
    before = last.copy()
    before[..., 0] = 0
    for diagonal in range(n + m - 1):
        rows = np.arange(max(0, diagonal - m + 1), min(n, diagonal + 1))
        here = distances[..., rows, diagonal - rows]
        straight = np.minimum(last[..., rows], last[..., rows + 1]) + here
        now = np.full_like(last, np.inf)
        now[..., rows + 1] = np.minimum(straight, before[..., rows] + diagonal_weight * here)
        before, last = last, now
    return last[..., n]


def dtw_of_windows(first, second) -> np.ndarray:
    """Warping costs of two clips' mel bands, for every place of the shorter clip in the longer one.

    Args:
        first, second: [frames, bands].

    Returns:
        [places] costs; the sequences are the bands, an element is what a band does over time.
    """
    short, long = sorted((np.asarray(first, np.float64), np.asarray(second, np.float64)), key=len)
    squares = (short**2).sum(0)[:, None]
    costs = []
    for start in range(len(long) - len(short) + 1):
        window = long[start : start + len(short)]
        costs.append(np.sqrt(np.maximum(squares + (window**2).sum(0) - 2 * short.T @ window, 0)))
    return dtw_cost(np.stack(costs))


def published_dtw(first, second) -> float:
    """The published measure of warping: :func:`dtw_of_windows`, scaled to 0 ... 1 over the places, averaged."""
    return float(scaled(dtw_of_windows(first, second)).mean())


def windowed_correlation(first, second) -> float:
    """1 - the correlation of two clips, averaged over all places of the shorter one in the longer one.

    Args:
        first, second: [frames, bands].

    Returns:
        0 to 2; nan where a clip does not change at all, nowhere or everywhere.
    """
    short, long = sorted((np.asarray(first, np.float64), np.asarray(second, np.float64)), key=len)
    short = short - short.mean()
    norm, found = np.sqrt((short**2).sum()), []
    for start in range(len(long) - len(short) + 1):
        window = long[start : start + len(short)]
        window = window - window.mean()
        product = norm * np.sqrt((window**2).sum())
        found.append((short * window).sum() / product if product > 0 else np.nan)
    return float(1 - np.mean(found))


def dtw_in_time(first, second) -> float:
    """Distance of two frames, root mean square over the bands, averaged over the best path of warping in time.

    Args:
        first, second: [frames, bands].
    """
    from scipy.spatial.distance import cdist

    distances = cdist(first, second) / np.sqrt(np.shape(first)[1])
    return float(dtw_cost(distances, diagonal_weight=2.0) / sum(distances.shape))


# -- embeddings and classes -------------------------------------------------------------------------------------------
def cosine_distance(first, second) -> np.ndarray:
    """1 - cosine of the rows of two arrays [n, dimensions]; nan where a row is zero."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    products = (first * second).sum(-1)
    return 1 - np.divide(products, norms, out=np.full(np.shape(norms), np.nan), where=norms > 0)


def kl_divergence(original, synthetic, multi_label: bool = True) -> np.ndarray:
    """Kullback-Leibler divergences of class probabilities [n, classes], in nats.

    Args:
        original: those that are to be met.
        synthetic: those that are found.
        multi_label: every class is there or not, on its own, and their divergences are summed; else the classes share
            a probability of one.

    Returns:
        [n].
    """
    p, q = (np.clip(np.asarray(x, np.float64), EPSILON, 1 - EPSILON) for x in (original, synthetic))
    if multi_label:
        return (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(-1)
    p, q = (x / x.sum(-1, keepdims=True) for x in (p, q))
    return (p * np.log(p / q)).sum(-1)


def same_classes(original, synthetic, among: int = 1) -> np.ndarray:
    """1 where the original's best class is among the synthetic clip's best, else 0: [n, classes] twice -> [n].

    Of equal probabilities the first class counts as the best.
    """
    best = np.argmax(original, axis=-1)
    ranked = np.argsort(-np.asarray(synthetic), axis=-1, kind="stable")[..., :among]
    return (ranked == best[..., None]).any(-1).astype(np.float64)


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution: mean [dimensions], and a root [k, dimensions] of its covariance, ``root.T @ root``."""

    mean: np.ndarray
    root: np.ndarray

    @classmethod
    def of(cls, embeddings) -> "Gaussian":
        """That of a set of embeddings [n, dimensions].

        Raises:
            ValueError: there are fewer than two, or numbers that are not finite.
        """
        embeddings = np.asarray(embeddings, dtype=np.float64)
        if embeddings.ndim != 2 or len(embeddings) < 2 or not np.isfinite(embeddings).all():
            raise ValueError(f"embeddings {embeddings.shape}, expected finite numbers of two clips or more")
        mean = embeddings.mean(0)
        root = (embeddings - mean) / np.sqrt(len(embeddings) - 1)
        return cls(mean, np.linalg.qr(root, mode="r") if len(root) > len(mean) else root)

    @classmethod
    def with_covariance(cls, mean, covariance) -> "Gaussian":
        """That of a mean [dimensions] and a covariance [dimensions, dimensions]."""
        values, vectors = np.linalg.eigh(np.asarray(covariance, dtype=np.float64))
        return cls(np.asarray(mean, dtype=np.float64), np.sqrt(np.maximum(values, 0))[:, None] * vectors.T)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Squared Fréchet distance of two normal distributions.

    ``|m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1 C2)^(1/2)``. The roots of the eigenvalues of ``C1 C2`` are the singular
    values of ``R1 R2^T``, where ``C = R^T R``. So no root of a matrix is taken, which would fail where there are fewer
    clips than dimensions, and the trace needs no matrix larger than the smaller number of both.
    """
    common = np.linalg.svd(first.root @ second.root.T, compute_uv=False).sum()
    spread = (first.root**2).sum() + (second.root**2).sum() - 2 * common
    return float(((first.mean - second.mean) ** 2).sum() + max(spread, 0.0))
