"""Scores of all captions of a split for all its clips: stored in HDF5, read with checks, combined to ensembles.

A file has ``scores`` [captions, clips] float32, higher for more alike; ``captions`` (texts) and ``caption_ids``
(``<clip id>#<number>``, numbers from 1 on); ``files`` (audio file names, as in the caption table); ``right``
[pairs, 2], numbers of a caption and of a clip that is right for it; ``split``, its name; and ``model`` (JSON), what
made the scores. So it can be evaluated without the data set. It is written whole or not at all, and the same contents
are the same bytes.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from helpers.files import clip_id, replacing
from helpers.predictions import canonical, first_duplicate

log = logging.getLogger(__name__)

ENTRIES = ("scores", "caption_ids", "captions", "files", "right", "split", "model")
NORMALISATIONS = {"none": None, "all": (0, 1), "caption": (1,)}  # axes over which scores are standardised


@dataclass(frozen=True, eq=False)
class CaptionScores:
    """Scores of captions for clips, and what is right.

    Attributes:
        split: the part of the data set that captions and clips are from.
        files: [clips] audio file names, as in the caption table.
        captions: [captions] texts.
        ids: [captions] of :func:`caption_id`.
        scores: [captions, clips] float32, higher for more alike.
        relevant: [captions, clips] bool, the right clips of a caption.
        model: what made the scores, in terms of JSON.
        name: what messages call them, such as the path of their file.

    Raises:
        ValueError: sizes do not fit, there is no caption or no clip, one of them is there twice, or a score is no
            finite number.
    """

    split: str
    files: tuple[str, ...]
    captions: tuple[str, ...]
    ids: tuple[str, ...]
    scores: np.ndarray
    relevant: np.ndarray
    model: Mapping = field(default_factory=dict)
    name: str = "scores"

    def __post_init__(self):
        object.__setattr__(self, "scores", np.asarray(self.scores, dtype=np.float32))
        object.__setattr__(self, "relevant", np.asarray(self.relevant, dtype=bool))
        expected = (len(self.ids), len(self.files))
        if self.scores.shape != expected or self.relevant.shape != expected or len(self.captions) != len(self.ids):
            raise ValueError(
                f"{self.name}: scores {self.scores.shape} and right clips {self.relevant.shape} of "
                f"{len(self.captions)} captions, expected {expected}: captions, clips"
            )
        if not all(expected):
            raise ValueError(
                f"{self.name}: {expected[0]} captions and {expected[1]} clips, expected at least 1 of each"
            )
        for kind, names in (("caption", self.ids), ("clip", self.clips)):
            if len(set(names)) < len(names):
                raise ValueError(f"{self.name}: {kind} '{first_duplicate(names)}' is there twice, expected once")
        finite = np.isfinite(self.scores).all(axis=1)
        if not finite.all():
            first = self.ids[finite.argmin()]
            raise ValueError(
                f"{self.name}: NaN or infinite scores of {(~finite).sum()} of {len(finite)} captions, first '{first}'"
            )

    @cached_property
    def clips(self) -> tuple[str, ...]:
        """[clips] ids."""
        return tuple(clip_id(file) for file in self.files)

    @cached_property
    def owners(self) -> tuple[str, ...]:
        """[captions] ids of the clips that the captions were written for; these need not be among :attr:`clips`."""
        return tuple(name.rpartition("#")[0] for name in self.ids)

    def require(self, split: str | None = None, rows: Sequence | None = None):
        """Compares with a data set. Clips of it that have no scores are named in the log.

        Args:
            split: the part that is expected; None takes any.
            rows: its clips (``file``, ``clip`` and ``captions``, see ``data_util.captions``); None: not compared.

        Raises:
            ValueError: these are scores of another split, of other clips or of other captions.
        """
        if split is not None and self.split != split:
            raise ValueError(f"{self.name}: scores of the split '{self.split}', expected '{split}'")
        if rows is None:
            return
        texts, where = _texts(rows), f"the split '{self.split}' of the data set"
        known = {row.clip for row in rows}
        _require_known(self.name, "clips", self.clips, known, where)
        _require_known(self.name, "captions", self.ids, texts, where)
        for name, found in zip(self.ids, self.captions):
            if found != texts[name]:
                raise ValueError(f"{self.name}: caption '{name}' is '{found}', expected '{texts[name]}'")
        absent = sorted(known.difference(self.clips))
        if absent:
            log.warning("%s: no scores of %d of %d clips, first '%s'", self.name, len(absent), len(known), absent[0])

    def matrix(self, ids: Sequence[str], clips: Sequence[str], where: str = "what is asked for") -> np.ndarray:
        """[captions, clips] scores in the order of these ids.

        Args:
            ids: of captions.
            clips: ids of clips.
            where: what messages call the captions and clips that are asked for.

        Raises:
            ValueError: there are no scores of one of them.
        """
        if self.ids == tuple(ids) and self.clips == tuple(clips):
            return self.scores
        rows, columns = ({name: i for i, name in enumerate(names)} for names in (self.ids, self.clips))
        _require_known(where, "captions", ids, rows, self.name)
        _require_known(where, "clips", clips, columns, self.name)
        return self.scores[np.ix_([rows[name] for name in ids], [columns[name] for name in clips])]

    def matrix_of(self, rows: Sequence) -> np.ndarray:
        """[captions, clips] scores of clips with all their captions, in order, such as those that teach a student.

        Args:
            rows: clips, see :meth:`require`.

        Raises:
            ValueError: there are no scores of one of them.
        """
        return self.matrix(list(_texts(rows)), [row.clip for row in rows], "the data set")

    def write(self, path) -> Path:
        """Writes the file, and returns its path."""
        import h5py

        path, right = Path(path), np.argwhere(self.relevant)
        # Old format, fixed-length names and no time stamps: the same contents are the same bytes.
        with replacing(path) as temporary, h5py.File(temporary, "w", libver=("earliest", "v110")) as file:
            file.create_dataset("scores", data=self.scores, track_times=False)
            file.create_dataset("right", data=right.astype(np.int64).reshape(-1, 2), track_times=False)
            texts = {"caption_ids": self.ids, "captions": self.captions, "files": self.files}
            for name, values in {**texts, "split": (self.split,), "model": (canonical(self.model),)}.items():
                encoded = [value.encode() for value in values]
                kind = h5py.string_dtype("utf-8", max(1, *map(len, encoded)))
                file.create_dataset(name, data=np.array(encoded, dtype=kind), track_times=False)
        return path


def caption_id(clip: str, number: int) -> str:
    """By which files know a caption: the id of its clip and its number among that clip's captions, from 1 on."""
    return f"{clip}#{number}"


def caption_scores(
    split: str,
    rows: Sequence,
    scores,
    captions: Sequence[int] | None = None,
    clips: Sequence[int] | None = None,
    relevant=None,
    model: Mapping | None = None,
) -> CaptionScores:
    """Scores of a split's captions and clips, as :meth:`helpers.caption_metrics.CaptionMetrics.scores` gives them.

    Args:
        split: name of the part.
        rows: all its clips (``file``, ``clip`` and ``captions``, see ``data_util.captions``).
        scores: [captions, clips].
        captions: which of all captions, one clip's after the other's, have scores; None: all.
        clips: which clips have scores; None: all.
        relevant: [all captions, all clips] bool, the right clips; None: those that the captions were written for.
        model: what made the scores, in terms of JSON.

    Raises:
        ValueError: see :class:`CaptionScores`.
    """
    texts = _texts(rows)
    ids, owners = list(texts), np.repeat(np.arange(len(rows)), [len(row.captions) for row in rows])
    captions, clips = (
        np.arange(total) if numbers is None else np.asarray(numbers)
        for numbers, total in ((captions, len(ids)), (clips, len(rows)))
    )
    right = owners[captions, None] == clips if relevant is None else np.asarray(relevant)[np.ix_(captions, clips)]
    chosen = tuple(ids[number] for number in captions)
    return CaptionScores(
        split, tuple(rows[number].file for number in clips), tuple(texts[name] for name in chosen), chosen, scores,
        right, model or {}, f"scores of the split '{split}'",
    )  # fmt: skip


def read_caption_scores(path, split: str | None = None, rows: Sequence | None = None) -> CaptionScores:
    """Reads a file.

    Args:
        path: of the file.
        split, rows: what is expected, see :meth:`CaptionScores.require`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read as HDF5 or lacks an entry; and see :class:`CaptionScores` and
            :meth:`CaptionScores.require`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of audio-text scores {path}")
    with _opened(path) as file:
        missing = [name for name in ENTRIES if name not in file]
        if missing:
            raise ValueError(f"{path}: no entry '{missing[0]}', expected {', '.join(ENTRIES)}")
        files, captions, ids = (tuple(file[name].asstr()[:]) for name in ("files", "captions", "caption_ids"))
        [found], [model] = (file[name].asstr()[:] for name in ("split", "model"))
        scores, right = file["scores"][:], file["right"][:]
    relevant = np.zeros((len(ids), len(files)), dtype=bool)
    if right.shape[1:] != (2,) or not ((right >= 0) & (right < relevant.shape)).all():
        raise ValueError(
            f"{path}: right is no list of pairs of one of {len(ids)} captions and one of {len(files)} clips"
        )
    relevant[tuple(right.T)] = True
    result = CaptionScores(found, files, captions, ids, scores, relevant, json.loads(model), str(path))
    result.require(split, rows)
    return result


# -- ensembles --------------------------------------------------------------------------------------------------------
def ensemble(
    members: Sequence[CaptionScores], weights: Sequence[float] | None = None, normalise: str = "none"
) -> CaptionScores:
    """The weighted mean of several models' scores, aligned by the names of captions and clips.

    Args:
        members: scores of the same captions and clips, in whatever order.
        weights: one per member; None: all alike.
        normalise: what each member's scores become before: "none": as they are, such as cosine similarities; "all":
            mean 0 and standard deviation 1 over all scores; "caption": the same over the clips of each caption (this
            does not change how a single model ranks clips, but how it ranks captions).

    Returns:
        scores, captions and clips in the order of the first member.

    Raises:
        ValueError: there is no member; members are of other splits, captions, clips or right clips; or weights and
            normalisation are not as above.
    """
    if not members:
        raise ValueError("0 score files, expected at least 1")
    if normalise not in NORMALISATIONS:
        raise ValueError(f"normalise is {normalise!r}, expected one of {', '.join(NORMALISATIONS)}")
    try:
        weights = np.ones(len(members)) if weights is None else np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"weights are {weights!r}, expected numbers") from None
    if weights.shape != (len(members),) or not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
        raise ValueError(f"weights are {weights.tolist()}, expected one per score file ({len(members)}), none below 0")
    first, total = members[0], np.zeros(members[0].scores.shape)
    for member, weight in zip(members, weights / weights.sum()):
        _require_same(member, first)
        aligned = member.matrix(first.ids, first.clips).astype(np.float64)
        total += weight * _standardised(aligned, NORMALISATIONS[normalise])
    model = {"ensemble": [member.model for member in members], "weights": weights.tolist(), "normalise": normalise}
    return replace(first, scores=total, model=model, name="ensemble")


def _standardised(scores, axes):
    if axes is None:
        return scores
    spread = scores.std(axis=axes, keepdims=True)
    return (scores - scores.mean(axis=axes, keepdims=True)) / np.where(spread > 0, spread, 1)


def _require_same(member, first):
    """Raises ValueError unless both are scores of the same captions and clips with the same truth."""
    if member is first:
        return
    member.require(first.split)
    for kind, own, others in (("captions", member.ids, first.ids), ("clips", member.clips, first.clips)):
        _require_known(member.name, kind, own, set(others), first.name)
        _require_known(first.name, kind, others, set(own), member.name)
    texts = dict(zip(first.ids, first.captions))
    different = [name for name, text in zip(member.ids, member.captions) if texts[name] != text]
    if different:
        raise ValueError(f"{member.name}: caption '{different[0]}' is another text than in {first.name}")
    if _right_pairs(member) != _right_pairs(first):
        raise ValueError(f"{member.name}: other clips are right for the captions than in {first.name}")


def _right_pairs(scores):
    return {(scores.ids[caption], scores.clips[clip]) for caption, clip in np.argwhere(scores.relevant)}


def _texts(rows):
    """Caption id -> text, in order."""
    return {caption_id(row.clip, n): text for row in rows for n, text in enumerate(row.captions, start=1)}


def _require_known(name, kind, asked, known, where):
    """Raises ValueError where some names are not among those that are known."""
    absent = [one for one in asked if one not in known]
    if absent:
        raise ValueError(f"{name}: {len(absent)} of {len(asked)} {kind} are not in {where}, first '{absent[0]}'")


@contextmanager
def _opened(path):
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        raise ValueError(f"{path}: not readable as HDF5 ({str(error).splitlines()[0]})") from None
