"""Language-based audio retrieval: a sentence finds the recording that it describes.

    python -m ex_clotho with demo
    python -m ex_clotho with data.dataset=DIR arch=cnn14_clotho
    python -m ex_clotho preprocess | evaluate | store_scores | eval_retrieval | print_config
    python -m ex_clotho sweep | seeds | generate_audio | compare_audio
    python -m ex_clotho index | search | serve

An audio encoder and a sentence encoder meet in one space, trained by InfoNCE as in the baseline of DCASE 2023, task 6b:
Xie et al., "Language-based audio retrieval task in DCASE 2023 challenge", and Xie et al., "On negative sampling for
contrastive audio-text retrieval", ICASSP 2023.
"""

import helpers.announce  # noqa: F401  a line on stderr, before the imports that take seconds

# isort: split
from functools import partial
from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader

import caption_scoring
import clotho_studies
import configs
import models
import sound_search
from data_util import clotho
from data_util.captioned_clips import audio_of, collate, existing_splits
from data_util.clotho import SPLITS, caption_loader, evaluation_set, training_clips, training_set
from data_util.demo_clotho import with_demo
from data_util.feature_cache import complete_embeddings, complete_features
from data_util.loaders import evaluation_loader
from data_util.tagging_roles import chosen
from helpers import logger, runs
from helpers.audio_text import AudioTextModule, make_optimizer, make_schedule
from helpers.audio_text_losses import AudioTextLoss
from helpers.baseline_configs import Converting
from helpers.caption_metrics import CaptionMetrics
from helpers.ingredients import Section, keyword_defaults, plain
from helpers.run_names import resume_or_new
from helpers.run_settings import with_settings_of
from helpers.tagging_runners import fingerprint
from models.audio_text import build_audio_text, load_audio_text
from models.text import load_sentence_encoder

LOADING = {key: value for key, value in keyword_defaults(DataLoader).items() if key != "batch_size"}
ENCODER = {
    key: value for key, value in keyword_defaults(build_audio_text).items()
    if key not in ("arch", "config", "pooling", "text_encoder", "text_dim")
}  # fmt: skip
OF_ENCODERS = ("arch", "pooling", "model", "text", "data.sample_rate", *models.sections())

trainer = Section(
    "trainer", L.Trainer, runs.TRAINER_EXTRAS,
    devices=1, precision="32-true", max_epochs=150, benchmark=True, num_sanity_val_steps=0,
    default_root_dir="./outputs", accumulate_grad_batches=1, reload_dataloaders_every_epoch=False,
)  # fmt: skip
wandb = Section("wandb", logger.wandb_logger, project="clotho", tags=[])
data = Section(
    "data", training_set, evaluation_set, {"unique_clips": False, "teacher_scores": None}, LOADING,
    dataset=f"{configs.DATA_PATH}/clotho", num_workers=8,
)  # fmt: skip
training = Section("training", {"batch_size": 32})
text = Section("text", load_sentence_encoder)
encoder = Section("model", ENCODER)
loss = Section("loss", AudioTextLoss)
optimizer = Section("optimizer", make_optimizer, make_schedule)
demo = Section("demo", with_demo)
plugins = [Section(name, entries) for name, entries in models.sections().items()]
studies = clotho_studies.Sections()
searching = sound_search.Sections()
parts = [trainer, wandb, data, training, text, encoder, loss, optimizer, demo]
ex = Converting("ex_clotho", [*parts, *studies, *searching, *plugins])


@ex.config
def settings():
    arch = "cnn14_clotho"  # python -m models lists all
    pretrained_name = "own"  # the published weights of arch; a file; None: random weights
    pooling = None  # "mean" or "attention": over the frame embeddings, in place of the network's own

    cache = f"{configs.RESOURCES_PATH}/clotho_cache"  # folder of features and sentence embeddings
    cache_features = True  # compute log mels once; False: from the audio in every epoch, with augmentation
    validate_on = "validation"  # splits
    test_on = "evaluation"

    scores = None  # of store_scores: the file; of eval_retrieval: files, of several the mean counts
    weights = None  # of eval_retrieval: one for every file
    out = None  # of eval_retrieval: folder of tables and figures; of search: a .json file
    query = None  # of search: a sentence, or a recording
    top = 10  # sounds that are shown
    device = None  # of torch, for the index and the search; None: the accelerator, where there is one
    seeds_of_study = [0, 1, 2, 3, 4]  # of the command seeds
    resume_or_new = False  # go on with the run called wandb.name where there is one
    test_untrained = False
    ckpt_path = None  # go on from this checkpoint; "last": from the newest one of the runs called wandb.name
    save_as = None  # also keep the best checkpoint as resources/pretrained_models/<save_as>.ckpt
    compile = False  # torch.compile
    rank = 0  # number of this machine of trainer.num_nodes, where no launcher tells


ex.add_named_config("demo", plain(configs.CLOTHO_DEMO))
ex.add_named_config("best", plain(configs.CLOTHO_BEST))


def build(config):
    """Front end, encoders with their weights, and the sentence encoder, which is a part of the model if trained."""
    sentences = load_sentence_encoder(**config["text"])
    inside = sentences if config["text"]["trainable_layers"] else None
    mel, model = build_audio_text(
        config["arch"], config, config["pooling"], inside, sentences.dim, **config["model"]
    )  # fmt: skip
    mel.input_rate = config["data"]["sample_rate"]
    load_audio_text(model, config["arch"], config["pretrained_name"], configs.RESOURCES_PATH)
    return mel, model, sentences


def configured(config):
    """The config with the settings of the run that wrote the weights."""
    return with_settings_of(runs.weights_of(config), config, ex.given, OF_ENCODERS)


def searched(config):
    """The same, and the encoders of sounds and sentences."""
    config = configured(config)
    return config, sound_search.text_encoders(config, build)


def collections(entries, splits):
    """Split -> :class:`data_util.clotho.Collection`, with or without audio, for the entries of section ``data``."""
    options = {name: entries[name] for name in ("dataset", "text_data", "curate")}
    return {split: clotho.read_collection(split=split, **options, on_missing_audio="keep") for split in splits}


def cached(config, entries, mel, sentences, splits):
    """The entries of section ``data`` with the caches of features and embeddings, which are completed first.

    Args:
        config: of the run.
        entries: of the section; the training split has the audio of ``synthetic_audio``, too, unless that is None.
        mel, sentences: front end and sentence encoder.
        splits: what is used.
    """
    parts, entries = collections(entries, splits), dict(entries)
    if entries["text_embeds"] is None and not config["text"]["trainable_layers"]:
        captions = [caption for found in parts.values() for row in found.rows for caption in row.captions]
        identity = {"text": sentences.identity()}
        entries["text_embeds"] = complete_embeddings(config["cache"], captions, sentences.embed, identity)
    if entries["audio_data"] is None and config["cache_features"]:
        clips, rate, generated = {}, entries["sample_rate"], entries["synthetic_audio"]
        for split, found in parts.items():
            mixed = generated is not None and split == entries["train_split"]
            used = training_clips(found, **chosen(entries, training_clips)) if mixed else (found.rows, found.paths)
            clips[split] = audio_of(*used, clotho.audio_folder(entries["dataset"], split), entries["on_missing_audio"])
        places = [str(Path(place).expanduser().resolve()) for place in (entries["dataset"], generated) if place]
        identity = {"mel": fingerprint(mel), "sample_rate": rate, "audio": places}
        entries["audio_data"] = complete_features(config["cache"], clips, partial(log_mel, mel.eval()), rate, identity)
    return entries


def both_cached(config, entries, mel, sentences, evaluated, train=True):
    """Entries to train with and to evaluate with: generated audio has a cache of its own, see :func:`cached`."""
    trained = [entries["train_split"]] if train else []
    alone = {**entries, "synthetic_audio": None}
    if train and entries != alone:
        return cached(config, entries, mel, sentences, trained), cached(config, alone, mel, sentences, evaluated)
    found = cached(config, alone, mel, sentences, [*trained, *evaluated])
    return found, found


@torch.inference_mode()
def log_mel(mel, waveform):
    """[samples] -> [frames, bands]."""
    return mel(torch.from_numpy(waveform)[None])[0, 0].T.numpy()


def metrics_of(clips, model, name):
    """Metrics of an evaluation set: of texts where the model reads them, else of their embeddings."""
    texts = clips.captions.texts
    captions = texts if model.text_encoder is not None else clips.embeddings.vectors(texts)
    return CaptionMetrics(captions, clips.captions.clips, clips.relevance, name)


def make_loaders(config, entries, pairs, parts):
    """Loaders of training, validation and test."""
    options, size = {key: entries[key] for key in LOADING}, config["training"]["batch_size"]
    options["persistent_workers"] = (
        not config["trainer"]["reload_dataloaders_every_epoch"] and options["num_workers"] > 0
    )
    options["collate_fn"] = collate

    def train(*position):
        return caption_loader(pairs, size, config["seed"], *position, unique_clips=entries["unique_clips"], **options)

    def evaluation(role):
        return lambda *rank: evaluation_loader(parts[role], *rank, **options, batch_size=1)

    return runs.Loaders(train, evaluation("validation"), evaluation("test"))


def run(config, train=True, callbacks=(), test=True):
    """Trains and tests, or goes on where ``ckpt_path`` ends; without ``train``, tests the weights as they are.

    Returns:
        the values of the test by name; without ``test`` the best value of the validation.
    """
    runs.start(config["rank"])
    config = configured(config)
    if train and config["resume_or_new"]:
        found = resume_or_new(*logger.place(config), config, ex.given)
        config["ckpt_path"] = found and str(found)
    begun = runs.Run(config, train, kept_in=configs.PRETRAINED)
    entries = with_demo(config["data"], **config["demo"])
    mel, model, sentences = build({**config, "pretrained_name": None} if config["ckpt_path"] else config)
    roles = {"validation": config["validate_on"] if train else config["test_on"], "test": config["test_on"]}
    training_entries, entries = both_cached(config, entries, mel, sentences, roles.values(), train)
    pairs = training_set(**chosen(training_entries, training_set)) if train else None
    parts = {role: evaluation_set(split, **chosen(entries, evaluation_set)) for role, split in roles.items()}
    if config["compile"]:
        model.audio_encoder.tag = torch.compile(model.audio_encoder.tag)
    module = AudioTextModule(
        mel, model, AudioTextLoss(**config["loss"]),
        partial(make_optimizer, **chosen(config["optimizer"], make_optimizer)),
        partial(make_schedule, **chosen(config["optimizer"], make_schedule)),
        {role: metrics_of(clips, model, role) for role, clips in parts.items()},
        caption_scoring.soft_targets(entries, pairs), config["seed"], config,
    )  # fmt: skip
    results = begun.fit_and_test(
        module, make_loaders(config, entries, pairs, parts), module.headline, callbacks, test=test
    )  # fmt: skip
    if not test:
        return begun.best_score()
    if begun.shows and results["trained"]:
        found = caption_scoring.scores_of(module.evaluation["test"], parts["test"], config)
        if config["scores"] and not train:
            found.write(config["scores"])
            print(f"scores: {config['scores']}")
        caption_scoring.show({config["arch"]: found}, begun.folder, config["test_on"])
    return results["trained"]


@ex.command(unobserved=True)
def preprocess(_config):
    """Computes features and sentence embeddings of all splits, as far as they are not there; describes the captions."""
    config = plain(_config)
    runs.start(config["rank"])
    config = configured(config)
    entries = {**with_demo(config["data"], **config["demo"]), "on_missing_audio": "keep"}
    own = [entries["train_split"], config["validate_on"], config["test_on"]]
    find = partial(clotho.find_table, entries["dataset"], text_data=entries["text_data"])
    splits = existing_splits(find, own, SPLITS)
    mel, _, sentences = build({**config, "pretrained_name": None})
    train, evaluated = own[0] in splits, [split for split in splits if split != own[0]]
    found = both_cached(config, entries, mel, sentences, evaluated, train)
    rows = {split: part.rows for split, part in collections(entries, splits).items()}
    clotho_studies.show_captions(rows, sentences, config["cache"], entries["dataset"])
    for path in dict.fromkeys(part["audio_data"] for part in found if part["audio_data"]):
        there = [split for split in splits if clotho.below(entries["dataset"], split, path).is_file()]
        if there:
            print(f"features: {path} ({', '.join(there)})")
    if found[0]["text_embeds"]:
        print(f"sentence embeddings: {found[0]['text_embeds']}")


@ex.command(unobserved=True)
def evaluate(_config):
    """Tests the weights pretrained_name=FILE on the split test_on."""
    run(plain(_config), train=False)


@ex.command(unobserved=True)
def store_scores(_config):
    """Writes the similarities of all captions and clips of the split test_on to scores=FILE.hdf5."""
    config = plain(_config)
    if not config["scores"]:
        raise ValueError("scores is not set, expected the .hdf5 file to be written")
    run(config, train=False)


@ex.command(unobserved=True)
def eval_retrieval(_config):
    """Evaluates stored scores, of several files also their ensemble: scores='("a.hdf5", "b.hdf5")' out=FOLDER."""
    config = plain(_config)
    runs.start(config["rank"])
    if not config["scores"]:
        raise ValueError("scores is not set, expected one or several files of store_scores")
    systems = caption_scoring.read_systems(config["scores"], config["test_on"], config["weights"])
    caption_scoring.show(systems, config["out"] or "outputs/retrieval", config["test_on"])


clotho_studies.add_commands(ex, studies, run, build, configured)
sound_search.add_search(ex, searching, searched)


@ex.automain
def main(_config):
    return run(plain(_config))
