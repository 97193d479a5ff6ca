"""What generators of audio have in common: the contract, the registry, and the frame of those in this process.

A generator is a callable that takes some :class:`Task` and writes the audio of each to the task's ``path``. It returns
a reason, or None, for every task, raises :class:`BatchFailed` where the call as a whole went wrong (what it wrote until
then counts), and has ``settings``: all that its sounds depend on, in terms of JSON. Its constructor's keyword defaults
are its entries of the config section ``generator``. :func:`register` adds one.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PEAK = 0.99  # of waveforms that would be clipped


class GenerationError(ValueError):
    """Generation cannot go on: a generator is unknown, cannot be used, or makes nothing."""


class BatchFailed(Exception):
    """A call of a generator went wrong as a whole; one of its tasks alone may be the cause."""


@dataclass(frozen=True)
class Task:
    """A clip to be made.

    Attributes:
        prompt: what is to be heard.
        seed: of its random numbers, 0 to 2^31 - 1.
        path: of the wav file to be written, absolute.
    """

    prompt: str
    seed: int
    path: Path


# -- registry ---------------------------------------------------------------------------------------------------------
GENERATORS: dict[str, Callable] = {}


def register(name: str):
    """Decorator that makes a generator known by a name. A name that is taken raises ValueError."""

    def add(factory):
        if name in GENERATORS:
            raise ValueError(f"there is a generator '{name}' already")
        GENERATORS[name] = factory
        return factory

    return add


# -- in this process --------------------------------------------------------------------------------------------------
class InProcess:
    """A generator that is a function of prompts and seeds.

    Attributes:
        settings: see the module's text.
    """

    settings: dict
    _loaded = False

    def load(self):
        """Loads what takes long, once, before the first batch."""

    def synthesise(self, prompts: list[str], seeds: list[int]) -> tuple[Sequence[np.ndarray], int]:
        """Waveforms, each [samples] or [channels, samples], and their sample rate in Hz."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it makes audio")

    def __call__(self, tasks: Sequence[Task]) -> list[str | None]:
        self._load_once()
        try:
            waveforms, rate = self.synthesise([task.prompt for task in tasks], [task.seed for task in tasks])
        except Exception as error:  # of whatever library; the clips that it is not about are still to be made
            raise BatchFailed(_one_line(error)) from error
        if len(waveforms) != len(tasks):
            raise GenerationError(f"the generator made {len(waveforms)} clips of {len(tasks)} prompts")
        return [_written(task.path, waveform, rate) for task, waveform in zip(tasks, waveforms)]

    def _load_once(self):
        if not self._loaded:
            try:
                self.load()
            except Exception as error:
                name = self.settings["name"]
                raise GenerationError(f"the generator '{name}' cannot be loaded ({_one_line(error)})") from error
            self._loaded = True


def _written(path, waveform, rate):
    """Writes a waveform; returns the reason where that makes no sense."""
    import soundfile

    waveform = np.atleast_2d(np.asarray(waveform, dtype=np.float32)).T
    if not np.isfinite(waveform).all():
        return "holds values that are no finite numbers"
    peak = np.abs(waveform).max(initial=0.0)
    soundfile.write(path, waveform * (PEAK / peak if peak > 1 else 1.0), rate, subtype="PCM_16", format="WAV")
    return None


def _one_line(error):
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}".removesuffix(": ")


def require(name: str, *packages: str):
    """Raises GenerationError unless the packages that a generator needs are installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise GenerationError(f"generator.name={name} needs the package {package}: python -m pip install {package}")
