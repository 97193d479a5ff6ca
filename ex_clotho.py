"""Language-based audio retrieval: a sentence finds the recording that it describes.

    python -m ex_clotho with demo
    python -m ex_clotho with data.dataset=DIR arch=cnn14_clotho
    python -m ex_clotho preprocess | evaluate | store_scores | eval_retrieval | print_config
    python -m ex_clotho sweep | seeds | generate_audio | compare_audio

An audio encoder and a sentence encoder meet in one space, trained by InfoNCE as in the baseline of DCASE 2023, task 6b:
Xie et al., "Language-based audio retrieval task in DCASE 2023 challenge", and Xie et al., "On negative sampling for
contrastive audio-text retrieval", ICASSP 2023.
"""

from functools import partial
from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader

import caption_scoring
import clotho_studies
import configs
import models
from data_util.captioned_clips import collate
from data_util.clotho import SPLITS, caption_loader, evaluation_set, read_collection, training_set
from data_util.demo_clotho import with_demo
from data_util.feature_cache import build_embeddings, build_features, cache_path
from data_util.loaders import evaluation_loader
from data_util.tagging_roles import chosen
from helpers import logger, runs
from helpers.audio_text import AudioTextModule, make_optimizer, make_schedule
from helpers.audio_text_losses import AudioTextLoss
from helpers.caption_metrics import CaptionMetrics
from helpers.checkpoints import load_exact
from helpers.ingredients import Scripted, Section, keyword_defaults, plain
from helpers.run_names import resume_or_new
from helpers.run_settings import with_settings_of
from helpers.tagging_runners import fingerprint
from models.audio_text import build_audio_text, load_audio_text
from models.text import load_sentence_encoder

ROLES = {"training": "development", "validation": "validation", "test": "evaluation"}
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
    "data", training_set, evaluation_set, {"unique_clips": False}, LOADING,
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
parts = [trainer, wandb, data, training, text, encoder, loss, optimizer, demo]
ex = Scripted("ex_clotho", [*parts, *studies, *plugins])


@ex.config
def settings():
    arch = "cnn14_clotho"  # python -m models lists all
    pretrained_name = "own"  # the published weights of arch; a file; None: random weights
    pooling = None  # "mean" or "attention": over the frame embeddings, in place of the network's own

    cache = "resources/clotho_cache"  # folder of features and sentence embeddings
    cache_features = True  # compute log mels once; False: from the audio in every epoch, with augmentation
    validate_on = "validation"  # splits
    test_on = "evaluation"

    scores = None  # of store_scores: the file; of eval_retrieval: files, of several the mean counts
    weights = None  # of eval_retrieval: one for every file
    out = None  # of eval_retrieval: folder of tables and figures
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


def cached(config, entries, mel, sentences, splits):
    """The entries of section ``data`` with the caches of features and embeddings, which are completed first.

    Args:
        config: of the run.
        entries: of the section.
        mel: front end.
        sentences: sentence encoder.
        splits: what is used.
    """
    chosen_rows = {
        split: read_collection(entries["dataset"], split, entries["text_data"], entries["curate"], "keep")
        for split in splits
    }
    entries = dict(entries)
    if entries["text_embeds"] is None and not config["text"]["trainable_layers"]:
        path = cache_path(config["cache"], "captions", identity := {"text": sentences.identity()})
        captions = [caption for found in chosen_rows.values() for row in found.rows for caption in row.captions]
        build_embeddings(path, captions, sentences.embed, identity)
        entries["text_embeds"] = str(Path(path).resolve())
    if entries["audio_data"] is None and config["cache_features"]:
        rate = entries["sample_rate"]
        identity = {"mel": fingerprint(mel), "sample_rate": rate}
        path = cache_path(config["cache"], "{split}_audio_logmels", identity)
        for split, found in chosen_rows.items():
            clips = {row.clip: file for row, file in zip(found.rows, found.paths) if file}
            build_features(path.format(split=split), clips, partial(log_mel, mel.eval()), rate, identity)
        entries["audio_data"] = str(Path(path).resolve())
    return entries


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
    config = with_settings_of(config["pretrained_name"], config, ex.given, OF_ENCODERS)
    root, project, name = config["trainer"]["default_root_dir"], config["wandb"]["project"], config["wandb"]["name"]
    ckpt_path = logger.resume_from(config["ckpt_path"], root, project, name) if train else None
    if train and config["resume_or_new"]:
        ckpt_path = resume_or_new(root, project, name, config, ex.given)
    folder = logger.run_folder(root, project, name, resumed=ckpt_path)
    resumed = runs.read_checkpoint(ckpt_path)
    config["seed"] = resumed.get("config", {}).get("seed", config["seed"])
    kept = train and config["save_as"] and f"{configs.PRETRAINED}/{config['save_as']}.ckpt"
    if kept:
        runs.require_own(kept)
    L.seed_everything(config["seed"], verbose=False)
    entries = with_demo(config["data"], **config["demo"])
    mel, model, sentences = build(config)
    splits = [entries["train_split"], config["validate_on"], config["test_on"]] if train else [config["test_on"]]
    entries = cached(config, entries, mel, sentences, list(dict.fromkeys(splits)))
    pairs = training_set(**chosen(entries, training_set)) if train else None
    roles = {"validation": config["validate_on"] if train else config["test_on"], "test": config["test_on"]}
    parts = {role: evaluation_set(split, **chosen(entries, evaluation_set)) for role, split in roles.items()}
    module = AudioTextModule(
        mel, model, AudioTextLoss(**config["loss"]),
        partial(make_optimizer, **chosen(config["optimizer"], make_optimizer)),
        partial(make_schedule, **chosen(config["optimizer"], make_schedule)),
        {role: metrics_of(clips, model, role) for role, clips in parts.items()}, None, config["seed"], config,
    )  # fmt: skip
    if resumed:
        load_exact(module, resumed["state_dict"], name=str(ckpt_path))

    online = logger.wandb_logger(folder, config, **config["wandb"])
    loggers = logger.loggers(folder, online, resumed.get("global_step", 0))
    lightning = runs.make_trainer(config["trainer"], folder, loggers, module.headline, callbacks)
    runs.write_summary(module, folder, config["trainer"]["weights_summary"])
    results = runs.course(
        lightning, module, make_loaders(config, entries, pairs, parts), ckpt_path=ckpt_path, train=train, test=test,
        untrained=train and config["test_untrained"],
    )  # fmt: skip
    if not test:
        return float(lightning.checkpoint_callback.best_model_score)
    if kept:
        runs.keep(lightning, folder, kept)
    if lightning.is_global_zero and results["trained"]:
        found = caption_scoring.scores_of(module.evaluation["test"], parts["test"], config)
        caption_scoring.show({config["arch"]: found}, folder, config["test_on"])
        if config["scores"] and not train:
            found.write(config["scores"])
            print(f"scores: {config['scores']}")
    if online:
        online.experiment.finish()
    return results["trained"]


@ex.command(unobserved=True)
def preprocess(_config):
    """Computes features and sentence embeddings of all splits, as far as they are not there."""
    config = plain(_config)
    runs.start(config["rank"])
    config = with_settings_of(config["pretrained_name"], config, ex.given, OF_ENCODERS)
    entries = with_demo(config["data"], **config["demo"])
    mel, _, sentences = build({**config, "pretrained_name": None})
    found = cached(config, entries, mel, sentences, SPLITS)
    print(f"features: {found['audio_data']}\nsentence embeddings: {found['text_embeds']}")


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


clotho_studies.add_commands(ex, studies, run, build)


@ex.automain
def main(_config):
    return run(plain(_config))
