"""The study behind a search for hyper-parameters: its settings, its file, how it draws and what it prunes."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers.run_names import flattened

STUDY = "sweep"  # name of the one study in a file
DIRECTIONS = ("maximize", "minimize")
SAMPLERS = ("tpe", "gp", "random")
PRUNERS = ("median", "hyperband", None)
BACKENDS = ("optuna", "wandb")
BUSY = 120.0  # seconds to wait for another process that writes
MAGIC = b"SQLite format 3"


@dataclass(frozen=True)
class Settings:
    """Section ``sweep``, beside the search space and the file of the study.

    Attributes:
        n_trials: of the study, whoever runs them: those that end and those that are pruned.
        metric: name of the value, for tables and figures.
        direction: "maximize" or "minimize".
        sampler: "tpe" (tree-structured Parzen estimator), "gp" (Gaussian process) or "random".
        pruner: "median": a trial stops whose best value is below the median of the others at the same step;
            "hyperband"; or None.
        startup_trials: which "tpe" and "gp" draw at random, and which "median" lets pass.
        warmup_steps: of a trial, after which it may be pruned.
        max_steps: of a whole trial, for "hyperband"; None: what the first trials report.
        seed: of all draws.
        max_failures: errors in a row, or values that are not finite, after which the sweep itself ends with them.
        backend: "optuna", or "wandb": an agent of a sweep there, which needs an account.
        project: of wandb.

    Raises:
        ValueError: an entry that means nothing.
    """

    n_trials: int = 100
    metric: str = "val/mAP@10"
    direction: str = "maximize"
    sampler: str = "tpe"
    pruner: str | None = "median"
    startup_trials: int = 10
    warmup_steps: int = 5
    max_steps: int | None = None
    seed: int = 0
    max_failures: int = 3
    backend: str = "optuna"
    project: str = "audio_retrieval"

    def __post_init__(self):
        choices = {"direction": DIRECTIONS, "sampler": SAMPLERS, "pruner": PRUNERS, "backend": BACKENDS}
        for name, expected in choices.items():
            if getattr(self, name) not in expected:
                found, names = getattr(self, name), ", ".join(map(str, expected))
                raise ValueError(f"sweep.{name} is {found!r}, expected one of {names}")
        least = {"n_trials": 0, "startup_trials": 0, "warmup_steps": 0, "seed": 0, "max_failures": 1}
        for name, low in least.items():
            if type(getattr(self, name)) is not int or getattr(self, name) < low:
                raise ValueError(f"sweep.{name} is {getattr(self, name)!r}, expected a whole number from {low} on")


def import_optuna():
    """The package, silent about trials, which are logged here.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ValueError("a sweep needs the package optuna: python -m pip install optuna") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def open_study(path, space: Mapping[str, Mapping], settings: Settings):
    """The study of a file, which is made where it is missing; one process at a time.

    Raises:
        ValueError: the file is no study, or one that was begun with another space, metric or direction.
    """
    optuna, path = import_optuna(), Path(path)
    if not path.suffix:
        raise ValueError(f"{path}: expected the name of a file with a suffix, such as {path}.db")
    if path.is_file() and path.stat().st_size and path.open("rb").read(len(MAGIC)) != MAGIC:
        raise ValueError(f"{path} is no SQLite file, expected the study of a sweep")
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": BUSY}})
    except RuntimeError as error:  # tables of another version of Optuna
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    study = optuna.create_study(
        study_name=STUDY, storage=storage, direction=settings.direction, load_if_exists=True,
        pruner=make_pruner(settings), sampler=make_sampler(settings, 0),
    )  # fmt: skip
    now = {"direction": settings.direction, "metric": settings.metric, "space": space}
    if "begun" not in study.user_attrs:
        study.set_user_attr("begun", now)
    _require_same(path, study.user_attrs["begun"], now)
    return study


def _require_same(path, before, now):
    """Raises ValueError where the results of a study would not be comparable."""
    before, now = dict(flattened(before)), dict(flattened(now))
    for key in (*now, *before):
        if before.get(key) != now.get(key):
            change = f"another {key}: {before.get(key)!r}, here it is {now.get(key)!r}"
            raise ValueError(f"{path} was begun with {change}; take another file for another sweep")


def make_sampler(settings: Settings, number: int):
    """A sampler whose draws depend on the seed and the number of the trial."""
    samplers, startup = import_optuna().samplers, settings.startup_trials
    seed = int(np.random.SeedSequence([settings.seed, number]).generate_state(1)[0])
    if settings.sampler == "random":
        return samplers.RandomSampler(seed=seed)
    if settings.sampler == "gp":
        return samplers.GPSampler(seed=seed, n_startup_trials=startup)
    # The "liar" keeps processes from trying the same values while none of them knows a result.
    return samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)


def make_pruner(settings: Settings):
    """The pruner of the settings."""
    pruners = import_optuna().pruners
    if settings.pruner == "hyperband":
        return pruners.HyperbandPruner(
            min_resource=max(settings.warmup_steps, 1), max_resource=settings.max_steps or "auto"
        )
    if settings.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=settings.startup_trials, n_warmup_steps=settings.warmup_steps)
    return pruners.NopPruner()
