"""Making of a folder of generated audio from captions, as training mixes it (:mod:`data_util.synthetic`).

Caption ``k`` of ``rain.wav`` becomes ``rain_cap_<k>.wav``. A clip is made under another name and renamed when it is
complete, so a process may be killed at any moment and the next one makes what is not there yet. Beside the clips are

* ``generation.json``: generator, its settings and the seed, which must stay the same in a folder;
* ``generation.jsonl``: for each clip ``file``, ``prompt``, its own ``seed``, and ``seconds`` and ``sample_rate``, or,
  of a clip that could not be made, ``failed`` and why.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import soundfile
import soxr
from tqdm import tqdm

from data_util.audio import decode
from data_util.captions import Captioned, match_audio
from data_util.errors import BadAudio, DataMissing
from data_util.generator_contract import BatchFailed, GenerationError, Task
from data_util.output import claim
from data_util.synthetic import COLUMNS, generated_name
from helpers.files import replacing
from helpers.text import quoted

logger = logging.getLogger(__name__)

SETTINGS, MANIFEST, LOCK = "generation.json", "generation.jsonl", ".generation.lock"
WORK = ".generating-"
SEED = 24  # of the published selection


@dataclass(frozen=True)
class Wanted:
    """A clip to be made: name of its file, what is to be heard, and its seed."""

    file: str
    prompt: str
    seed: int


@dataclass
class Generated:
    """What was done.

    Attributes:
        folders: where the clips are.
        made: clips that were made.
        kept: clips that were there.
        failed: file name -> why it could not be made.
    """

    folders: list[str] = field(default_factory=list)
    made: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def generate(
    rows: Sequence[Captioned],
    folder,
    generator: Callable,
    batch_size: int = 8,
    clip_seed: int = SEED,
    split: str = "development",
    columns: Sequence[int] | None = None,
    sample_rate: int | None = None,
) -> Generated:
    """Makes a clip of every caption, as far as they are not there.

    Clips that fail are tried again at the next call, after all others. A batch that fails as a whole is tried again in
    halves, so one caption that a generator cannot bear costs no other clip.

    Args:
        rows: clips and their captions.
        folder: of the audio, or with ``{column}`` in its name one for each caption; the clips go to its folder of the
            split's name. Processes with other ``columns`` may fill such folders at the same time.
        generator: see :mod:`data_util.generator_contract`.
        batch_size: clips in a call of the generator.
        clip_seed: decides, with the file name, the random numbers of a clip.
        split: name of the part; "" for no such folder.
        columns: numbers of the captions, from 1; None: all, up to the fifth.
        sample_rate: Hz of the files, mono then; None: as the generator writes them.

    Raises:
        ValueError: ``batch_size`` or ``columns``; a folder was begun with other settings, or another process fills it.
        GenerationError: the generator cannot be used, or makes nothing.
    """
    if batch_size < 1:
        raise ValueError(f"generator.batch_size is {batch_size}, expected at least 1")
    places: dict[Path, list[Wanted]] = {}
    for place, clip in wanted_clips(rows, folder, clip_seed, split, columns):
        places.setdefault(place, []).append(clip)
    result = Generated(list(map(str, places)))
    for place, clips in places.items():
        place.mkdir(parents=True, exist_ok=True)
        with _locked(place) as work:
            claim(place / SETTINGS, {"generator": generator.settings, "seed": clip_seed, "sample_rate": sample_rate})
            _Filling(place, work, generator, sample_rate, result).fill(clips, batch_size)
    if result.failed:
        count, total = len(result.failed), result.made + result.kept + len(result.failed)
        names = quoted(list(result.failed))
        logger.warning("%d of %d clips could not be made, the next start tries again: %s", count, total, names)
    return result


def wanted_clips(
    rows: Sequence[Captioned], folder, clip_seed=SEED, split="development", columns=None
) -> Iterator[tuple[Path, Wanted]]:
    """Folder and clip of every caption. Arguments and errors as of :func:`generate`."""
    for column in chosen_columns(rows, columns):
        place = Path(str(folder).replace("{column}", str(column))).expanduser() / split
        for row in rows:
            if column <= len(row.captions):
                name = generated_name(row.file, column)
                yield place, Wanted(name, row.captions[column - 1], _own_seed(clip_seed, name))


def chosen_columns(rows: Sequence[Captioned], columns=None) -> tuple[int, ...]:
    """Numbers of the captions that ``generator.columns`` means: one, several, or all for None.

    Raises:
        DataMissing: there are no captions.
        ValueError: no clip has such a caption.
    """
    most = min(max((len(row.captions) for row in rows), default=0), COLUMNS[-1])
    given = [columns] if isinstance(columns, int | float | str) else columns
    chosen = COLUMNS[:most] if given is None else tuple(given)
    if not chosen:
        raise DataMissing("0 captions to generate audio of, expected at least 1")
    wrong = [column for column in chosen if column not in COLUMNS[:most]]
    if wrong:
        raise ValueError(f"generator.columns has {wrong[0]!r}, expected numbers of captions, 1 to {most}")
    return chosen


def _own_seed(seed, name):
    """A number of 31 bits, whatever other clips there are."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


@contextmanager
def _locked(place):
    """A folder for unfinished clips, kept from other processes; the lock goes with the process."""
    with open(place / LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{place} is being filled by another process") from None
        for left in place.glob(f"{WORK}*"):
            shutil.rmtree(left, ignore_errors=True)
        # A name of its own: a program that a killed process left behind must not write where the next one does.
        with tempfile.TemporaryDirectory(prefix=WORK, dir=place, ignore_cleanup_errors=True) as work:
            yield Path(work).absolute()


class _Filling:
    """Work on one folder."""

    def __init__(self, place, work, generator, sample_rate, result):
        self.place, self.work, self.generator, self.sample_rate = place, work, generator, sample_rate
        self.result = result
        self.manifest = Manifest(place / MANIFEST)

    def fill(self, clips, batch_size):
        """Makes the clips that are not there."""
        todo = self._todo(clips)
        self.result.kept += len(clips) - len(todo)
        batches = [todo[start : start + batch_size] for start in range(0, len(todo), batch_size)][::-1]
        fruitless, patience = 0, 3 + batch_size.bit_length()  # so many halves may fail because of one clip
        there, title = len(clips) - len(todo), f"{self.place.parent.name}/{self.place.name}"
        with tqdm(total=len(clips), initial=there, desc=title, unit="clip", disable=None) as bar:
            while batches:
                batch = batches.pop()
                made, failed, again = self._call(batch)
                self.result.made += len(made)
                fruitless = 0 if made else fruitless + 1
                if again and fruitless < patience:
                    middle = len(again) // 2
                    batches += [part for part in (again[:middle], again[middle:]) if part]
                    failed = {clip: why for clip, why in failed.items() if clip not in again}
                for clip, why in failed.items():
                    self._note_failure(clip, why)
                bar.update(len(made) + len(failed))
                if fruitless >= patience:
                    why = next(iter(failed.values()))
                    raise GenerationError(f"{self.place}: {fruitless} calls of the generator made no clip: {why}")
        self.manifest.compact()

    def _todo(self, clips):
        """Clips that are not there, or of another caption; those that failed before come last."""
        found = match_audio([Captioned(clip.file, ()) for clip in clips], self.place)
        todo, stale = [], 0
        for clip, path in zip(clips, found):
            line = self.manifest.lines.get(clip.file)
            made = line if line and "failed" not in line else None
            if path is not None and made and made["prompt"] != clip.prompt:
                os.unlink(path)  # before a line can say that it was made of this caption
                path, stale = None, stale + 1
            if path is None:
                todo.append(clip)
        if stale:
            logger.warning("%s: %d clips were made of other captions and are made anew", self.place, stale)
        return sorted(todo, key=lambda clip: "failed" in self.manifest.lines.get(clip.file, {}))

    def _call(self, batch):
        """Clips that were made, those that failed and why, and those that are worth another try in a smaller batch."""
        tasks = [Task(clip.prompt, clip.seed, self.work / clip.file) for clip in batch]
        whole = None
        try:
            reasons = self.generator(tasks)
        except BatchFailed as error:
            whole, reasons = str(error), [None] * len(batch)
        made, failed = [], {}
        for clip, task, reason in zip(batch, tasks, reasons):
            if reason is None:
                reason = self._accept(clip, task.path) if task.path.is_file() else whole or "no file"
            if reason is None:
                made.append(clip)
            else:
                failed[clip] = reason
            task.path.unlink(missing_ok=True)
        return made, failed, list(failed) if whole and len(batch) > 1 else []

    def _accept(self, clip, path):
        """Moves a clip to its place; returns the reason where it is not fit for use."""
        try:
            audio, rate = decode(path)
        except BadAudio as error:
            return str(error).replace(f"{path}: ", "")
        if not audio.any():
            return "is silent throughout"
        if self.sample_rate is not None and (rate, audio.shape[1]) != (self.sample_rate, 1):
            audio, rate = soxr.resample(audio.mean(axis=1), rate, self.sample_rate)[:, None], self.sample_rate
            soundfile.write(path, audio.clip(-1, 1), rate, subtype="PCM_16", format="WAV")
        # The line first: a clip without one was made by nobody we know, and is kept whatever its caption is.
        self.manifest.add(clip, seconds=round(len(audio) / rate, 6), sample_rate=rate)
        os.replace(path, self.place / clip.file)
        return None

    def _note_failure(self, clip, why):
        logger.warning("%s: %s", clip.file, why)
        self.result.failed[clip.file] = why
        self.manifest.add(clip, failed=why)


class Manifest:
    """The file of what was made, a JSON line per clip; the last line of a clip counts.

    Attributes:
        lines: file name -> its line.
    """

    def __init__(self, path):
        self.path, self.lines = Path(path), {}
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.is_file() else ""
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                self.lines[entry["file"]] = entry
            except (json.JSONDecodeError, KeyError, TypeError):
                logger.warning("%s: a line is damaged and left out", self.path)
        self.compact()

    def add(self, clip: Wanted, **notes):
        """Notes how it went with a clip."""
        self.lines[clip.file] = {"file": clip.file, "prompt": clip.prompt, "seed": clip.seed, **notes}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{json.dumps(self.lines[clip.file], ensure_ascii=False)}\n")

    def compact(self):
        """Writes the file anew, by file names, one line for each clip."""
        with replacing(self.path) as temporary:
            lines = (json.dumps(self.lines[name], ensure_ascii=False) for name in sorted(self.lines))
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
