"""Config sections read off signatures, and an experiment that explains mistakes in one line.

A default stands in one place, the signature of what it configures; a script states only its deviations. The
sections are sacred ingredients, so ``print_config``, ``-F DIR``, ``seed=`` and named configs work as sacred users
know them.
"""

import difflib
import inspect
import os
import re
import sys
import traceback
import zlib
from pathlib import Path

from sacred import SETTINGS, Experiment, Ingredient
from sacred.config import load_config_file
from sacred.utils import (
    ConfigError,
    apply_backspaces_and_linefeeds,
    convert_to_nested_dict,
    iterate_flattened,
    set_by_dotted_path,
)

# The default captures file descriptors, which takes the terminal away from progress bars.
SETTINGS.CAPTURE_MODE = "sys"
# Constructors such as Lightning's Trainer expect plain lists and dicts.
SETTINGS.CONFIG.READ_ONLY_CONFIG = False

REPOSITORY = Path(__file__).resolve().parents[1]


def keyword_defaults(target) -> dict:
    """Keyword arguments of a callable that have a default, in the order of the signature."""
    parameters = inspect.signature(target).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


class Section(Ingredient):
    """A config section whose entries are the keyword defaults of its targets.

    Args:
        name: the section's name on the command line.
        *targets: callables (entries from their signatures; where two share a name the first default counts) or
            dicts of entries.
        **deviations: defaults in which the experiment differs from the signatures.

    Raises:
        TypeError: a deviation that no target takes.
    """

    def __init__(self, name, *targets, **deviations):
        # Sacred would look for the caller on the stack and ask git, which takes a tenth of a second per section.
        super().__init__(name, _caller_globals=globals(), save_git_info=False)
        self.targets = [target for target in targets if callable(target)]
        self.entries = {}
        for target in targets:
            for key, value in (keyword_defaults(target) if callable(target) else dict(target)).items():
                self.entries.setdefault(key, value)
        stray = sorted(set(deviations) - set(self.entries))
        if stray:
            raise TypeError(f"section '{name}': no target takes {', '.join(stray)}")
        self.entries.update(deviations)
        self.add_config(plain(self.entries))
        self._read = self.capture(lambda _config: plain(_config))

    def __call__(self, *args, target=None, **extra):
        """Calls a target (the first by default) with the entries that it takes; ``extra`` goes on top."""
        target = target or self.targets[0]
        return target(*args, **{**self.of(target), **extra})

    def of(self, target) -> dict:
        """The entries of the running experiment that a target takes."""
        accepted = keyword_defaults(target)
        return {key: value for key, value in self.values().items() if key in accepted}

    def values(self) -> dict:
        """The entries of the running experiment."""
        return self._read()


class Scripted(Experiment):
    """An experiment whose config errors name the nearest known key and whose input errors are one line.

    Only the process of rank zero observes, so a run on several devices leaves one record.
    """

    def __init__(self, name, sections):
        # The caller's frame is the script: sacred looks for its source there.
        super().__init__(name, ingredients=list(sections), save_git_info=False)
        self.captured_out_filter = apply_backspaces_and_linefeeds
        self.one_line_errors = False
        self.given: set[str] = set()  # dotted names of the entries that the latest run was given, named configs aside
        self.config_hook(_seed_of_all_ranks)

    def defaults(self) -> dict:
        """Dotted name -> default of all config entries."""
        found = {"seed": None}
        for part in [self, *self.ingredients]:
            for scope in part.configurations:
                for key, value in iterate_flattened(scope()):
                    found[f"{part.path}.{key}" if part is not self else key] = value
        return found

    def known_keys(self) -> set[str]:
        """Dotted names of all config entries and their sections."""
        steps = (name.split(".") for name in self.defaults())
        return {".".join(name[: end + 1]) for name in steps for end in range(len(name))}

    def _create_run(self, command_name=None, config_updates=None, named_configs=(), *args, **kwargs):
        updates = [config_updates or {}]
        for name in named_configs:
            if os.path.isfile(name):
                updates.append(load_config_file(name))
            elif name not in self.named_configs:
                raise ConfigError(_unknown("named config", name, self.named_configs))
        known, defaults = self.known_keys(), self.defaults()
        config_updates = convert_to_nested_dict(config_updates or {})
        self.given = set()
        for update in updates:
            for key, value in list(iterate_flattened(update)):
                self.given.add(key)
                if key not in known:
                    raise ConfigError(_unknown("config key", key, known))
                _check_kind(key, value, defaults.get(key))
                if isinstance(defaults.get(key), bool) and value in (0, 1) and update is updates[0]:
                    set_by_dotted_path(config_updates, key, bool(value))  # the published commands write 0 and 1
        return super()._create_run(command_name, config_updates, named_configs, *args, **kwargs)

    def run_commandline(self, argv=None):
        """As sacred's, but a mistake of the user ends with one line on stderr and exit status 1."""
        if any(int(os.environ.get(name, 0)) > 0 for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID")):
            argv = _without_observers(sys.argv if argv is None else argv)
        arguments = sys.argv if argv is None else argv
        if "-d" in arguments or "--debug" in arguments:
            return super().run_commandline(argv)
        self.one_line_errors = True
        try:
            return super().run_commandline(argv)
        except _Mistake as mistake:
            print(f"error: {mistake}", file=sys.stderr)
            sys.exit(1)
        finally:
            self.one_line_errors = False

    def run(self, *args, **kwargs):
        try:
            return super().run(*args, **kwargs)
        except (ConfigError, ValueError, OSError) as error:
            message = _for_the_user(error) if self.one_line_errors else None
            if message is None:
                raise
            raise _Mistake(message) from error


def _seed_of_all_ranks(config, command_name, logger):
    """Where no seed is given every process would draw its own: ranks take that of the first, or of their job."""
    if "seed" in config:
        return {}
    if int(os.environ.get("LOCAL_RANK", 0)) > 0 and "PL_GLOBAL_SEED" in os.environ:  # started by Lightning
        return {"seed": int(os.environ["PL_GLOBAL_SEED"])}
    several = int(os.environ.get("SLURM_NTASKS", 1)) > 1
    job = os.environ.get("TORCHELASTIC_RUN_ID") or (several and os.environ.get("SLURM_JOB_ID"))
    return {"seed": zlib.crc32(job.encode())} if job else {}


class _Mistake(BaseException):
    """Passes sacred's handler, which would print a stack trace above the one line that helps."""


def _for_the_user(error) -> str | None:
    """The message of an error that our own code or the system raised, None where another library did in its terms."""
    if isinstance(error, OSError) and error.filename is not None:  # of the system, about a file that the user named
        return f"{error.filename}: {error.strerror}"
    text = str(error)
    if text.startswith("Caught ") and "\nOriginal Traceback" in text:  # from a process that loads data
        file = re.findall(r'^ +File "(.+?)", line \d', text, re.MULTILINE)[-1]
        message = text.splitlines()[-1].partition(": ")[2]
    else:
        file = traceback.extract_tb(error.__traceback__)[-1].filename
        message = text.splitlines()[0]
    path = Path(file).resolve()
    return message if path.is_relative_to(REPOSITORY) and ".venv" not in path.parts else None


def _unknown(kind, name, known) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)
    return f"unknown {kind} '{name}'" + (f", did you mean '{near[0]}'?" if near else "")


def _check_kind(key, value, default):
    """Raises ConfigError where an entry cannot be meant; text and None may stand for anything else ("auto", "all")."""
    if isinstance(default, list | tuple) and not isinstance(value, list | tuple | None):
        raise ConfigError(f"{key} is {value!r}, expected a list")
    if isinstance(default, float) and isinstance(value, str):
        raise ConfigError(f"{key} is {value!r}, expected a number")


def _without_observers(argv):
    """The command line without ``-F DIR`` and its like."""
    kept, skip = [], False
    for argument in argv:
        if skip:
            skip = False
        elif argument in ("-F", "-m", "-S", "-t", "--file_storage", "--mongo_db", "--sql", "--tiny_db"):
            skip = True
        elif not argument.startswith(("--file_storage=", "--mongo_db=", "--sql=", "--tiny_db=")):
            kept.append(argument)
    return kept


def plain(value):
    """Lists and dicts of sacred's own types as built-in ones; tuples become lists."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value


def require_equal(config, name, *others):
    """Raises ValueError unless all these entries (dotted names) of a config have the value of the first."""
    for other in others:
        value = config
        for step in other.split("."):
            value = value[step]
        if value != config[name]:
            raise ValueError(f"{other}={value!r} differs from {name}={config[name]!r}: set both")
