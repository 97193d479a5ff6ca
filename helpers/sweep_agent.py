"""The same search as an agent of a wandb sweep, for those who have an account there."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from helpers.downloads import locked
from helpers.files import replacing
from helpers.logger import logged_in
from helpers.sweep_report import Sweep, Trial, write_sweep
from helpers.sweep_space import all_keys, to_wandb

METHODS = {"tpe": "bayes", "gp": "bayes", "random": "random"}


def agent(run: Callable, space: Mapping[str, Mapping], study_path, settings) -> Sweep:
    """Runs trials that wandb chooses. The sweep's id is kept beside the study, so that a second start takes part in it.

    Args:
        run, space, study_path: as for :func:`helpers.sweeps.sweep`, the space checked.
        settings: :class:`helpers.sweep_study.Settings`. Of the pruners wandb knows "hyperband" alone.

    Returns:
        the trials of this process; those of others are on the project's page.

    Raises:
        ValueError: wandb is not installed, nobody is logged in, or the sweep was begun with other settings.
        Exception: that of the last of ``max_failures`` trials that failed one after the other.
    """
    try:
        import wandb
    except ImportError as error:
        raise ValueError("sweep.backend=wandb needs the package wandb: python -m pip install wandb") from error
    if not logged_in():
        raise ValueError("sweep.backend=wandb needs an account: run 'wandb login', or take sweep.backend=optuna")
    path, trials, failed = Path(study_path), [], []

    def train():
        with wandb.init() as online:
            params = {key: online.config[key] for key in space}
            report = Report(online, settings.metric)
            try:
                value = float(run(all_keys(space, params), report))
            except Exception as error:
                failed.append(error)
                trials.append(Trial(len(trials), "failed", None, params, steps=report.steps, error=str(error)))
                raise
            failed.clear()
            online.log({settings.metric: value})
            trials.append(Trial(len(trials), "complete", value, params, steps=report.steps))

    wandb.agent(_sweep_id(wandb, path, settings, space), function=train, project=settings.project)
    if len(failed) >= settings.max_failures:
        raise failed[-1]
    found = Sweep(trials, space, settings.metric, settings.direction == "maximize")
    write_sweep(found, path.with_suffix(""))
    return found


class Report:
    """What a trial tells of its training: wandb stops those that it prunes itself.

    Attributes:
        name: of the trial.
        steps: step -> value.
    """

    def __init__(self, online, metric):
        self.name, self.steps = f"trial-{online.id}", {}
        self._log, self._metric = online.log, metric

    def __call__(self, step, value):
        self.steps[int(step)] = float(value)
        self._log({self._metric: float(value)})


def configuration(space: Mapping[str, Mapping], settings) -> dict:
    """The configuration of a wandb sweep."""
    found = {
        "method": METHODS[settings.sampler],
        "metric": {"name": settings.metric, "goal": settings.direction},
        "parameters": to_wandb(space),
        "run_cap": settings.n_trials,
    }
    if settings.pruner == "hyperband":
        found["early_terminate"] = {"type": "hyperband", "min_iter": max(settings.warmup_steps, 1)}
    return found


def _sweep_id(wandb, path, settings, space):
    """The sweep that was begun under this name, or a new one."""
    file, now = path.with_suffix(".wandb.json"), configuration(space, settings)
    with locked(file):
        if file.is_file():
            begun = json.loads(file.read_text(encoding="utf-8"))
            for key, value in begun["configuration"].items():
                if now.get(key) != value:
                    raise ValueError(f"{file}: the sweep was begun with {key}={value}, here it is {now.get(key)}")
            return begun["sweep"]
        begun = {"sweep": wandb.sweep(now, project=settings.project), "configuration": now}
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(begun, indent=1) + "\n", encoding="utf-8")
        return begun["sweep"]
