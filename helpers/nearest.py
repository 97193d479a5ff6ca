"""Nearest vectors by inner product: exact in blocks with NumPy, or through FAISS, which also searches approximately."""

import importlib
import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

log = logging.getLogger(__name__)

KINDS = ("flat", "ivf", "hnsw")
AGAIN = "make the index again with index.overwrite=True"  # how a message about a damaged file ends
BLOCK = 1 << 16  # vectors that are compared at a time
LINKS, EF_CONSTRUCTION = 32, 80  # of every vector in an HNSW graph, and how widely neighbours are looked for
TRAINED_PER_LIST, ROUNDS = 64, 10  # vectors per list and rounds of the k-means that makes the lists of IVF
PROBES, DEPTHS = (4, 1024), (32, 1024)  # least and greatest effort of IVF (lists) and HNSW (candidates)
RECALL, TRIED, TOP = 0.95, 200, 10  # effort is raised until recall@10 of so many of the vectors is that high


def faiss_module():
    """The package faiss, or None where it is not installed."""
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it tells of every build that it tries in vain
    try:
        return importlib.import_module("faiss")
    except ImportError:
        return None


def exact(vectors: np.ndarray, queries: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The vectors with the largest inner products; of equal ones those that come first.

    Args:
        vectors: [n, dim] float32, may be memory-mapped; read in blocks.
        queries: [q, dim] float32.
        top: at most this many.

    Returns:
        scores [q, k] float32 in descending order and numbers [q, k] int64, with k = min(top, n).
    """
    queries, top = np.asarray(queries, np.float32), min(top, len(vectors))
    scores, rows = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(vectors), BLOCK):
        block = queries @ np.asarray(vectors[start : start + BLOCK]).T
        found = [_best(row, min(top, len(row))) for row in block]
        scores = np.concatenate([scores, np.stack([row[best] for row, best in zip(block, found)])], axis=1)
        rows = np.concatenate([rows, np.stack(found) + start], axis=1)
        # Stable, and earlier blocks come first: so do, of equal scores, earlier vectors.
        order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        scores, rows = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
    return scores, rows


def _best(scores, top):
    """Numbers of the ``top`` largest, in descending order; of equal ones those that come first."""
    least = np.partition(scores, len(scores) - top)[len(scores) - top]
    candidates = np.flatnonzero(scores >= least)
    return candidates[np.argsort(-scores[candidates], kind="stable")[:top]]


def chosen(approximate: str | None, approximate_from: int, count: int) -> str:
    """Kind of index for so many vectors.

    Raises:
        ValueError: ``approximate`` is unknown, or FAISS is not installed for it.
    """
    if approximate is not None and approximate not in KINDS[1:]:
        raise ValueError(f"approximate is {approximate!r}, expected None, 'ivf' or 'hnsw'")
    if approximate is not None and faiss_module() is None:
        raise ValueError(f"approximate={approximate} needs the package faiss: pip install faiss-cpu")
    return approximate if approximate and count >= approximate_from else "flat"


def write_faiss(path, vectors: np.ndarray, kind: str = "flat", recall: float = RECALL) -> dict:
    """Makes a FAISS index of unit vectors and writes it.

    The effort of an approximate search (lists of IVF, candidates of HNSW) is doubled until its recall is reached.

    Args:
        path: the file.
        vectors: [n, dim] float32 of norm 1, may be memory-mapped.
        kind: "flat" (exact), "ivf" (inverted lists) or "hnsw" (graph), see :func:`chosen`.
        recall: wanted of the ten nearest of 200 of the vectors, themselves not counted.

    Returns:
        what it is: ``kind``, ``effort`` and the measured ``recall`` (1 for "flat"); ``kind`` alone, "numpy", and no
        file where FAISS is not installed.

    """
    faiss = faiss_module()
    if faiss is None:
        return {"kind": "numpy"}
    index = _empty(faiss, vectors, kind)
    for start in range(0, len(vectors), BLOCK):
        index.add(np.ascontiguousarray(vectors[start : start + BLOCK]))
    about = {"kind": kind, **_tuned(index, vectors, kind, recall)}
    faiss.write_index(index, str(path))
    return about


def _empty(faiss, vectors, kind):
    count, dim = vectors.shape
    if kind == "flat":
        return faiss.IndexFlatIP(dim)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = EF_CONSTRUCTION
        return index
    lists = max(1, min(round(math.sqrt(count)), count // TRAINED_PER_LIST))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical, index.cp.niter, index.cp.max_points_per_centroid = True, ROUNDS, TRAINED_PER_LIST
    index.cp.min_points_per_centroid = 1
    drawn = np.random.default_rng(0).choice(count, min(count, lists * TRAINED_PER_LIST), replace=False)
    index.train(np.ascontiguousarray(vectors[np.sort(drawn)]))
    return index


def _tuned(index, vectors, kind, wanted):
    """Effort at which an index reaches a recall, and that recall; the index is left so."""
    if kind == "flat":
        return {"recall": 1.0}
    effort, greatest = PROBES if kind == "ivf" else DEPTHS
    greatest = min(greatest, index.nlist) if kind == "ivf" else greatest
    drawn = np.sort(np.random.default_rng(1).choice(len(vectors), min(TRIED, len(vectors)), replace=False))
    queries = np.ascontiguousarray(vectors[drawn])
    truth = exact(vectors, queries, TOP + 1)[1]
    while True:
        effort = min(effort, greatest)
        set_effort(index, effort)
        reached = recall_of(index.search(queries, TOP + 1)[1], truth, themselves=drawn)
        if reached >= wanted or effort == greatest:
            break
        effort *= 2
    if reached < wanted:
        log.warning("approximate search (%s) finds %.0f %% of the ten nearest, expected %.0f %%",
                    kind, 100 * reached, 100 * wanted)  # fmt: skip
    return {"effort": effort, "recall": round(reached, 4)}


def set_effort(index, effort: int):
    """Sets how many lists (IVF) or candidates (HNSW) a search looks at."""
    if hasattr(index, "nprobe"):
        index.nprobe = effort
    else:
        index.hnsw.efSearch = effort


def recall_of(found: np.ndarray, truth: np.ndarray, themselves: np.ndarray | None = None) -> float:
    """Mean share of the true neighbours that are found.

    Args:
        found, truth: [q, k] numbers of vectors.
        themselves: [q] numbers of the queries, where they are vectors of the index: they are not counted.
    """
    shares = []
    for number, (ours, theirs) in enumerate(zip(found.tolist(), truth.tolist())):
        theirs = set(theirs) - (set() if themselves is None else {int(themselves[number])})
        shares.append(len(theirs & set(ours)) / len(theirs) if theirs else 1.0)
    return float(np.mean(shares))


def searcher(vectors: np.ndarray, path, kind: str) -> Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]:
    """The search over written vectors: FAISS where there are its file and the package, else exact with NumPy.

    Args:
        vectors: [n, dim] float32, may be memory-mapped.
        path: the file of :func:`write_faiss`.
        kind: as it was written.

    Returns:
        a function (queries [q, dim], top) -> scores and numbers [q, k], see :func:`exact`; an approximate search may
        find fewer vectors and then ends with numbers -1.

    Raises:
        ValueError: the file is damaged or has other vectors.
    """
    faiss = faiss_module()
    if kind == "numpy" or faiss is None or not Path(path).is_file():
        if kind not in ("numpy", "flat"):
            log.warning("%s: faiss or its file is missing, so the search is exact and slower", path)
        return lambda queries, top: exact(vectors, queries, top)
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if hasattr(faiss, "IO_FLAG_MMAP_IFC") else 0)
    except RuntimeError:  # whose text is a line of the package's source
        raise ValueError(f"{path}: damaged, {AGAIN}") from None
    if (index.ntotal, index.d) != vectors.shape:
        expected = " x ".join(map(str, vectors.shape))
        raise ValueError(f"{path}: {index.ntotal} x {index.d} vectors, expected {expected}: {AGAIN}")
    return lambda queries, top: index.search(np.ascontiguousarray(queries, np.float32), min(top, len(vectors)))
