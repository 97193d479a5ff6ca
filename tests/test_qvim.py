"""ex_qvim from end to end on a few short sounds: recipe, training, processes, architectures, evaluation, search."""

import csv
import html
import json
import math
import re
import shutil
import urllib.parse
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sacred.arg_parser import get_config_updates

import configs
import ex_qvim
import sound_search
from data_util import demo_vocal
from data_util.vocal import evaluation_pairs
from helpers.ingredients import plain
from helpers.retrieval import RetrievalModule
from models.retrieval import build_dual, mel_options, with_mel
from tests.golden.named_weights import set_named_weights
from tests.golden.tagging.calibrate import calibrate_batchnorm
from tests.reference import golden
from tests.runs import NamedRuns, assert_goes_on, leaving_no_trace, merged

SIZES = {"references": 6, "imitations": 2, "items": 6, "queries": 2}
RATE, SECONDS = 16000, 1.0
SMALL = {"sample_rate": RATE, "window_size": 512, "hop_size": 320, "n_fft": 512, "n_mels": 32, "timem": 8,
         "fmax_aug_range": 500}  # fmt: skip


@pytest.fixture(scope="module")
def dataset_path(tmp_path_factory):
    """A small demo data set. Not to be changed."""
    return demo_vocal.make_demo_vocal(tmp_path_factory.mktemp("vocal"), sizes=SIZES, workers=1)


def calibrated(front, dual, retrieval):
    """Gives batch norms the statistics of the sounds: without, all embeddings of random weights are alike."""
    with torch.no_grad():
        features = {
            side: front.eval()(torch.stack([part[number]["audio"] for number in range(len(part))]))
            for side, part in (("reference", retrieval.items), ("imitation", retrieval.queries))
        }
    calibrate_batchnorm(dual, forward=lambda: [dual(mel, side) for side, mel in features.items()])
    return features


@pytest.fixture(scope="module")
def weights(dataset_path, tmp_path_factory):
    """File of a tagger's weights to begin with."""
    front, dual = build_dual("mn01_as", with_mel("mn01_as", {}, mel_options(**SMALL)), shared=True)
    set_named_weights(dual, 0)
    calibrated(front, dual, evaluation_pairs(dataset_path=dataset_path, sample_rate=RATE, duration=SECONDS))
    path = tmp_path_factory.mktemp("weights") / "tagger.pt"
    torch.save(dual.imitation_encoder.state_dict(), path)
    return str(path)


class VocalRuns(NamedRuns):
    """Runs of ex_qvim with a network of a few thousand weights."""

    def __init__(self, folder, dataset_path, weights):
        super().__init__(
            folder,
            ex_qvim.ex,
            arch="mn01_as",
            pretrained_name=weights,
            data={"dataset_path": dataset_path, "sample_rate": RATE, "duration": SECONDS, "num_workers": 0},
            training={"batch_size": 4},
            mel=SMALL,
        )

    def results(self, name="run"):
        """(system, metric) -> value of the table of an evaluation."""
        with open(self.path(name) / "evaluation.csv") as file:
            return {(row["dataset"], row["metric"]): float(row["value"]) for row in csv.DictReader(file)}

    def weights_of(self, name="run", file="best"):
        return str(self.path(name) / "checkpoints" / f"{file}.ckpt")

    def tried(self, command=None, *named, **updates):
        """A command in this process with nothing but these settings, and where to write."""
        config = {"trainer": self.config["trainer"], "wandb": {"project": "tests"}, "device": "cpu"}
        with leaving_no_trace():
            return self.ex.run(command, config_updates=merged(config, updates), named_configs=named).result


@pytest.fixture
def vocal(tmp_path, dataset_path, weights, _same_threads):
    torch.set_num_threads(1)
    return VocalRuns(tmp_path, dataset_path, weights)


@pytest.fixture
def mistake(vocal, capfd):
    """Function: arguments of a command -> the one line on stderr that its exit with status 1 leaves."""

    def run(command, *arguments):
        capfd.readouterr()
        assert vocal.command(*arguments, command=[command]) == 1
        stderr = capfd.readouterr().err
        assert "Traceback" not in stderr
        (line,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
        return line.removeprefix("error: ")

    return run


# -- recipe -----------------------------------------------------------------------------------------------------------

# Published flag -> our entry. The others have no entry: model_save_path is trainer.default_root_dir or save_as, and
# pretrained_name names the architecture as well.
ENTRIES = {
    "project": "wandb.project", "id": "wandb.id", "num_workers": "data.num_workers", "num_gpus": "trainer.devices",
    "dataset_path": "data.dataset_path", "batch_size": "training.batch_size", "n_epochs": "trainer.max_epochs",
    "weight_decay": "optimizer.weight_decay", "max_lr": "optimizer.max_lr", "min_lr": "optimizer.min_lr",
    "warmup_epochs": "optimizer.warmup_epochs", "rampdown_epochs": "optimizer.rampdown_epochs", "warmup_percent":
    "optimizer.warmup_percent", "rampdown_percent": "optimizer.rampdown_percent", "precision": "trainer.precision",
    "sync_batchnorm": "trainer.sync_batchnorm", "acc_grad": "trainer.accumulate_grad_batches", "initial_tau":
    "initial_tau", "tau_trainable": "tau_trainable", "duration": "data.duration", "random_seed": "seed",
    **{name: f"mel.{name}" for name in ("window_size", "hop_size", "n_fft", "n_mels", "freqm", "timem", "fmin", "fmax",
                                        "fmin_aug_range", "fmax_aug_range")},
}  # fmt: skip
NO_ENTRY = {"model_save_path", "pretrained_name", "sample_rate"}


def config_of(*named, **updates):
    """The config that named configs make, as a run has it; the seed that sacred draws is left out."""
    with leaving_no_trace():
        config = plain(ex_qvim.ex._create_run("print_config", updates, named).config)
    return ex_qvim.configured({**config, "seed": None})


def entry(config, name):
    for step in name.split("."):
        config = config[step]
    return config


@pytest.mark.parametrize(("version", "named"), [("official", []), ("modified", ["multi_gpu"])])
def test_published_defaults(version, named):
    config, flags = config_of(*named), golden("qvim/flags.json")["scripts"][version]
    wrong = {}
    for flag, default in flags.items():
        if flag not in NO_ENTRY and entry(config, ENTRIES[flag]) != default:
            wrong[flag] = (entry(config, ENTRIES[flag]), default)
    assert not wrong
    assert (config["arch"], config["pretrained_name"]) == (flags["pretrained_name"], "own")
    assert config["data"]["sample_rate"] == config["mel"]["sample_rate"] == flags["sample_rate"]
    if not named:
        assert config["trainer"]["precision"] == "32-true"
        assert config["optimizer"]["warmup_percent"] is config["optimizer"]["rampdown_percent"] is None


# -- training ---------------------------------------------------------------------------------------------------------


def test_a_run(vocal, capsys):
    result = vocal.run(tau_trainable=True, trainer={"max_epochs": 3}, data={"gain_augment": 6.0})
    folder = vocal.path()
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    tables = {"evaluation.csv", "evaluation.md", "metrics.csv", "model_summary.txt"}
    assert files == {*tables, "checkpoints/last.ckpt", "checkpoints/best.ckpt"}
    steps = vocal.metrics()
    assert len(steps) == 9
    assert {name for values in steps.values() for name in values} == {
        "train/loss", "train/tau", "train/lr", "train/epoch",
    }  # fmt: skip
    rates = [values["train/lr"] for values in steps.values()]
    assert rates[:4] == pytest.approx([1e-4, 1e-4 + 2e-4 / 3, 1e-4 + 4e-4 / 3, 3e-4])
    assert len({values["train/tau"] for values in steps.values()}) == 9
    validation = vocal.metrics(prefix="val/")
    names = {"mrr", "ndcg", "loss", "recall@1", "recall@5", "recall@10"}
    assert {name for values in validation.values() for name in values} == {f"val/{name}" for name in names}
    ranks = [values["val/mrr"] for values in validation.values()]
    best = vocal.checkpoint(file="best")
    assert best["epoch"] == int(np.argmax(ranks))
    assert vocal.results()["mn01_as", "mrr"] == pytest.approx(max(ranks)) == result["test/mrr"]
    assert set(best["retrieval"]) == {name.removeprefix("dual.") for name in best["state_dict"] if "dual." in name}
    assert best["config"]["seed"] == 1
    shown = capsys.readouterr().out
    assert str(folder) in shown
    assert len(shown.splitlines()) < 16


@pytest.mark.parametrize("batch", [2, 5])
def test_stopped_runs_go_on(vocal, monkeypatch, batch):
    trainer = {"max_epochs": 2, "accumulate_grad_batches": 2}
    augmented = {"pitch_shift": 2.0, "mix_p": 0.5}
    start = partial(vocal.run, trainer=trainer, tau_trainable=True, data=augmented, test_untrained=False)
    assert_goes_on(vocal, start, RetrievalModule, batch, monkeypatch)
    assert vocal.checkpoint("whole")["global_step"] == 4  # of 6 batches: the third of an epoch is a step as well


def losses(runs, name):
    return [values["train/loss"] for values in runs.metrics(name).values()]


def test_seeds_workers_and_pieces(vocal):
    whole = {"training": {"batch_size": 6}}
    for name, options in {
        "first": {}, "workers": {"data": {"num_workers": 1}}, "other": {"seed": 2},
        "one piece": {"training": {"cached_batch": 6}}, "pieces": {"training": {"cached_batch": 2}},
    }.items():  # fmt: skip
        vocal.run(name, **merged({**whole, "test_untrained": False}, options))
    first = losses(vocal, "first")
    assert len(first) == 2
    assert losses(vocal, "workers") == first
    assert losses(vocal, "other") != first
    assert losses(vocal, "one_piece") == pytest.approx(first, abs=1e-4)
    pieces = losses(vocal, "pieces")  # batch norms see two clips at a time
    assert pieces != pytest.approx(first, abs=1e-4)
    assert all(math.isfinite(loss) for loss in pieces)


@pytest.mark.parametrize(
    "updates",
    [
        {"shared": True, "projection": 8, "loss": {"symmetric": True, "hard_negatives": 0.5, "label_smoothing": 0.1}},
        {"trainer": {"precision": "bf16-mixed"}, "pooling": "attention", "data": {"unique_references": True}},
        {"trainer": {"precision": 16, "sync_batchnorm": True}, "loss": {"mask_same_reference": True}},
        {"trainer": {"precision": "bf16"}, "data": {"cache_path": "cache"}, "optimizer": {"warmup_percent": 0.1}},
    ],
)
def test_options(vocal, monkeypatch, updates):
    monkeypatch.chdir(vocal.folder)
    result = vocal.run(**merged({"test_untrained": False, "trainer": {"limit_train_batches": 2}}, updates))
    assert 0 < result["test/mrr"] <= 1
    assert all(math.isfinite(loss) for loss in losses(vocal, "run"))


TRANSFORMER = {"embed_dim": 32, "depth": 2, "num_heads": 2}
FAMILIES = {
    "mn04_as": {},
    "dymn04_as": {},
    "beats": {"beats": {"encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "encoder_layers": 2,
                        "encoder_attention_heads": 2}},
    "atst_frame": {"atst_frame": TRANSFORMER},
    "fpasst": {"fpasst": TRANSFORMER},
    "cnn14": {"cnn14": {"channels": (4, 4, 8, 8, 16, 16)}},
    "frame_mn06": {},
}  # fmt: skip
DIMENSIONS = {"mn04_as": 384, "dymn04_as": 384, "cnn14": 16, "frame_mn06": 576}


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")  # nothing is validated
@pytest.mark.parametrize("arch", FAMILIES)
def test_every_architecture(vocal, arch):
    del vocal.config["mel"]
    trainer = {"limit_train_batches": 1, "limit_val_batches": 0}
    vocal.run(arch=arch, pretrained_name=None, test_untrained=False, trainer=trainer, **FAMILIES[arch])
    (loss,) = losses(vocal, "run")
    assert 0 < loss < 20
    stored = vocal.checkpoint()["retrieval"]
    _, found = ex_qvim.build(ex_qvim.configured(vocal.checkpoint()["config"]))
    assert found.embed_dim == DIMENSIONS.get(arch, 32)
    assert {name: tensor.shape for name, tensor in stored.items()} == {
        name: tensor.shape for name, tensor in found.state_dict().items()
    }  # fmt: skip
    trained = [name for name, weight in found.named_parameters() if weight.requires_grad]
    first = [name for name in trained if name.startswith("imitation_encoder.")]
    others = [name.replace("imitation", "reference", 1) for name in first]
    assert any(not torch.equal(stored[name], stored[other]) for name, other in zip(first, others))  # trained apart


# -- several processes ------------------------------------------------------------------------------------------------

PUBLIC_LINE = (
    "trainer.devices=2 trainer.precision=bf16-mixed training.batch_size=128 trainer.accumulate_grad_batches=1 "
    "trainer.max_epochs=15 wandb.id=mbn_mixed_b128_gpu2"
)
TINY_DEMO = f"""
from data_util import demo_vocal
demo_vocal.SIZES = {SIZES}
"""


def test_the_public_line_parses():
    updates, _ = get_config_updates(PUBLIC_LINE.split())
    config = config_of(**updates)
    assert (config["trainer"]["devices"], config["training"]["batch_size"]) == (2, 128)
    assert config["wandb"]["id"] == "mbn_mixed_b128_gpu2"


def test_two_processes(vocal, dataset_path):
    """The public line on the demo, small; then the metrics of its weights by two processes and by one."""
    shutil.copytree(dataset_path, vocal.folder / "resources" / "demo" / "vocal" / "seed0")
    for entry_of_demo in ("arch", "pretrained_name", "data", "training", "mel"):
        del vocal.config[entry_of_demo]
    vocal.config["trainer"]["max_epochs"] = 3
    words = [word for word in PUBLIC_LINE.split() if "max_epochs" not in word]
    small = ["data.duration=1.0", "trainer.check_val_every_n_epoch=1", "wandb.name=ddp"]
    done = vocal.process("demo", *words, *small, code=TINY_DEMO)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("tables and checkpoints") == 1
    steps = vocal.metrics("ddp")
    assert [values["train/epoch"] for values in steps.values()] == [0, 1, 2]  # 12 pairs, one batch of both
    assert all(math.isfinite(loss) for loss in losses(vocal, "ddp"))
    assert vocal.checkpoint("ddp", "best")["config"]["data"]["duration"] == 1.0
    alone = {"data": {"dataset_path": dataset_path, "num_workers": 0}, "trainer": {"precision": "bf16-mixed"}}
    vocal.tried("evaluate", baseline="encoder", pretrained_name=vocal.weights_of("ddp"), wandb={"name": "one"}, **alone)
    assert vocal.results("one") == pytest.approx(vocal.results("ddp"), abs=1e-6)


def test_demo(vocal, monkeypatch):
    monkeypatch.chdir(vocal.folder)
    monkeypatch.setattr(demo_vocal, "SIZES", SIZES)
    trainer = {"max_epochs": 1, "check_val_every_n_epoch": 1}
    result = vocal.tried(None, "demo", trainer=trainer, wandb={"name": "demo"})
    assert set(result) == {f"test/{name}" for name in ("mrr", "ndcg", "loss", "recall@1", "recall@5", "recall@10")}
    made = list((vocal.folder / "resources" / "demo" / "vocal" / "seed0").rglob("*.wav"))
    assert len(made) == 6 + 12 + 6 + 10


# -- evaluation -------------------------------------------------------------------------------------------------------


def rows_of(name, runs):
    """(system, metric) -> value and interval, as text."""
    with open(runs.path(name) / "evaluation.csv") as file:
        return {
            (row["dataset"], row["metric"]): [float(row[key]) for key in ("value", "low", "high")]
            for row in csv.DictReader(file)
        }


def test_baselines_in_one_table(vocal, capsys):
    vocal.run("table", command="evaluate")
    shown = capsys.readouterr().out
    table = rows_of("table", vocal)
    assert list(dict.fromkeys(system for system, _ in table)) == ["random", "2dft", "mn01_as"]
    assert table["random", "mrr"][0] == pytest.approx(np.mean(1 / np.arange(1, 7)))
    for name in ("random", "2dft", "mn01_as"):
        assert shown.count(f" {name} ") == 5
        for metric in ("mrr", "ndcg"):
            value, low, high = table[name, metric]
            assert 0 < low <= value <= high <= 1
    for name, system in (("random", "random"), ("2dft", "2dft"), ("encoder", "mn01_as")):
        vocal.run(f"only {name}", command="evaluate", baseline=name)
        expected = {key: value for key, value in table.items() if key[0] == system}
        assert rows_of(f"only_{name}", vocal) == expected


def test_sounds_that_cannot_be_used(vocal, dataset_path, caplog, capsys):
    """Unreadable, missing, silent, half an hour long: named, and the others are evaluated."""
    root = vocal.folder / "dev"
    shutil.copytree(Path(dataset_path) / "qvim-dev", root)
    items, queries = (sorted((root / part).rglob("*.wav")) for part in ("Items", "Queries"))
    items[0].write_bytes(b"RIFF")
    queries[-1].write_bytes(b"")
    queries[-2].unlink()
    soundfile.write(queries[-3], np.zeros(8000), 8000)
    long = np.tile(soundfile.read(queries[-4], dtype="float32")[0][:RATE], 1800)
    soundfile.write(queries[-4], long, RATE, subtype="PCM_U8")
    vocal.run("odd", command="evaluate", data={"test_root": str(root)})
    values = vocal.results("odd")
    assert {system for system, _ in values} == {"random", "2dft", "mn01_as"}
    assert all(math.isfinite(value) for value in values.values())
    assert f"1 of 10 imitations are not there (left out): {queries[-2].name}" in caplog.text
    assert f"{queries[-3]}: silent" in caplog.text
    shown = capsys.readouterr().out.replace("\n", "")
    for path in (items[0], queries[-1]):
        assert path.name in shown[shown.index("could not be read") :]


def test_listening_page(vocal, dataset_path):
    page = vocal.folder / "pages" / "here.html"
    vocal.run(command="evaluate", baseline="2dft", listen=str(page))
    text = page.read_text()
    heads = re.findall(r"<h2>(.*?) \((.*?)\): right sound at rank (\d+)</h2>", text)
    ranks = [int(rank) for *_, rank in heads]
    assert ranks == sorted(ranks, reverse=True)
    assert len(ranks) == 10
    assert np.mean(1 / np.array(ranks)) == pytest.approx(vocal.results()["2dft", "mrr"])
    retrieval = evaluation_pairs(dataset_path=dataset_path)
    known = {Path(query).name: Path(query).parent.name for query in retrieval.queries.names}
    assert {html.unescape(name): html.unescape(label) for name, label, _ in heads} == known
    sources = re.findall(r'<audio [^>]*src="(.*?)"', text)
    assert len(sources) == 10 * (1 + 1 + 5)
    for source in sources:
        assert (page.parent / urllib.parse.unquote(source)).is_file()
    vocal.run("again", command="evaluate", baseline="encoder", listen=str(vocal.folder / "folder"))
    assert "mn01_as" in (vocal.folder / "folder" / "listening.html").read_text()


@pytest.mark.data
def test_real_recordings(vocal, real_data, capsys):
    vocal.run("real", command="evaluate", data={"test_root": str(real_data / "vocal"), "duration": 3.0})
    shown, table = capsys.readouterr().out, rows_of("real", vocal)
    assert table["random", "mrr"][0] == pytest.approx(np.mean(1 / np.arange(1, 32)))
    for name in ("random", "2dft", "mn01_as"):
        for metric in ("mrr", "ndcg"):
            value, low, high = table[name, metric]
            assert 0 < low <= value <= high <= 1
            assert re.search(rf"{name}\W+{metric}\W+{value:.4f}\W+{low:.4f}.{high:.4f}", shown)
    assert table["2dft", "mrr"][0] > table["random", "mrr"][0]


def test_check_data(vocal, capsys):
    vocal.run(command="check_data")
    shown = capsys.readouterr().out
    assert "to train on: 12 pairs of 6 sounds and their imitations" in shown
    assert "to search: 6 sounds, 10 queries (10 with the right sound)" in shown


def test_2dft_of_a_recording_of_three_samples(vocal, dataset_path):
    root = vocal.folder / "dev"
    shutil.copytree(Path(dataset_path) / "qvim-dev", root)
    soundfile.write(min((root / "Queries").rglob("*.wav")), np.ones(3) / 2, 44100)
    vocal.run("odd", command="evaluate", baseline="2dft", data={"test_root": str(root)})
    assert 0 < vocal.results("odd")["2dft", "mrr"] < 1


# -- weights ----------------------------------------------------------------------------------------------------------


def test_weights_of_the_baseline(vocal, dataset_path):
    """A file with the names and shapes of the published one gives the metrics of its network."""
    front, dual = build_dual("mn10_as")
    set_named_weights(dual, 2)
    retrieval = evaluation_pairs(dataset_path=dataset_path, duration=SECONDS)
    features = calibrated(front, dual, retrieval)
    network = golden("tagging/manifests.json")["mn_w1.0_mlp_s2222"]
    shapes = {f"{side}_encoder.{name}": shape for side in ("imitation", "reference") for name, shape in network.items()}
    state = {name: tensor for name, tensor in dual.state_dict().items() if list(tensor.shape) == shapes.get(name, [1])}
    assert len(state) == len(shapes) + 1
    torch.save({"state_dict": state, "epoch": 14, "hyper_parameters": {"tau": 0.07}}, vocal.folder / "mn10.ckpt")
    data = {"dataset_path": dataset_path, "duration": SECONDS, "num_workers": 0}
    file = str(vocal.folder / "mn10.ckpt")
    vocal.tried("evaluate", baseline="encoder", pretrained_name=file, data=data, wandb={"name": "baseline"})
    with torch.no_grad():
        vectors = {side: dual(mel, side) for side, mel in features.items()}
    scores = vectors["imitation"] @ vectors["reference"].T
    assert scores.std() > 1e-3
    right = scores[torch.arange(10), torch.from_numpy(retrieval.targets)]
    ranks = 1 + (scores > right[:, None]).sum(1)
    assert vocal.results("baseline")["mn10_as", "mrr"] == pytest.approx(float((1 / ranks).mean()), abs=1e-6)


def test_a_run_is_evaluated_with_its_own_settings(vocal, dataset_path, mistake):
    options = {"projection": 8, "mn_mel": {"n_mels": 40}, "initial_tau": 0.1, "pooling": "attention"}
    vocal.run("trained", test_untrained=False, **options)
    file, data = vocal.weights_of("trained"), {"dataset_path": dataset_path, "num_workers": 0}
    assert vocal.checkpoint("trained", "best")["config"]["mel"]["n_mels"] == 40  # where it was set counts no more
    evaluation = {"command": "evaluate", "baseline": "encoder", "pretrained_name": file, "data": data}
    vocal.tried(**evaluation, wandb={"name": "same"})
    assert vocal.results("same") == vocal.results("trained")
    for name, changes in {"mel": {"mel": {"n_mels": 32}}, "section": {"mn_mel": {"n_mels": 32}}}.items():
        vocal.tried(**evaluation, wandb={"name": name}, **changes)
    assert vocal.results("mel") == vocal.results("section") != vocal.results("trained")
    vocal.config["pretrained_name"] = file
    assert mistake("evaluate", "arch=mn02_as") == f"{file} is for arch=mn01_as, but arch=mn02_as is asked for"


def test_a_checkpoint_needs_no_published_weights(vocal, monkeypatch, caplog):
    trained = vocal.run("trained", test_untrained=False)
    asked = []
    monkeypatch.setattr(ex_qvim, "provide_weights", asked.append)
    vocal.config["pretrained_name"] = "own"
    file = vocal.weights_of("trained")
    tested = vocal.run(command="evaluate", baseline="encoder", ckpt_path=file)
    assert asked == [None]
    assert tested == pytest.approx(trained, abs=1e-6)
    assert "random weights" not in caplog.text


def test_random_weights_are_named(caplog):
    config = {**config_of(), "arch": "beats", **FAMILIES["beats"]}
    ex_qvim.build({**config, "beats": {**config_of()["beats"], **FAMILIES["beats"]["beats"]}})
    assert "pretrained_name=own: beats has random weights" in caplog.messages


# -- search -----------------------------------------------------------------------------------------------------------


def test_encoders_of_sounds(vocal):
    config = ex_qvim.configured({**config_of(), **merged(config_of(), vocal.config), "device": "cpu"})
    torch.set_num_threads(2)  # a clip for each
    both = sound_search.encoders(config, ex_qvim.build)
    reference, imitation = both["reference"], both["imitation"]
    assert reference.identity == imitation.identity
    audio = np.random.default_rng(0).normal(0, 0.1, (3, round(SECONDS * RATE))).astype(np.float32)
    vectors = reference(audio)
    assert vectors.shape == (3, reference.dim) == (3, 96)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    for clip, vector in zip(audio, vectors):
        np.testing.assert_allclose(reference(clip[None])[0], vector, atol=1e-5)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
    with torch.no_grad():
        expected = reference.net(reference.mel(torch.from_numpy(audio)), "reference")
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.fixture
def kept(vocal, monkeypatch):
    """Weights that a run has kept; one encoder for sounds and queries, so that a sound is most like itself."""
    monkeypatch.setattr(configs, "PRETRAINED", str(vocal.folder / "resources" / "pretrained_models"))
    vocal.run("trained", save_as="mine", shared=True, projection=8, test_untrained=False)
    return str(vocal.folder / "resources" / "pretrained_models" / "mine.ckpt")


def test_search(vocal, kept, dataset_path, capsys, caplog, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    sounds = vocal.folder / "sounds"
    shutil.copytree(Path(dataset_path) / "qvim-dev" / "Items", sounds)
    (sounds / "broken.wav").write_bytes(b"RIFF")
    places = {"index": {"folder": str(vocal.folder / "index")}, "pretrained_name": kept}

    def indexed(**options):
        capsys.readouterr()
        vocal.tried("index", **merged(places, {"index": {"sounds": str(sounds), **options}}))
        return capsys.readouterr().out

    first = indexed()
    files = json.loads((vocal.folder / "index" / "index.json").read_text())["files"]
    windows = sum(file["windows"] for file in files)
    assert f"6 sounds, {windows} vectors (6 new, 0 kept, 1 skipped)" in first
    assert "broken.wav" in caplog.text
    assert f"6 sounds, {windows} vectors (0 new, 6 kept, 1 skipped)" in indexed()
    vectors = np.load(vocal.folder / "index" / "embeddings.npy")
    assert vectors.shape == (windows, 8)  # settings of the run, which are not named here

    known = sorted(sounds.rglob("*_*.wav"))[3]
    audio, rate = soundfile.read(known)
    stereo = np.repeat(np.stack([audio, audio], 1), 3, axis=0)
    soundfile.write(vocal.folder / "hum.flac", stereo, 3 * rate)
    out = vocal.folder / "found.json"
    for query in (known, vocal.folder / "hum.flac"):
        capsys.readouterr()
        vocal.tried("search", query=str(query), top=3, out=str(out), **places)
        found = json.loads(out.read_text())
        assert [hit["rank"] for hit in found["results"]] == [1, 2, 3]
        assert found["results"][0]["path"] == known.relative_to(sounds).as_posix()
        shown = capsys.readouterr().out
        assert all(hit["path"] in shown and f"{hit['score']:.3f}" in shown for hit in found["results"])
        if query == known:
            assert found["results"][0]["score"] == pytest.approx(1, abs=1e-5)


def test_an_index_of_another_checkpoint_is_refused(vocal, kept, dataset_path, mistake):
    vocal.config = {"device": "cpu", "index": {"folder": str(vocal.folder / "index")}}
    sounds = f"index.sounds={Path(dataset_path) / 'qvim-dev' / 'Items'}"
    assert vocal.command(f"pretrained_name={kept}", sounds, command=["index"]) == 0
    content = torch.load(kept, weights_only=True)
    content["retrieval"]["imitation_projection.2.bias"] += 0.1
    content["retrieval"]["reference_projection.2.bias"] += 0.1
    other, query = vocal.folder / "other.ckpt", next(Path(dataset_path).rglob("Queries/*/*.wav"))
    torch.save(content, other)
    line = mistake("search", f"pretrained_name={other}", f"query={query}")
    assert "search with the checkpoint of the index, or make the index again" in line
    assert "choose another folder, or index.overwrite=True" in mistake("index", f"pretrained_name={other}", sounds)
    assert vocal.command(f"pretrained_name={kept}", f"query={query}", command=["search"]) == 0


def test_short_sounds_are_indexed_and_submitted(vocal, kept):
    """What an evaluation takes: a tick of 0.05 s, and three samples."""
    rng = np.random.default_rng(0)
    for name, samples in (("Items/tick.wav", 800), ("Items/b.wav", 8000), ("Queries/q.wav", 3)):
        (vocal.folder / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(vocal.folder / "set" / name, rng.normal(0, 0.1, samples), RATE)
    places = {"pretrained_name": kept, "index": {"folder": str(vocal.folder / "index")}}
    vocal.tried("index", **merged(places, {"index": {"sounds": str(vocal.folder / "set")}}))
    files = json.loads((vocal.folder / "index" / "index.json").read_text())["files"]
    assert {file["path"]: file["seconds"] for file in files} == {
        "Items/tick.wav": 0.05, "Items/b.wav": 0.5, "Queries/q.wav": 0.0,
    }  # fmt: skip
    data = {"test_root": str(vocal.folder / "set"), "num_workers": 0}
    vocal.tried("submission", pretrained_name=kept, data=data, out=str(vocal.folder / "out"))
    scores = json.loads((vocal.folder / "out" / "similarities.json").read_text())
    vectors = np.load(vocal.folder / "index" / "embeddings.npy")
    of = {Path(file["path"]).name: vectors[number] for number, file in enumerate(files)}
    assert scores["q.wav"] == pytest.approx({name: of["q.wav"] @ of[name] for name in ("tick.wav", "b.wav")}, abs=1e-5)


def test_submission(vocal, kept, dataset_path, capsys):
    root, out = Path(dataset_path) / "qvim-dev", vocal.folder / "out"
    data = {"test_root": str(root), "num_workers": 0}
    vocal.tried("submission", pretrained_name=kept, data=data, out=str(out))
    assert f"10 queries x 6 items: {out}" in capsys.readouterr().out
    scores = json.loads((out / "similarities.json").read_text())
    assert {path.name for path in out.iterdir()} == {
        "similarities.json", "similarities.csv", "ranked.csv", "listening.html",
    }  # fmt: skip
    assert (out / "listening.html").read_text().count("<audio ") == 10 * 6
    vocal.tried("evaluate", baseline="encoder", pretrained_name=kept, data=data, wandb={"name": "same"})
    retrieval = evaluation_pairs(test_root=root)
    reciprocal = []
    for query, item in retrieval.truth.items():
        row = scores[Path(query).name]
        reciprocal.append(1 / (1 + sum(score > row[Path(item).name] for score in row.values())))
    assert np.mean(reciprocal) == pytest.approx(vocal.results("same")["mn01_as", "mrr"], abs=1e-6)


def test_commands_take_weights_by_their_name(vocal, kept):
    with pytest.raises(ValueError, match="ckpt_path is where a training or its test goes on, expected that file as"):
        vocal.tried("search", ckpt_path=kept, pretrained_name=None, query="hum.wav")


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("evaluate", ["baseline=mn"], "baseline is 'mn', expected one of random, 2dft, encoder"),
        ("evaluate", ["baseline=random", "listen=x"], "listen: there is nothing to hear of baseline=random"),
        ("evaluate", ["data.test_root={tmp}/none"], "no folder data.test_root = {tmp}/none"),
        ("evaluate", ["data.test_root={tmp}/set"], "data.test_root = {tmp}/set has no table of the right sounds"),
        ("evaluate", ["data.test_root={tmp}/csv"], "{tmp}/csv: 0 of 1 sounds are there, expected at least 1"),
        ("evaluate", ["data.dataset_path={tmp}/none", "data.download=False"], "{tmp}/none/qvim-dev"),
        ("evaluate", ["pretrained_name={tmp}/none.ckpt"], "{tmp}/none.ckpt: no such weights file"),
        ("evaluate", ["pretrained_name={tmp}/bad.ckpt"], "{tmp}/bad.ckpt is truncated or no weights file"),
        ("main", ["arch=mn11_as"], "unknown arch 'mn11_as', did you mean"),
        ("main", ["arch=beats"], "mel.fmax_aug_range: the front end of beats has no such option"),
        ("main", ["initial_tau=0"], "initial_tau is 0, expected the temperature of a softmax"),
        ("main", ["training.cached_batch=-1"], "cached_batch is -1, expected a number of clips, or 0"),
        ("main", ["training.batch=4"], "unknown config key 'training.batch', did you mean 'training.batch_size'?"),
        ("main", ["training.batch_size=0"], "training.batch_size is 0, expected at least 1 pair"),
        ("main", ["loss.label_smoothing=1.5"], "loss.label_smoothing is 1.5, expected a share of 1"),
        ("main", ["data.train_root={tmp}/set"], "{tmp}/set has 2 imitations and 0 pairs, expected at least 1 pair"),
        ("index", [], "index.sounds is not set, expected the folder of the sounds"),
        ("index", ["index.sounds={tmp}/empty"], "{tmp}/empty: 0 audio files in this folder, expected at least 1"),
        ("index", ["index.sounds={tmp}/bad"], "{tmp}/bad: 0 of 1 sound files can be indexed; first: {tmp}/bad/a.wav"),
        ("search", [], "query is not set, expected a recording"),
        ("search", ["query={tmp}/silent.wav", "index.folder={tmp}/empty"], "{tmp}/empty: no index of sounds here"),
        ("serve", ["serve.port=abc"], "serve.port is 'abc', expected a whole number"),
        ("serve", ["serve.top=2.5"], "serve.top is 2.5, expected a whole number"),
        ("submission", [], "data.test_root is not set, expected the evaluation set with Items and Queries"),
        ("submission", ["data.test_root={tmp}/empty"], "{tmp}/empty/Items: no such folder"),
        ("submission", ["data.test_root={tmp}/set"], "{tmp}/set/Queries/y/q.wav: called like {tmp}/set/Queries/x"),
    ],
)  # fmt: skip
def test_one_line_says_what_is_wrong(vocal, mistake, bad_input, command, words, message):
    words = [word.format(tmp=bad_input) for word in words]
    assert message.format(tmp=bad_input) in mistake(command, *words)
    assert not list(vocal.outputs.rglob("*"))


@pytest.fixture
def bad_input(vocal):
    """Folder of sounds, tables and weights, most of which cannot be used."""
    folder, tone = vocal.folder / "input", np.sin(np.arange(8000) / 9)
    for name in ("set/Items/a.wav", "set/Queries/x/q.wav", "set/Queries/y/q.wav"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, tone, RATE)
    soundfile.write(folder / "silent.wav", np.zeros(8000), RATE)
    for name in ("empty", "bad", "csv"):
        (folder / name).mkdir()
    (folder / "bad" / "a.wav").write_bytes(b"RIFF")
    (folder / "bad.ckpt").write_bytes(b"PK")
    (folder / "csv" / "DEV Dataset.csv").write_text("x\nLabel,Class,Items,Query 1,Query 2,Query 3\na,A,a.wav,q.wav,,\n")
    vocal.config |= {"index": {"folder": str(folder / "index")}, "device": "cpu"}
    return folder


def test_queries_that_cannot_be_used(vocal, mistake, bad_input):
    assert vocal.command(f"index.sounds={bad_input / 'set' / 'Items'}", command=["index"]) == 0
    for words, message in (
        (["query={tmp}/none.wav"], "{tmp}/none.wav: no such audio file"),
        (["query={tmp}/bad/a.wav"], "{tmp}/bad/a.wav: not readable as audio"),
        (["query={tmp}/silent.wav"], "{tmp}/silent.wav: silent (peak 0.0e+00), expected a sound"),
        (["query={tmp}/set/Items/a.wav", "top=0"], "top is 0, expected at least 1"),
        (["query={tmp}/set/Items/a.wav", "top=1.5"], "top is 1.5, expected a whole number"),
        (["query={tmp}/set/Items/a.wav", "top=ten"], "top is 'ten', expected a whole number"),
    ):
        line = mistake("search", *(word.format(tmp=bad_input) for word in words))
        assert line.startswith(message.format(tmp=bad_input))


def test_a_query_of_half_an_hour(vocal, bad_input, caplog):
    assert vocal.command(f"index.sounds={bad_input / 'set' / 'Items'}", command=["index"]) == 0
    query = bad_input / "long.wav"
    soundfile.write(query, np.tile(np.sin(np.arange(8000) / 9), 1800), 8000, subtype="PCM_U8")
    assert vocal.command(f"query={query}", command=["search"]) == 0
    assert f"{query}: longer than 1 s, only the first 1 s are compared" in caplog.messages
