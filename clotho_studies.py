"""Studies around one configuration of ex_clotho: sweeps, seeds, and generated audio with its comparison."""

import logging
from pathlib import Path

import numpy as np
import torch

import configs
from data_util import generators
from data_util.clotho import read_collection
from data_util.demo_clotho import with_demo
from data_util.streaming import stream
from data_util.synthetic import find_generated
from helpers import runs, sweeps
from helpers.ingredients import Section, plain
from helpers.pruning import ReportValidation
from helpers.seeds import seed_study, show_seeds
from helpers.sweep_report import show_sweep
from helpers.sweep_space import read_space, with_changes
from helpers.sweep_study import Settings

log = logging.getLogger(__name__)

GENERATOR = {
    "name": "procedural", "folder": None, "batch_size": 8, "clip_seed": 24, "columns": None, "sample_rate": None,
}  # fmt: skip


class Sections:
    """The config sections ``sweep``, ``generator`` and ``compare``."""

    def __init__(self):
        kinds = [generators.factory(name) for name in generators.GENERATORS]
        self.sweep = Section("sweep", Settings, {"space": "published", "study": None})
        self.generator = Section("generator", GENERATOR, *kinds)
        self.compare = Section("compare", {"out": "outputs/audio_quality", "measures": ["dtw", "wcc", "dtw_time"]})

    def __iter__(self):
        return iter(vars(self).values())


def run_sweep(config, run, known):
    """Trials of a space of configurations, shared with other processes by the file of the study.

    Args:
        config: of the run.
        run: callable (config, callbacks, test) -> best value of the validation.
        known: names of all config entries.
    """
    name, options = config["wandb"]["name"] or "sweep", dict(config["sweep"])
    space, study = options.pop("space"), options.pop("study")
    study = study or f"{config['trainer']['default_root_dir']}/{config['wandb']['project']}/{name}.db"
    space = read_space(configs.CLOTHO_SWEEPS.get(space, space) if isinstance(space, str) else space, known)
    options["max_steps"] = options["max_steps"] or config["trainer"]["max_epochs"]

    def trial(changes, report):
        one = with_changes(config, {**changes, "wandb.name": f"{name}-{report.name}", "resume_or_new": True})
        return run(one, callbacks=[ReportValidation(report, options["metric"])], test=False)

    found = sweeps.sweep(trial, space, study, **options)
    show_sweep(found, Path(study).with_suffix(""))


def run_seeds(config, run):
    """The same configuration with several seeds."""
    name = config["wandb"]["name"] or "seeds"
    folder = Path(config["trainer"]["default_root_dir"]) / config["wandb"]["project"] / f"{name}-seeds"

    def one(seed):
        changes = {"seed": seed, "wandb.name": f"{name}-seed{seed}", "resume_or_new": True}
        return run(with_changes(config, changes))

    show_seeds(seed_study(one, config["seeds_of_study"], folder, config), folder)


def rows_of(config):
    """The clips of the training split, and its entries of section ``data``."""
    entries = with_demo(config["data"], **config["demo"])
    split = entries["train_split"]
    return read_collection(entries["dataset"], split, entries["text_data"], entries["curate"], "keep"), entries


def folder_of(config, entries):
    """Where generated audio is."""
    folder = config["generator"]["folder"] or entries["synthetic_audio"]
    if not folder:
        raise ValueError("generator.folder is not set, expected the folder of the generated audio")
    return folder


def make_audio(config, sections):
    """Audio for every caption of the training split, as far as it is not there."""
    from data_util.generation import generate  # takes pandas

    found, entries = rows_of(config)
    folder = folder_of(config, entries)
    make = sections.generator(target=generators.factory(config["generator"]["name"]))
    made = generate(found.rows, folder, make, split=entries["train_split"], **sections.generator.of(generate))
    for file, reason in made.failed.items():
        log.warning("%s: %s", file, reason)
    print(f"{made.made} clips made, {made.kept} were there, {len(made.failed)} failed: {folder}")


def judge_audio(config, build):
    """Generated audio beside the originals: alignment of log mels, and the distance of embeddings of the audio encoder.

    Args:
        config: of the run.
        build: callable (config) -> front end, model, sentence encoder.
    """
    from helpers.audio_quality import compare, pair_up
    from helpers.audio_quality_report import overview, write_comparison

    found, entries = rows_of(config)
    mel, model, _ = build(config)
    mel, model, rate = mel.eval(), model.eval(), config["data"]["sample_rate"]
    synthetic = find_generated(found.rows, folder_of(config, entries), entries["train_split"])
    pairs = pair_up([row.clip for row in found.rows], found.paths, synthetic)

    @torch.inference_mode()
    def features(path):
        waveform = np.concatenate(list(stream(path, rate)))
        return mel(torch.from_numpy(waveform)[None])[0, 0].T.numpy()

    @torch.inference_mode()
    def analyse(files):
        encoded = [model.encode_audio(torch.from_numpy(features(file)).T[None, None]) for file in files]
        return torch.cat(encoded).numpy(), None

    comparison = compare(pairs, features, analyse=analyse, measures=tuple(config["compare"]["measures"]))
    files = write_comparison(comparison, config["compare"]["out"])
    print(overview(comparison))
    print(f"tables and figures: {Path(next(iter(files.values()))).parent}")


def add_commands(ex, sections, run, build):
    """Gives an experiment the commands of this module."""

    def started(_config):
        config = plain(_config)
        runs.start(config["rank"])
        return config

    @ex.command(unobserved=True)
    def sweep(_config):
        """Trials of sweep.space in a study that several processes may share; the same command goes on."""
        run_sweep(started(_config), run, ex.known_keys())

    @ex.command(unobserved=True)
    def seeds(_config):
        """Trains with every seed of seeds_of_study: means, deviations and a figure; the same command goes on."""
        run_seeds(started(_config), run)

    @ex.command(unobserved=True)
    def generate_audio(_config):
        """Makes audio for the captions of the training split by generator.name, below generator.folder."""
        make_audio(started(_config), sections)

    @ex.command(unobserved=True)
    def compare_audio(_config):
        """Compares generated audio with the originals: tables and figures in compare.out."""
        judge_audio(started(_config), build)
