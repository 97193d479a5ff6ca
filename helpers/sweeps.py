"""Search for hyper-parameters: an Optuna study in one SQLite file, shared by any number of processes and hosts.

What ends is never repeated. What a killed process was training is trained again, once, with the same values, by the
process that notices first. Trial n of a study depends on the seed, n and the results before alone, so a sweep of one
process that was killed and goes on tries what an uninterrupted one would have tried.

Optuna is imported where it is needed: Akiba et al., "Optuna: A Next-generation Hyperparameter Optimization Framework"
(KDD 2019). Tables and figures are those of :mod:`helpers.sweep_report`.
"""

import logging
import math
import os
import socket
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from helpers.downloads import locked
from helpers.locks import holding, is_held
from helpers.sweep_report import Sweep, Trial, write_sweep
from helpers.sweep_space import all_keys, read_space
from helpers.sweep_study import Settings, import_optuna, make_sampler, open_study

log = logging.getLogger(__name__)

ATTEMPTS = 3  # processes that may be killed over one trial


class Pruned(Exception):
    """Ends a trial that is worse than others at the same step."""


def sweep(run: Callable, space, study_path, **settings) -> Sweep:
    """Runs trials until the study has ``n_trials``, and writes its tables and figures.

    Call it again, at the same time or later, with the same file to take part or to go on. One sweep at a time in one
    process; its trials train in that process alone.

    Args:
        run: callable (changes, report) -> value. ``changes`` has a value for every key of the space; ``report(step,
            value)`` raises :class:`Pruned`, which ``run`` lets pass. ``report.name`` names the trial, and stays the
            same where a killed one is taken up, so that its training can go on from a checkpoint.
        space: see :func:`helpers.sweep_space.read_space`.
        study_path: SQLite file, on a file system with locks; tables and figures go to a folder beside it of the same
            name without suffix.
        **settings: see :class:`helpers.sweep_study.Settings`.

    Returns:
        all trials of the study.

    Raises:
        ValueError: Optuna, or wandb, is not installed; the study was begun with another space, metric or direction; the
            file is no study; or as :class:`helpers.sweep_study.Settings` and :func:`helpers.sweep_space.read_space`.
        Exception: that of the last of ``max_failures`` trials that failed one after the other.
    """
    settings, space = Settings(**settings), read_space(space)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("a trial of a sweep trains in one process: start it once per device, without a launcher")
    if settings.backend == "wandb":
        from helpers.sweep_agent import agent

        return agent(run, space, study_path, settings)
    worker = Worker(run, space, Path(study_path), settings)
    worker.work()
    return worker.publish()


class Report:
    """What a trial tells of its training; see ``run`` of :func:`sweep`.

    Attributes:
        name: ``trial<number>``, the number being that of the first attempt.
    """

    def __init__(self, name, trial):
        self.name, self._trial, self._steps = name, trial, set()

    def __call__(self, step, value):
        if step not in self._steps:  # the first value of a step counts
            self._steps.add(step)
            self._trial.report(float(value), int(step))
        if self._trial.should_prune():
            raise Pruned(f"{self.name} at step {step}")


class Worker:
    """One process at work on a study.

    Which trial comes next is settled by one process at a time. A process at work locks a file, by which the others
    know whether it still lives.
    """

    def __init__(self, run, space, path, settings):
        self.run, self.space, self.path, self.settings = run, space, path, settings
        self.optuna, self.folder = import_optuna(), path.with_suffix("")
        self.id = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
        with locked(path):
            self.study = open_study(path, space, settings)

    # -- trials

    def work(self):
        """Trains trials until none is left to begin."""
        failures = 0
        with holding(self._lock(self.id)):
            while failures < self.settings.max_failures and (trial := self._next()) is not None:
                error = self._train(trial)
                failures = 0 if error is None else failures + 1
        if failures == self.settings.max_failures:
            log.warning("sweep: %d trials in a row failed", failures)
            raise error

    def _lock(self, worker):
        return self.folder / ".running" / worker

    def _next(self):
        """The trial that this process trains next: one that was killed, else a new one; None where none is needed."""
        with locked(self.path):
            self._fail_killed()
            trials = self.study.get_trials(deepcopy=False)
            states = [_state(trial) for trial in trials]
            taken = sum(state in ("complete", "pruned", "running") for state in states)
            if taken >= self.settings.n_trials:
                return None
            left = self._to_redo(trials)
            if left is not None and "waiting" not in states:
                first, attempt = _history(left)
                kept = {"redo_of": left.number, "first": first, "attempt": attempt}
                self.study.enqueue_trial(left.params, user_attrs=kept)
            self.study.sampler = make_sampler(self.settings, sum("redo_of" not in trial.user_attrs for trial in trials))
            trial = self.study.ask()
            trial.set_user_attr("worker", self.id)
            for key, entry in self.space.items():
                _suggest(trial, key, entry)
            return trial

    def _fail_killed(self):
        """Ends trials whose process is no more."""
        for trial in self.study.get_trials(deepcopy=False, states=(self.optuna.trial.TrialState.RUNNING,)):
            worker = trial.user_attrs.get("worker")
            if worker is None or (worker != self.id and not is_held(self._lock(worker))):
                self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
                log.warning("sweep: trial %d was not finished by %s", trial.number, worker or "its process")

    def _to_redo(self, trials):
        """The first trial that was killed and that nobody has taken up."""
        redone = {trial.user_attrs.get("redo_of") for trial in trials}
        for trial in trials:
            if _state(trial) == "killed" and trial.number not in redone and _history(trial)[1] <= ATTEMPTS:
                return trial
        return None

    def _train(self, trial):
        """Trains a trial to its end; the error if it failed."""
        states, first = self.optuna.trial.TrialState, trial.user_attrs.get("first", trial.number)
        error = None
        try:
            value = float(self.run(all_keys(self.space, trial.params), Report(f"trial{first}", trial)))
            if not math.isfinite(value):
                raise ValueError(f"{self.settings.metric} is {value} for {trial.params}")
            self.study.tell(trial, value, skip_if_finished=True)
            log.info("sweep: trial %d has %s %.6g", trial.number, self.settings.metric, value)
        except Pruned:
            self.study.tell(trial, state=states.PRUNED, skip_if_finished=True)
            log.info("sweep: trial %d is pruned", trial.number)
        except Exception as failure:
            error = failure
            trial.set_user_attr("error", " ".join(f"{type(error).__name__}: {error}".split())[:500])
            self.study.tell(trial, state=states.FAIL, skip_if_finished=True)
            log.warning("sweep: trial %d failed: %s", trial.number, trial.user_attrs["error"])
        except BaseException:  # of the user, who will go on, or of whoever ends the job
            trial.set_user_attr("stopped", True)
            self.study.tell(trial, state=states.FAIL, skip_if_finished=True)
            raise
        return error

    # -- results

    def publish(self) -> Sweep:
        """Writes tables and figures of all trials so far."""
        trials = [_as_row(trial) for trial in self.study.get_trials(deepcopy=False)]
        found = Sweep(
            trials, self.space, self.settings.metric, self.settings.direction == "maximize", self._importances(trials)
        )
        write_sweep(found, self.folder)
        return found

    def _importances(self, trials):
        """Share of each hyper-parameter; empty where too few trials ended to tell."""
        if sum(trial.state == "complete" for trial in trials) < max(self.settings.startup_trials, 2):
            return {}
        evaluator = self.optuna.importance.PedAnovaImportanceEvaluator()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.optuna.importance.get_param_importances(self.study, evaluator=evaluator)


def _suggest(trial, key, entry):
    if entry["type"] == "categorical":
        return trial.suggest_categorical(key, entry["choices"])
    suggest = trial.suggest_int if entry["type"] == "int" else trial.suggest_float
    return suggest(key, entry["low"], entry["high"], log=entry["log"])


def _state(trial) -> str:
    """The state of a stored trial; one that ended without result or error was killed."""
    state = trial.state.name.lower()
    if state != "fail":
        return state
    return "failed" if "error" in trial.user_attrs else "killed"


def _history(trial) -> tuple[int, int]:
    """Number of the first attempt of a trial that was not finished, and the number of the next one.

    Attempts count that were killed from outside, not those that the user stopped.
    """
    attempt = trial.user_attrs.get("attempt", 1)
    stopped = trial.user_attrs.get("stopped", False)
    return trial.user_attrs.get("first", trial.number), attempt + (not stopped)


def _as_row(trial) -> Trial:
    seconds = trial.duration.total_seconds() if trial.duration else None
    known = trial.user_attrs
    return Trial(
        trial.number, _state(trial), trial.value if trial.values else None, dict(trial.params), seconds,
        dict(trial.intermediate_values), known.get("redo_of"), known.get("worker", ""), known.get("error", ""),
    )  # fmt: skip
