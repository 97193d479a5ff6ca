"""Studies around one configuration of ex_clotho: sweeps, seeds, and generated audio with its comparison."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import rich
import torch
from rich.table import Table

import configs
import models
from data_util import generators
from data_util.caption_text import published_clip_id, text_report, text_rows, write_text_rows
from data_util.clotho import read_collection
from data_util.demo_clotho import with_demo
from data_util.streaming import stream
from data_util.synthetic import find_generated, without_generated
from helpers import baseline_configs, runs, sweeps
from helpers.audio_quality import MEL_MEASURES, compare, pair_up
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
        self.compare = Section("compare", {"out": "outputs/audio_quality", "measures": list(MEL_MEASURES)})

    def __iter__(self):
        return iter(vars(self).values())


def run_sweep(config, run, ex):
    """Trials of a space of configurations, shared with other processes by the file of the study.

    Args:
        config: of the run.
        run: callable (config, callbacks, test) -> best value of the validation.
        ex: the experiment.
    """
    options = dict(config["sweep"])
    space, study = options.pop("space"), options.pop("study")
    name = config["wandb"]["name"] or "sweep"
    study = study or f"{config['trainer']['default_root_dir']}/{config['wandb']['project']}/{name}.db"
    name = Path(study).stem  # of the trials: those of another study are other runs
    space = configs.CLOTHO_SWEEPS.get(space, space) if isinstance(space, str) else space
    space = of_architecture(read_space(baseline_configs.sweep_space(space), ex.known_keys()), config["arch"])
    options["max_steps"] = options["max_steps"] or config["trainer"]["max_epochs"]

    def trial(changes, report):
        ex.given.update(changes)  # they count more than the settings of pretrained weights
        own = {"wandb.name": f"{name}-{report.name}", "resume_or_new": True, "save_as": None}
        one = with_changes(config, {**changes, **own})
        return run(one, callbacks=[ReportValidation(report, options["metric"])], test=False)

    found = sweeps.sweep(trial, space, study, **options)
    show_sweep(found, Path(study).with_suffix(""))


def of_architecture(space, arch):
    """A space without the entries of other architectures, which would change nothing."""
    own = models.get(arch)
    others = models.sections().keys() - {own.section, own.mel_section}
    left_out = [key for key in space if key.partition(".")[0] in others]
    if left_out:
        log.warning("arch=%s has no %s: left out of the space", arch, ", ".join(left_out))
    return {key: entry for key, entry in space.items() if key not in left_out}


def run_seeds(config, run):
    """The same configuration with several seeds."""
    name = config["wandb"]["name"] or "seeds"
    folder = Path(config["trainer"]["default_root_dir"]) / config["wandb"]["project"] / f"{name}-seeds"

    def one(seed):
        changes = {"seed": seed, "wandb.name": f"{name}-seed{seed}", "resume_or_new": True}
        if config["save_as"]:
            changes["save_as"] = f"{config['save_as']}-seed{seed}"
        return run(with_changes(config, changes))

    show_seeds(seed_study(one, config["seeds_of_study"], folder, config), folder)


def show_captions(splits, sentences, folder, dataset):
    """What the captions hold, as a table, and id tables ``<split>_text.csv``.

    Args:
        splits: name -> clips.
        sentences: sentence encoder, whose tokens count.
        folder: of the id tables.
        dataset: folder of the data set, a part of the ids.
    """
    report = text_report(splits, sentences.token_ids)
    rich.print(text_table(report))
    print(
        f"vocabulary of all splits: {report['vocabulary']} words; in two splits: "
        f"{len(report['clips_in_two_splits'])} clips, {report['captions_in_two_splits']} captions"
    )
    for split, rows in splits.items():
        ids = [published_clip_id(f"{dataset}/{split}/{row.file}") for row in rows]
        write_text_rows(Path(folder) / f"{split}_text.csv", text_rows(rows, ids))
    print(f"id tables: {folder}")


def text_table(report):
    """Numbers of :func:`data_util.caption_text.text_report` as a ``rich.table.Table``."""
    table = Table(title="captions", title_justify="left")
    table.add_column("")
    for split in report["splits"]:
        table.add_column(split, justify="right")
    for name in next(iter(report["splits"].values())):
        values = (found[name] for found in report["splits"].values())
        table.add_row(
            name.replace("_", " "),
            *(f"{v[0]} / {v[1]:.1f} / {v[2]}" if isinstance(v, list) else str(v) for v in values),
        )
    return table


def rows_of(config):
    """The original clips of the training split, and its entries of section ``data``."""
    entries = with_demo(config["data"], **config["demo"])
    split = entries["train_split"]
    found = read_collection(entries["dataset"], split, entries["text_data"], entries["curate"], "keep")
    rows, paths = without_generated(found.rows, found.paths)
    return replace(found, rows=tuple(rows), paths=tuple(paths)), entries


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
    from data_util.generation import chosen_columns  # takes pandas
    from helpers.audio_quality_report import overview, write_comparison

    found, entries = rows_of(config)
    mel, model, _ = build(config)
    mel, model, rate = mel.eval(), model.eval(), config["data"]["sample_rate"]
    synthetic = find_generated(found.rows, folder_of(config, entries), entries["train_split"])
    columns = chosen_columns(found.rows, config["generator"]["columns"])
    synthetic = [{column: path for column, path in own.items() if column in columns} for own in synthetic]
    pairs = pair_up([row.clip for row in found.rows], found.paths, synthetic)

    @torch.inference_mode()
    def features(path):
        waveform = np.concatenate(list(stream(path, rate)))
        return mel(torch.from_numpy(waveform)[None])[0, 0].T.numpy()

    @torch.inference_mode()
    def encode(logmel):
        return model.encode_audio(torch.from_numpy(logmel.T[None, None].astype(np.float32)))[0].numpy()

    def analyse(files):
        return np.stack([encode(features(file)) for file in files]), None

    comparison = compare(pairs, features, encode, analyse, measures=tuple(config["compare"]["measures"]))
    files = write_comparison(comparison, config["compare"]["out"])
    print(overview(comparison))
    print(f"tables and figures: {Path(next(iter(files.values()))).parent}")


def add_commands(ex, sections, run, build, configured):
    """Gives an experiment the commands of this module.

    Args:
        ex: the experiment.
        sections: its :class:`Sections`.
        run: callable (config, callbacks, test), see :func:`run_sweep`.
        build: see :func:`judge_audio`.
        configured: callable (config) -> the config with the settings of the weights' run.
    """

    def started(_config):
        config = plain(_config)
        runs.start(config["rank"])
        return config

    @ex.command(unobserved=True)
    def sweep(_config):
        """Trials of sweep.space in a study that several processes may share; the same command goes on."""
        run_sweep(started(_config), run, ex)

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
        judge_audio(configured(started(_config)), build)
