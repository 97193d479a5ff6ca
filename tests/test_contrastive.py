"""Contrastive loss, batches of several processes and large batches in pieces, all against one plain batch."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from helpers.contrastive import Contrastive, gather_with_gradient, global_loss, info_nce, name_ids
from models.retrieval import DualEncoder
from models.tagging import Tagger
from tests.reference import golden

TAUS = (0.07, -0.07, 0.2, 1.0)


@pytest.fixture(scope="module")
def pairs():
    published = golden("qvim/qvim.npz")
    return [torch.from_numpy(published[f"loss.{side}"]) for side in ("imitation", "reference")]


def same(names):
    names = torch.as_tensor(names)
    return names[:, None] == names


# -- the loss


@pytest.mark.parametrize("tau", TAUS)
def test_loss_as_published(pairs, tau):
    published = golden("qvim/qvim.npz")
    assert float(info_nce(*pairs, tau)) == pytest.approx(float(published[f"loss.unique.tau{tau}"]), abs=1e-5)
    positives = same(published["loss.duplicate_groups"])
    loss = info_nce(*pairs, torch.tensor([tau]), positives)
    assert float(loss) == pytest.approx(float(published[f"loss.duplicates.tau{tau}"]), abs=1e-5)
    names = [f"{group}.wav" for group in published["loss.duplicate_groups"]]
    ids = name_ids(names), name_ids(range(8))
    assert float(Contrastive()(*pairs, tau, *ids)) == pytest.approx(float(loss), abs=1e-6)


@pytest.mark.parametrize(("tau", "key"), [(0.07, "loss"), (0.2, "loss_tau0.2")])
def test_predecessor_leaves_equal_labels_out(pairs, tau, key):
    published = golden("qvim/qvim.npz")
    labels = published["ntxent.labels"]
    expected = pytest.approx(float(published[f"ntxent.{key}"]), abs=1e-5)
    assert float(info_nce(*pairs, tau, ignored=same(labels))) == expected
    masked = Contrastive(mask_same_reference=True)(*pairs, tau, name_ids(range(8)), torch.from_numpy(labels))
    assert float(masked) == expected


@pytest.mark.parametrize("tau", [0.07, 0.2])
@pytest.mark.parametrize("distance", ["dot_product", "cosine_similarity"])
@pytest.mark.parametrize("kind", ["unique", "duplicates", "all_same"])
def test_captions_and_clips_as_published(kind, distance, tau):
    published = golden("qvim/captions.npz")
    audio, text = (torch.from_numpy(published[f"loss.{side}"]) for side in ("audio", "text"))
    if distance == "cosine_similarity":
        audio = functional.normalize(2 * audio)
    clips = {"unique": np.arange(10), "duplicates": published["loss.duplicate_fid"], "all_same": np.zeros(10)}[kind]
    loss = 2 * info_nce(text, audio, tau, ignored=same(clips), symmetric=True)  # a sum of both directions there
    assert float(loss) == pytest.approx(float(published[f"loss.{kind}.{distance}.T{tau}"]), abs=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_smoothing_is_that_of_cross_entropy(pairs, smoothing):
    scores = pairs[0] @ pairs[1].T / 0.2
    ways = [functional.cross_entropy(table, torch.arange(8), label_smoothing=smoothing) for table in (scores, scores.T)]
    assert float(info_nce(*pairs, 0.2, label_smoothing=smoothing)) == pytest.approx(float(ways[0]), abs=1e-6)
    both = info_nce(*pairs, 0.2, symmetric=True, label_smoothing=smoothing)
    assert float(both) == pytest.approx(float(sum(ways) / 2), abs=1e-6)
    assert abs(ways[0] - ways[1]) > 1e-3  # else this test shows little


def by_hand(queries, items, tau, positives, ignored, beta, smoothing):
    """One query and one item after the other, in float64."""
    scores = (queries.double() @ items.double().T / tau).numpy()
    losses = []
    for i, j in zip(*np.nonzero(positives)):
        kept = [k for k in range(len(scores)) if positives[i, k] or not ignored[i, k]]
        negatives = [k for k in kept if not positives[i, k]]
        weights = np.exp(beta * scores[i, negatives])
        weights = dict(zip(negatives, weights / weights.mean())) if negatives else {}
        total = sum(weights.get(k, 1.0) * np.exp(scores[i, k]) for k in kept)
        log_p = {k: np.log(weights.get(k, 1.0) * np.exp(scores[i, k]) / total) for k in kept}
        losses.append(-(1 - smoothing) * log_p[j] - smoothing * np.mean(list(log_p.values())))
    return np.mean(losses)


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0])
def test_all_options_by_hand(pairs, beta):
    positives = same([0, 1, 2, 1, 4, 5, 6, 7]).numpy()
    ignored = same([0, 1, 2, 3, 0, 0, 6, 7]).numpy()
    for smoothing in (0.0, 0.2):
        loss = info_nce(
            *pairs, 0.2, torch.from_numpy(positives), torch.from_numpy(ignored),
            hard_negatives=beta, label_smoothing=smoothing,
        )  # fmt: skip
        assert float(loss) == pytest.approx(by_hand(*pairs, 0.2, positives, ignored, beta, smoothing), abs=1e-5)


def test_hard_negatives_without_negatives(pairs):
    everything = torch.ones(8, 8, dtype=torch.bool)
    queries = pairs[0].clone().requires_grad_()
    loss = info_nce(queries, pairs[1], 0.2, ignored=everything, hard_negatives=1.0, label_smoothing=0.1)
    loss.backward()
    assert float(loss.detach()) == 0
    assert float(queries.grad.abs().max()) < 1e-6


def test_loss_is_computed_in_float32(pairs):
    expected = float(info_nce(*pairs))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(info_nce(*pairs)) == expected
    assert info_nce(pairs[0].bfloat16(), pairs[1].bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: info_nce(x, x[:3]), r"queries \[4, 2\] and items \[3, 2\]"),
        (lambda x: info_nce(x, x, positives=torch.eye(4)), r"positives is torch.float32 \[4, 4\]"),
        (lambda x: info_nce(x, x, ignored=same([0, 1])), r"ignored is torch.bool \[2, 2\]"),
        (lambda x: Contrastive(hard_negatives=-1), "loss.hard_negatives is -1"),
        (lambda x: Contrastive(label_smoothing=1), "loss.label_smoothing is 1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.randn(4, 2))


def test_numbers_of_names():
    ids = name_ids(["a.wav", "b.wav", "a.wav"])
    assert ids[0] == ids[2] != ids[1]
    assert ids[:1].tolist() == name_ids(["a.wav"]).tolist()


# -- large batches in pieces


class Toy(Tagger):
    """Two layers on 6 bands; draws from both generators where ``random``."""

    def __init__(self, random=False, norm=nn.LayerNorm):
        super().__init__()
        self.n_classes, self.embed_dim, self.random = 2, 5, random
        self.first, self.norm, self.second = nn.Linear(6, 7), norm(7), nn.Linear(7, 5)
        self.classifier = nn.Linear(5, 2)
        self.hidden = []  # weak references to an activation of every call

    def tag(self, mel, rng=None):
        x = self.first(mel.flatten(1))
        if self.random:
            noise = np.ones(x.shape) if rng is None else rng.uniform(0.5, 1.5, x.shape)
            x = functional.dropout(x * torch.from_numpy(noise).float(), 0.3, self.training)
        x = torch.tanh(self.norm(x))
        self.hidden.append(weakref.ref(x))
        embedding = self.second(x)
        return self.classifier(embedding), embedding


def make_dual(seed=0, **options):
    torch.manual_seed(seed)
    norm = options.pop("norm", nn.LayerNorm)
    toy = Toy(options.pop("random", False), norm)
    dual = DualEncoder(toy, **{"tau_trainable": True, "initial_tau": 0.3, **options})
    with torch.no_grad():
        for parameter in dual.reference_encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return dual


def clips(rows=10):
    draw = torch.Generator().manual_seed(3)
    return [torch.randn(rows, 1, 2, 3, generator=draw) for _ in range(2)]


def gradients(dual, embed):
    """Loss and gradients of a batch whose sides are embedded by ``embed(x, side, seed)``."""
    dual.zero_grad()
    torch.manual_seed(11)
    imitations, references = clips()
    pair = [
        embed(x, side, np.random.SeedSequence([5, number]))
        for number, (x, side) in enumerate(((imitations, "imitation"), (references, "reference")))
    ]
    loss = info_nce(*pair, dual.tau, positives=same([0, 1, 2, 3, 4, 5, 6, 7, 0, 1]))
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in dual.named_parameters() if p.requires_grad}


def assert_equal_gradients(actual, expected, tolerance=1e-5):
    assert actual[0] == pytest.approx(expected[0], abs=tolerance)
    assert actual[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert float(gradient.abs().max()) > 1e-4, name  # else there is nothing to compare
        torch.testing.assert_close(actual[1][name], gradient, rtol=0, atol=tolerance)


@pytest.mark.parametrize("size", [1, 3, 10, 64])
@pytest.mark.parametrize("shared", [False, True])
def test_pieces_have_the_gradient_of_the_batch(size, shared):
    dual = make_dual(seed=1, shared=shared, projection=4)
    whole = gradients(dual, dual)
    assert_equal_gradients(gradients(dual, lambda x, side, seed: dual.in_pieces(x, side, size, seed)), whole)


def test_draws_are_replayed():
    dual = make_dual(random=True)

    def kept(x, side, seed):
        pieces = x.tensor_split(3)  # of four, three and three clips
        return torch.cat([dual(piece, side, own) for piece, own in zip(pieces, seed.spawn(len(pieces)))])

    whole = gradients(dual, kept)
    assert_equal_gradients(gradients(dual, lambda *clip: dual.in_pieces(*clip[:2], 4, clip[2])), whole, 1e-6)
    other = gradients(dual, lambda x, side, seed: dual.in_pieces(x, side, 5, seed))
    assert abs(other[0] - whole[0]) > 1e-3  # other pieces have other draws


def test_running_statistics_count_once():
    kept, pieced = (make_dual(norm=nn.BatchNorm1d) for _ in range(2))
    gradients(kept, lambda x, side, seed: torch.cat([kept(piece, side) for piece in x.split(5)]))
    gradients(pieced, lambda x, side, seed: pieced.in_pieces(x, side, 5, seed))
    for (name, buffer), expected in zip(pieced.named_buffers(), kept.buffers()):
        torch.testing.assert_close(buffer, expected, msg=name)
    assert int(pieced.imitation_encoder.norm.num_batches_tracked) == 2


def test_one_piece_is_held_at_a_time(monkeypatch):
    dual, held = make_dual(), []
    tag = Toy.tag

    def counted(self, mel, rng=None):
        held.append(sum(ref() is not None for encoder in dual.encoders for ref in encoder.hidden))
        return tag(self, mel, rng)

    monkeypatch.setattr(Toy, "tag", counted)
    gc.disable()
    try:
        gradients(dual, lambda x, side, seed: dual.in_pieces(x, side, 2, seed))
    finally:
        gc.enable()
    assert len(held) == 20  # five pieces of two sides, forward and again backward
    assert max(held) <= 1


# -- several processes


class PairLoss(nn.Module):
    """What DistributedDataParallel wraps: encoders and the loss of the batches of all processes."""

    def __init__(self, pieces):
        super().__init__()
        self.dual, self.pieces = make_dual(), pieces
        self.objective = Contrastive(symmetric=True, hard_negatives=0.5)

    def forward(self, imitations, references, names):
        seed, sides = np.random.SeedSequence(0), ("imitation", "reference")
        pairs = [
            self.dual.in_pieces(x, side, self.pieces, seed) if self.pieces else self.dual(x, side)
            for x, side in zip((imitations, references), sides)
        ]
        return global_loss(self.objective, *pairs, self.dual.tau, names, [f"{name}_reference" for name in names])


ROWS = 7
PARTS = (slice(0, 4), slice(4, 7))  # of the two processes
NAMES = ["a", "b", "c", "d", "b", "e", "f"]  # one positive pair is spread over both


def batch_of(part):
    imitations, references = clips(ROWS)
    return imitations[part], references[part], NAMES[part]


def stepped(net, batch):
    """Loss and gradients of the second of two equal steps."""
    for _ in range(2):
        net.zero_grad()
        loss = net(*batch)
        loss.backward()
    net = getattr(net, "module", net)  # without DistributedDataParallel
    return float(loss.detach()), {name: p.grad for name, p in net.named_parameters() if p.requires_grad}


def work(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    results = {}
    for pieces in (0, 2):
        net = nn.parallel.DistributedDataParallel(PairLoss(pieces))
        results[pieces] = stepped(net, batch_of(PARTS[rank]))
    results["integers"] = gather_with_gradient(torch.arange(rank + 1))
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_are_one(tmp_path):
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    expected = stepped(PairLoss(0), batch_of(slice(None)))
    alone = stepped(PairLoss(0), batch_of(PARTS[0]))
    assert abs(alone[0] - expected[0]) > 1e-2  # the clips of the other process matter
    for rank in range(2):
        results = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for pieces in (0, 2):
            assert_equal_gradients(results[pieces], expected)
        assert results["integers"].tolist() == [0, 0, 1]


def test_one_process_gathers_nothing():
    x = torch.randn(3, 2)
    assert gather_with_gradient(x) is x


def test_accumulation_is_no_larger_batch():
    net = PairLoss(0)
    whole = stepped(net, batch_of(slice(None)))[0]
    parts = [stepped(net, batch_of(part))[0] for part in PARTS]
    assert all(part < whole for part in parts)  # fewer negatives
