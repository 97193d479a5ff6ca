"""Runs known by their name: a second start of the same command continues the first."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from helpers.logger import last_checkpoint

# What does not change the results of a run: names, where it computes and what it shows.
FREE = (
    "ckpt_path", "resume_or_new", "save_as", "compile", "cache", "rank", "scores", "weights", "out", "test_untrained",
    "sweep", "seeds_of_study", "generator", "compare", "index", "serve", "query", "top", "device", "wandb",
    "trainer.default_root_dir", "trainer.accelerator", "trainer.devices",
    "trainer.num_nodes", "trainer.strategy", "trainer.enable_progress_bar",
    "trainer.enable_checkpointing", "trainer.enable_model_summary", "trainer.weights_summary",
    "trainer.last_every_n_steps", "trainer.log_every_n_steps", "trainer.num_sanity_val_steps", "trainer.benchmark",
    "trainer.reload_dataloaders_every_epoch", "data.num_workers", "data.pin_memory", "data.prefetch_factor",
    "data.persistent_workers", "data.timeout",
)  # fmt: skip
LENGTH = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time")  # a run may be made longer


class Difference(NamedTuple):
    """An entry in which two configs differ."""

    key: str
    before: object
    now: object

    def __str__(self):
        return f"{self.key} was {self.before!r} and is {self.now!r}"


def flattened(config: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted key and value of all entries of a nested config; tuples as lists, as they come back from files."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _listed(value)


def differences(before: Mapping, now: Mapping, free: Collection[str] = ()) -> list[Difference]:
    """Entries that both configs have, with different values.

    Entries of one config alone are left out: a newer version may have added or dropped them.

    Args:
        before, now: nested configs.
        free: dotted names of entries and sections that may differ.
    """
    earlier = dict(flattened(before))
    found = []
    for key, value in flattened(now):
        steps = key.split(".")
        named = {".".join(steps[: end + 1]) for end in range(len(steps))}
        if key in earlier and earlier[key] != value and not named & set(free):
            found.append(Difference(key, earlier[key], value))
    return found


def resume_or_new(
    root,
    project,
    name,
    config: Mapping,
    given: Collection[str] = (),
    *,
    free: Collection[str] = (*FREE, *LENGTH),
) -> Path | None:
    """The newest checkpoint of the run that is called ``name``, None where it has none and begins.

    Args:
        root: ``trainer.default_root_dir``.
        project: ``wandb.project``.
        name: ``wandb.name``.
        config: of this start. Its seed counts only where it is given: without one every start draws its own, and the
            run keeps the first.
        given: dotted names of the entries that the user set.
        free: entries and sections that may differ.

    Raises:
        ValueError: the run has no name; or the config has changed, which would mix two runs in one.
    """
    from helpers.checkpoints import config_of_run, read

    if not name:
        raise ValueError("resume_or_new: the run has no name, expected one, such as wandb.name=baseline")
    try:
        path = last_checkpoint(root, project, name)
    except FileNotFoundError:
        return None
    changed = differences(config_of_run(read(path)), config, {*free, *({"seed"} - set(given))})
    if changed:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise ValueError(f"run '{name}' was begun with another config: {changed[0]}{more}; take another wandb.name")
    return path


def _listed(value):
    if isinstance(value, list | tuple):
        return [_listed(entry) for entry in value]
    return value
