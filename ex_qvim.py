"""Query by vocal imitation: a hummed query finds the recorded sound.

    python -m ex_qvim with demo
    python -m ex_qvim with arch=mn10_as data.dataset_path=DIR
    python -m ex_qvim evaluate | index | search | serve | submission | check_data | print_config

Two encoders with common initial values are trained by a contrastive loss, as in the baseline of the AES AIMLA Challenge
2025, after Greif et al., "Improving Query-by-Vocal Imitation with Contrastive Learning and Audio Pretraining", 2024.
"""

import helpers.announce  # noqa: F401  a line on stderr, before the imports that take seconds

# isort: split
from functools import partial

import lightning as L
import numpy as np
import rich
from torch.utils.data import DataLoader

import configs
import models
import sound_search
from data_util.demo_vocal import with_demo
from data_util.loaders import evaluation_loader
from data_util.tagging_roles import chosen
from data_util.vocal import evaluation_pairs, pair_loader, training_pairs
from data_util.vocal_clips import pairs_of
from helpers import logger, runs, two_dft
from helpers.contrastive import Contrastive
from helpers.evaluation import Bootstrap
from helpers.evaluation_report import evaluation_table, write_evaluation
from helpers.ingredients import Scripted, Section, keyword_defaults, plain
from helpers.retrieval import RetrievalModule, make_optimizer, make_schedule
from helpers.retrieval_metrics import RetrievalMetrics, similarities
from helpers.run_settings import with_settings_of
from models.registry import NOTHING
from models.retrieval import MEL_NAMES, build_dual, load_dual, mel_options, warn_of_random_weights, with_mel
from models.tagging import published_checkpoint
from published import provide_weights

SYSTEMS = ("random", "2dft", "encoder")
LONGEST = 60  # seconds of a recording that the 2DFT baseline looks at; it uses the first five, resampled with the rest
LOADING = {key: value for key, value in keyword_defaults(DataLoader).items() if key != "batch_size"}

trainer = Section(
    "trainer", L.Trainer, runs.TRAINER_EXTRAS,
    devices=1, precision="32-true", max_epochs=15, benchmark=True, num_sanity_val_steps=0,
    default_root_dir="./outputs", accumulate_grad_batches=1, reload_dataloaders_every_epoch=False,
)  # fmt: skip
wandb = Section("wandb", logger.wandb_logger, project="qvim", tags=[])
data = Section(
    "data", training_pairs, evaluation_pairs, {"unique_references": False}, LOADING,
    dataset_path=configs.DATA_PATH, num_workers=8,
)  # fmt: skip
training = Section("training", {"batch_size": 16, "cached_batch": 0})
mel = Section("mel", mel_options)
loss = Section("loss", Contrastive)
optimizer = Section("optimizer", make_optimizer, make_schedule)
demo = Section("demo", with_demo)
search_sections = sound_search.Sections()
plugins = [Section(name, entries) for name, entries in models.sections().items()]
ex = Scripted("ex_qvim", [trainer, wandb, data, training, mel, loss, optimizer, demo, *search_sections, *plugins])


@ex.config
def settings():
    arch = "mn10_as"  # python -m models lists all
    pretrained_name = "own"  # the published weights of arch; another published name; a file; None: random weights
    pooling = None  # "mean" or "attention": over the frame embeddings, in place of the network's own
    shared = False  # one encoder for imitations and sounds
    projection = None  # size of a linear layer on top of the embedding
    initial_tau = 0.07  # temperature of the loss
    tau_trainable = False

    query = None  # of search: a recording
    top = 10  # sounds that are shown
    out = None  # of search: a .json file; of submission: a folder
    device = None  # of torch, for the index and the search; None: the accelerator, where there is one

    baseline = None  # of evaluate: "random", "2dft" or "encoder" alone; None: a table of all
    listen = None  # of evaluate: a page (.html), or a folder for it, on which one hears the hardest queries first
    test_untrained = True  # also test before training, as published
    ckpt_path = None  # go on from this checkpoint; "last": from the newest one of the runs called wandb.name
    save_as = None  # also keep the best checkpoint as resources/pretrained_models/<save_as>.ckpt
    compile = False  # torch.compile
    rank = 0  # number of this machine of trainer.num_nodes, where no launcher tells


# The version for several devices: shares of the epochs in place of their numbers.
ex.add_named_config("multi_gpu", plain(configs.QVIM_MULTI_GPU))
ex.add_named_config("demo", plain(configs.QVIM_DEMO))


def build(config):
    """Front end and the two encoders, with their weights."""
    arch, name = config["arch"], config["pretrained_name"]
    options = {key: config[key] for key in ("shared", "projection", "initial_tau", "tau_trainable")}
    front, dual = build_dual(arch, config, config["pooling"], **options)
    front.input_rate = config["data"]["sample_rate"]
    provide_weights(published_checkpoint(arch, name))
    loaded = load_dual(dual, arch, name, configs.RESOURCES_PATH)
    if loaded is None and (name is not None or not config["ckpt_path"]):
        warn_of_random_weights(arch, name)
    return front, dual


def classes_of(retrieval):
    """{path of an item: class}, None where not known."""
    return retrieval.classes and dict(zip(retrieval.items.names, retrieval.classes))


def make_module(config, retrieval):
    """The encoders, and how they are trained and evaluated.

    Args:
        config: of the run.
        retrieval: the :class:`data_util.vocal_clips.Retrieval` they are evaluated on.
    """
    # The weights of a checkpoint take the place of all others, which then need not be there.
    front, dual = build({**config, "pretrained_name": None} if config["ckpt_path"] else config)
    if config["compile"]:
        dual.compile()
    metrics = {part: RetrievalMetrics(retrieval.truth, classes_of(retrieval), part) for part in ("validation", "test")}
    return RetrievalModule(
        front, dual, Contrastive(**config["loss"]),
        partial(optimizer, target=make_optimizer), partial(optimizer, target=make_schedule),
        metrics, config["seed"], config, config["training"]["cached_batch"],
    )  # fmt: skip


def make_loaders(config, entries, retrieval, train):
    """Loaders of training, and of the sounds and queries of an evaluation."""
    options, size, unique = chosen(entries, DataLoader), config["training"]["batch_size"], entries["unique_references"]
    if size < 1:
        raise ValueError(f"training.batch_size is {size}, expected at least 1 pair")
    kept = not config["trainer"]["reload_dataloaders_every_epoch"] and options["num_workers"] > 0
    options |= {"persistent_workers": kept}

    def evaluation(*rank):
        parts = retrieval.items, retrieval.queries
        return [evaluation_loader(part, *rank, **options, batch_size=size) for part in parts]

    def pairs(*position):
        return pair_loader(train, size, config["seed"], *position, unique_references=unique, **options)

    return runs.Loaders(pairs, evaluation, evaluation)


def configured(config):
    """The config with the settings of the run that wrote the weights, and with one front end in both its sections."""
    config = with_settings_of(runs.weights_of(config), config, ex.given, sound_search.OF_ENCODERS)
    config = with_mel(config["arch"], config, mel_options(**config["mel"]), ex.given)
    front = config[models.get(config["arch"]).mel_section]
    mel = {name: front.get(MEL_NAMES.get(name, name), value) for name, value in config["mel"].items()}
    return {**config, "mel": mel}


def evaluated(config):
    """The :class:`data_util.vocal_clips.Retrieval` of a config, for metrics."""
    entries = with_demo(config["data"], **config["demo"])
    retrieval = evaluation_pairs(**chosen(entries, evaluation_pairs))
    if not retrieval.truth:
        raise ValueError(f"data.test_root = {entries['test_root']} has no table of the right sounds, expected one")
    return retrieval


def run(config, train=True, others=NOTHING):
    """Trains and tests, or goes on where ``ckpt_path`` ends; without ``train``, tests the weights as they are.

    Args:
        config: of the run.
        train: whether to.
        others: systems that are shown above, see :func:`show`.

    Returns:
        the values of the test by name.
    """
    runs.start(config["rank"])
    config = configured(config)
    begun = runs.Run(config, train, kept_in=configs.PRETRAINED)
    entries, retrieval = with_demo(config["data"], **config["demo"]), evaluated(config)
    pairs = training_pairs(**chosen(entries, training_pairs)) if train else None
    loaders = make_loaders(config, entries, retrieval, pairs)
    module = make_module(config, retrieval)
    results = begun.fit_and_test(module, loaders, module.headline)
    if begun.shows and results["trained"]:
        own = {config["arch"]: module.evaluation["test"].similarities()}
        show({**others, **own}, retrieval, begun.folder, config["listen"])
    return results["trained"]


def show(systems, retrieval, folder, listen=None):
    """The values of an evaluation on the console and in its folder, and what could not be read.

    Args:
        systems: name -> :class:`helpers.retrieval_metrics.Similarities`; one hears those of the last.
        retrieval: what was searched.
        folder: of the tables.
        listen: see the config.
    """
    for part in (retrieval.queries, retrieval.items):
        if part.unreadable:
            rich.print(f"{len(part.unreadable)} sounds could not be read: {', '.join(part.unreadable)}")
    rows = [row for name, found in systems.items() for row in found.rows(name, Bootstrap())]
    write_evaluation(rows, {}, folder)
    rich.print(evaluation_table(rows, "query by vocal imitation"))
    print(f"tables and checkpoints: {folder}")
    if listen:
        name, found = list(systems.items())[-1]
        page = sound_search.write_page(listen, name, found, retrieval.truth, classes_of(retrieval))
        print(f"to listen to: {page}")


def baselines(wanted, retrieval):
    """Random ranking and the organisers' 2DFT baseline as far as they are wanted, as for :func:`show`."""
    sounds, names = (retrieval.queries, retrieval.items), ([], [])

    def clips(part, readable):
        def read(number):
            return part.audio.read(number, lambda samples, rate: (0, min(samples, LONGEST * rate)))

        for number, path in enumerate(part.names):
            other, audio = part.stand_ins.read(number, read)
            if other == number:
                readable.append(path)
                yield two_dft.prepared(*audio)

    if "2dft" in wanted:
        scores = two_dft.similarity(*map(clips, sounds, names))
    else:
        names = [part.names for part in sounds]
        scores = np.zeros([len(part) for part in sounds])
    found = similarities(*names, scores, retrieval.truth, classes_of(retrieval))
    return {name: system for name, system in (("random", found.chance()), ("2dft", found)) if name in wanted}


@ex.command(unobserved=True)
def evaluate(_config):
    """MRR and NDCG of random ranking, of the 2DFT baseline and of the encoders; baseline=NAME for one of them."""
    config = plain(_config)
    runs.start(config["rank"])
    wanted = SYSTEMS if config["baseline"] is None else (config["baseline"],)
    if not set(wanted) <= set(SYSTEMS):
        raise ValueError(f"baseline is '{config['baseline']}', expected one of {', '.join(SYSTEMS)}")
    if wanted == ("random",) and config["listen"]:
        raise ValueError("listen: there is nothing to hear of baseline=random, expected another one")
    retrieval = None if wanted == ("encoder",) else evaluated(config)
    systems = {} if retrieval is None else baselines(wanted, retrieval)
    if "encoder" in wanted:
        return run(config, train=False, others=systems)
    return show(systems, retrieval, logger.run_folder(*logger.place(config)), config["listen"])


@ex.command(unobserved=True)
def check_data(_config):
    """Counts what is there of both data sets; what their tables name and is not there is listed."""
    config = plain(_config)
    runs.start(config["rank"])
    entries = with_demo(config["data"], **config["demo"])
    pairs = pairs_of(training_pairs(**chosen(entries, training_pairs))).pairs
    retrieval = evaluation_pairs(**chosen(entries, evaluation_pairs))
    print(f"to train on: {len(pairs)} pairs of {len(set(pairs[:, 1].tolist()))} sounds and their imitations")
    known = len(retrieval.truth)
    print(f"to search: {len(retrieval.items)} sounds, {len(retrieval.queries)} queries ({known} with the right sound)")


sound_search.add_commands(ex, search_sections, build, configured)


@ex.automain
def main(_config):
    return run(plain(_config))
