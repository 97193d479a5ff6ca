"""Generators of audio from captions, see :mod:`data_util.generator_contract`: all that there are.

``procedural`` for demonstrations, ``audioldm2`` and ``musicgen`` (:mod:`data_util.generator_models`), and ``command``,
which calls any program.
"""

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import data_util.generator_models  # noqa: F401  (registers its generators)
from data_util.generator_contract import GENERATORS, BatchFailed, GenerationError, InProcess, Task, register

PROGRAM = Path(__file__).resolve().with_name("generator_programs.py")
CLOTHO_RATE = 44100  # Hz
SHOWN = 200  # characters of a program's last line in a message
_PLACE = re.compile(r"\{(\w+)\}")


def factory(name: str) -> Callable:
    """The constructor of a generator, whose keyword defaults are its settings.

    Raises:
        GenerationError: unknown name.
    """
    if name not in GENERATORS:
        raise GenerationError(f"generator.name is '{name}', expected one of {', '.join(GENERATORS)}")
    return GENERATORS[name]


@register("procedural")
class Procedural(InProcess):
    """Scenes of procedural sounds for what a caption says, see :mod:`data_util.caption_scenes`; for demonstrations.

    Args:
        seconds: length of a clip, longer where its events need it.
        sample_rate: Hz; None: that of Clotho.
    """

    def __init__(self, seconds=10.0, sample_rate=None):
        from data_util import caption_scenes, procedural

        self.seconds, self.sample_rate = seconds, sample_rate or CLOTHO_RATE
        versions = [caption_scenes.VERSION, procedural.VERSION]
        self.settings = {"name": "procedural", "version": versions, "seconds": seconds, "sample_rate": self.sample_rate}

    def synthesise(self, prompts, seeds):
        """See :class:`InProcess`."""
        from data_util.caption_scenes import render, scene_of

        return [
            render(scene_of(prompt), self.seconds, self.sample_rate, np.random.default_rng(seed))
            for prompt, seed in zip(prompts, seeds)
        ], self.sample_rate


# -- any program ------------------------------------------------------------------------------------------------------
@register("command")
class Command:
    """Calls a program of any environment, once for a batch. No shell is involved.

    The program gets a JSON line for each clip, ``{"prompt": ..., "path": ..., "seed": ...}``, and writes the clip to
    that path. In the command stand for

    * ``{input}``: the file of these lines; without it they come on standard input;
    * ``{output}``: the folder in which all paths of the batch are;
    * ``{seed}``: the seed of the batch, that of its first clip;
    * ``{program}``: :mod:`data_util.generator_programs`, which runs AudioGen and EzAudio.

    Args:
        command: a text, which is split as a shell would, or a list of words.
        timeout: seconds that a call may take; None: any.
        cwd: folder in which the program runs; None: the current one.

    Raises:
        GenerationError: no command, or it has another name in braces, or there is no folder ``cwd``.
    """

    def __init__(self, command=None, timeout=3600.0, cwd=None):
        words = shlex.split(command) if isinstance(command, str) else [str(word) for word in command or ()]
        if not words:
            raise GenerationError("generator.command is not set, expected the command line of a program")
        known = ("input", "output", "seed", "program")
        unknown = [name for word in words for name in _PLACE.findall(word) if name not in known]
        if unknown:
            places = ", ".join(f"{{{name}}}" for name in known)
            raise GenerationError(f"generator.command has {{{unknown[0]}}}, expected no other than {places}")
        self.words, self.timeout = words, timeout
        self.cwd = None if cwd is None else Path(cwd).expanduser()
        if self.cwd is not None and not self.cwd.is_dir():
            raise GenerationError(f"generator.cwd = {cwd}: no such folder")
        self.settings = {"name": "command", "command": words}

    def __call__(self, tasks: Sequence[Task]) -> list[str | None]:
        """See the module's text.

        Raises:
            BatchFailed: the program ended with an error, or not in time.
            GenerationError: there is no such program.
        """
        folder = tasks[0].path.parent
        listing = folder / "tasks.jsonl"
        lines = [json.dumps({"prompt": task.prompt, "path": str(task.path), "seed": task.seed}) for task in tasks]
        listing.write_text("".join(f"{line}\n" for line in lines))
        values = {"input": listing, "output": folder, "seed": tasks[0].seed, "program": PROGRAM}
        words = [_PLACE.sub(lambda found: str(values[found[1]]), word) for word in self.words]
        output = folder / "output.log"
        try:
            status = self._run(words, listing if "{input}" not in " ".join(self.words) else os.devnull, output)
        except subprocess.TimeoutExpired:
            _discard_latest(tasks)
            raise BatchFailed(f"not ready after generator.timeout = {self.timeout:g} s") from None
        if status < 0:
            _discard_latest(tasks)
            raise BatchFailed(f"ended by signal {-status}{_last_line(output)}")
        if status:
            raise BatchFailed(f"exit status {status}{_last_line(output)}")
        return [None if task.path.is_file() else f"exit status 0, but no file{_last_line(output)}" for task in tasks]

    def _run(self, words, stdin, output):
        """Exit status of a program. Neither it nor a process that it started is left when it takes too long."""
        with open(stdin, "rb") as lines, open(output, "ab") as log:
            try:
                process = subprocess.Popen(
                    words, stdin=lines, stdout=log, stderr=subprocess.STDOUT, cwd=self.cwd, start_new_session=True
                )
            except OSError as error:
                raise GenerationError(f"generator.command: '{words[0]}' cannot be run ({error.strerror})") from None
            try:
                return process.wait(self.timeout)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


def _discard_latest(tasks):
    """A program that was stopped may not have finished the file that it wrote last."""
    written = [task.path for task in tasks if task.path.is_file()]
    if written:
        max(written, key=lambda path: path.stat().st_mtime_ns).unlink()


def _last_line(output):
    """The last line that a program said, for a message."""
    with open(output, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        lines = file.read().decode(errors="replace").split("\n")
    said = [line.rpartition("\r")[2].strip() for line in lines if line.strip()]
    return f": {said[-1][:SHOWN]}" if said else ""
