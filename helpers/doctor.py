"""What a machine has and lacks for these experiments. Nothing but the standard library is imported at first: the
doctor also speaks where packages are missing. See ``doctor.py`` for the command.
"""

import importlib
import importlib.metadata
import importlib.util
import itertools
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from helpers.logger import logged_in

OK, NOTE, BAD = "ok", "note", "BAD"  # NOTE: something that is not there, and that the main job does without
PYTHON = (3, 10)
GIGABYTE = 1e9
NEEDED_GB, WANTED_GB = 1.0, 20.0  # free disk: for the demo; for the published checkpoints and some runs
# What users type for this interpreter.
NAME = "python" if shutil.which("python") == sys.executable else sys.executable
MINIMP3 = f"{NAME} -m pip install https://github.com/f0k/minimp3py/archive/master.zip"
OPERATORS = {
    "==": lambda have, want: have == want,
    ">=": lambda have, want: have >= want,
    "<=": lambda have, want: have <= want,
    "<": lambda have, want: have < want,
    ">": lambda have, want: have > want,
}


class Check(NamedTuple):
    """One line of the table: what was looked at, its state, what was found, and the command that mends it."""

    what: str
    state: str
    found: str
    mend: str = ""


def table(checks) -> list[str]:
    """Aligned lines; what mends a thing stands below it."""
    width = max(len(check.what) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.state:4}  {check.what:{width}}  {check.found}")
        if check.mend:
            lines.append(f"{'':4}  {'':{width}}  -> {check.mend}")
    return lines


def verdict(checks) -> int:
    """Exit status: 1 where something is missing without which the main job cannot run."""
    return int(any(check.state == BAD for check in checks))


# -- packages ---------------------------------------------------------------------------------------------------------
class Requirement(NamedTuple):
    """A line of ``requirements.txt``: name, version clauses such as ``>=2,<3``, and whether all experiments need it."""

    name: str
    clauses: str
    needed: bool
    reason: str


def requirements(path) -> Iterator[Requirement]:
    """The lines of a requirements file; those below a line "# for ..." or "# development" are for single commands."""
    needed = True
    for line in Path(path).read_text().splitlines():
        entry, _, comment = (part.strip() for part in line.partition("#"))
        if not entry:
            needed = needed and not re.match("for |development", comment)
            continue
        name, clauses = re.fullmatch(r"([\w.-]+)\s*(.*)", entry).groups()
        yield Requirement(name, clauses.replace(" ", ""), needed, comment)


def satisfies(version: str, clauses: str) -> bool:
    """Whether a version such as ``2.11.0+cpu`` is within clauses such as ``>=2.4,<3``; other signs are no clauses."""
    for clause in filter(None, clauses.split(",")):
        match = re.fullmatch(r"([=<>]{1,2})([\d.]+)", clause)
        if match is None:
            continue
        have, want = _numbers(version), _numbers(match[2])
        pairs = list(itertools.zip_longest(have, want, fillvalue=0))
        if not OPERATORS[match[1]](*map(list, zip(*pairs))):
            return False
    return True


def _numbers(version):
    return [int(number) for number in re.match(r"\d+(\.\d+)*", version)[0].split(".")]


def check_python() -> Check:
    """The interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= PYTHON:
        return Check("python", OK, version)
    expected = ".".join(map(str, PYTHON))
    return Check("python", BAD, f"{version}, expected {expected} or newer", "make PYTHON=python3.11 demo")


def check_packages(path) -> list[Check]:
    """Versions of all packages in a requirements file; those that single commands need are no obstacle."""
    checks = []
    for package in requirements(path):
        wanted = f"{package.name}{package.clauses}"
        try:
            version = importlib.metadata.version(package.name)
        except importlib.metadata.PackageNotFoundError:
            version = None
        if version and satisfies(version, package.clauses):
            checks.append(Check(package.name, OK, version))
            continue
        reason = "" if package.needed or not package.reason else f" ({package.reason})"
        found = f"{version}, expected {wanted}" if version else f"not installed{reason}"
        state = BAD if package.needed else NOTE
        checks.append(Check(package.name, state, found, f'{NAME} -m pip install "{wanted}"'))
    return checks


def check_import(module, folder, requirements_file) -> Check:
    """Whether a script can be imported, which shows a broken package that its version does not."""
    command = [sys.executable, "-c", f"import {module}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Check(f"import {module}", OK, "works")
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    mend = f"{NAME} -m pip install --force-reinstall --requirement {requirements_file}"
    return Check(f"import {module}", BAD, lines[-1], mend)


# -- the machine ------------------------------------------------------------------------------------------------------
def check_gpu() -> Check:
    """The accelerator, and whether torch reaches it."""
    try:
        torch = importlib.import_module("torch")
        if torch.cuda.is_available():
            each = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
            return Check("GPU", OK, ", ".join(f"{one.name} {one.total_memory / GIGABYTE:.0f} GB" for one in each))
    except (ImportError, OSError, RuntimeError) as error:
        return Check("GPU", NOTE, f"torch cannot tell: {_first_line(error)}")
    if shutil.which("nvidia-smi"):
        mend = "nvidia-smi; then a torch for this driver: https://pytorch.org/get-started/locally"
        return Check("GPU", NOTE, f"torch {torch.__version__} does not reach the one that is there", mend)
    return Check("GPU", NOTE, f"none: demos run on {os.cpu_count()} CPU cores, the published recipes want one")


def check_decoders() -> list[Check]:
    """What reads audio."""
    try:
        soundfile = importlib.import_module("soundfile")
        formats, version = soundfile.available_formats(), soundfile.__libsndfile_version__
    except (ImportError, OSError) as error:
        mend = f'{NAME} -m pip install --force-reinstall "soundfile>=0.13"'
        return [Check("audio files", BAD, f"soundfile: {_first_line(error)}", mend)]
    absent = [name for name in ("WAV", "FLAC", "OGG", "MP3") if name not in formats]
    checks = [Check("audio files", OK, f"libsndfile {version}")]
    if absent:
        mend = f'{NAME} -m pip install --upgrade --force-reinstall "soundfile>=0.13"'
        checks = [Check("audio files", NOTE, f"libsndfile {version} without {', '.join(absent)}", mend)]
    if importlib.util.find_spec("minimp3py"):
        return [*checks, Check("minimp3py", OK, "mp3 is read by it")]
    return [*checks, Check("minimp3py", NOTE, "not installed: mp3 is read by libsndfile, to the same samples", MINIMP3)]


def check_login() -> Check:
    """Whether metrics go to wandb."""
    if logged_in():
        return Check("wandb", OK, "logged in")
    return Check("wandb", NOTE, "not logged in: metrics go to metrics.csv alone", f"{NAME} -m wandb login")


def check_disk(folder, variable=None) -> Check:
    """Free space where a folder is or will be, and whether one may write there.

    Args:
        folder: path.
        variable: of the environment that moves it.
    """
    there = next(parent for parent in (Path(folder).absolute(), *Path(folder).absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(there).free / GIGABYTE
    mend = f"export {variable}=/another/disk/{Path(folder).name}" if variable else f"df -h {there}"
    what = f"disk of {folder}"
    if not os.access(there, os.W_OK):
        return Check(what, BAD, f"{there} may not be written to", mend)
    if free < WANTED_GB:
        return Check(what, BAD if free < NEEDED_GB else NOTE, f"{free:.1f} GB free, expected {WANTED_GB:.0f}", mend)
    return Check(what, OK, f"{free:.0f} GB free")


def check_paths(what, paths, mend) -> Check:
    """How many of these files and folders are there; none of them is needed for a demo."""
    absent = [str(path) for path in paths if not Path(path).exists()]
    if not absent:
        return Check(what, OK, f"all {len(paths)} there")
    some = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
    return Check(what, NOTE, f"{len(paths) - len(absent)} of {len(paths)} there (missing: {some})", mend)


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0]


if __name__ == "__main__":  # the command under the name of this module
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "doctor.py"), run_name="__main__")
