"""Measures of synthetic against original audio: published values, closed forms, properties, tables."""

import csv
import itertools
import json
import math

import numpy as np
import pytest

from helpers.audio_distances import (
    Gaussian,
    cosine_distance,
    dtw_cost,
    dtw_in_time,
    dtw_of_windows,
    frechet_distance,
    kl_divergence,
    published_dtw,
    same_classes,
    scaled,
    windowed_correlation,
)
from helpers.audio_quality import Comparison, Pair, compare, pair_up
from helpers.audio_quality_report import overview, summaries, write_comparison
from tests.reference import golden


def rng(seed=0):
    return np.random.default_rng(seed)


# -- published measures -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def published():
    stored = golden("lbar/audio_quality.npz")
    return {name: stored[name] for name in stored.files}


def test_measures_as_published(published):
    original, generated = scaled(published["original"].T), scaled(published["generated"].T)
    assert published_dtw(original, generated) == pytest.approx(published["dtw"], abs=1e-6)
    assert windowed_correlation(original, generated) == pytest.approx(published["wcc"], abs=1e-6)
    assert published_dtw(original, generated[:41]) == published["dtw_equal_length"] == 0
    assert windowed_correlation(original, original) == pytest.approx(published["wcc_identical"], abs=1e-12)
    np.testing.assert_allclose(dtw_of_windows(original, generated), published["dtw_distance_per_window"], rtol=1e-6)


def test_roles_may_be_swapped(published):
    original, generated = published["original"].T, published["generated"].T
    assert published_dtw(generated, original) == published_dtw(original, generated)
    assert windowed_correlation(generated, original) == windowed_correlation(original, generated)


def test_warping_along_time_as_stored(published):
    short, long = published["original"].T, published["generated"].T
    windows = [long[start : start + len(short)] for start in range(7)]
    distances = np.linalg.norm(short[None, :, None] - np.stack(windows)[:, None], axis=-1)
    np.testing.assert_allclose(dtw_cost(distances), published["dtw_distance_per_window_along_time"], rtol=1e-6)


# -- warping ----------------------------------------------------------------------------------------------------------
def all_paths(n, m):
    """Every path of steps (1, 0), (0, 1), (1, 1) through an n x m table."""
    if (n, m) == (1, 1):
        return [[(0, 0)]]
    before = [(n - i, m - j) for i, j in ((1, 0), (0, 1), (1, 1)) if n > i and m > j]
    return [[*path, (n - 1, m - 1)] for size in before for path in all_paths(*size)]


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 4), (4, 1), (3, 3), (4, 3), (3, 5)])
@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_warping_against_all_paths(n, m, weight):
    distances = rng(n * m).random((2, n, m))

    def cost(table, path):
        total = weight * table[path[0]]
        for (i, j), here in itertools.pairwise(path):
            total += table[here] * (weight if (i + 1, j + 1) == here else 1)
        return total

    expected = [min(cost(table, path) for path in all_paths(n, m)) for table in distances]
    np.testing.assert_allclose(dtw_cost(distances, weight), expected)


def test_distance_in_time_forgives_other_speed_but_no_other_sound():
    mel = rng(1).random((20, 8))
    assert dtw_in_time(mel, mel) == 0
    assert dtw_in_time(mel, np.repeat(mel, 3, axis=0)) == 0
    assert dtw_in_time(mel, mel + 0.25) <= 0.25
    still = np.ones((5, 8))
    assert dtw_in_time(still, np.full((9, 8), 0.75)) == pytest.approx(0.25)  # whatever the lengths
    assert dtw_in_time(mel, rng(2).random((20, 8))) > 0.2


def test_scaling():
    np.testing.assert_array_equal(scaled([[-36.0, -18.0], [0.0, -9.0]]), [[0, 0.5], [1, 0.75]])
    np.testing.assert_array_equal(scaled([[-36.0, -36.0]]), [[0, 0]])


def test_correlation_of_opposites_and_of_silence():
    mel = rng(3).random((10, 4))
    assert windowed_correlation(mel, 1 - mel) == pytest.approx(2)
    assert windowed_correlation(mel, 3 * mel + 1) == pytest.approx(0)
    assert math.isnan(windowed_correlation(mel, np.zeros((12, 4))))


# -- sets -------------------------------------------------------------------------------------------------------------
def with_moments(number, mean, deviations, seed=0):
    """Embeddings whose mean and (diagonal) covariance are exactly these."""
    draws = rng(seed).normal(size=(number, len(mean)))
    draws -= draws.mean(0)
    covariance = draws.T @ draws / (number - 1)
    return draws @ np.linalg.inv(np.linalg.cholesky(covariance)).T * deviations + mean


def distance(first, second):
    return frechet_distance(Gaussian.of(first), Gaussian.of(second))


def test_frechet_distance_of_axis_aligned_gaussians():
    first = with_moments(50, [1.0, -2.0, 0.0], [1.0, 2.0, 3.0])
    second = with_moments(80, [0.0, 0.0, 0.0], [2.0, 0.5, 3.0], seed=1)
    # Covariances that commute: |m1 - m2|^2 + sum (s1 - s2)^2.
    assert distance(first, second) == pytest.approx((1 + 4) + (1 + 2.25 + 0), rel=1e-12)


def test_frechet_distance_in_one_dimension():
    first, second = rng(1).normal(2, 3, (30, 1)), rng(2).normal(-1, 0.5, (20, 1))
    expected = (first.mean() - second.mean()) ** 2 + (first.std(ddof=1) - second.std(ddof=1)) ** 2
    assert distance(first, second) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_with_a_matrix_root():
    import scipy.linalg

    first, second = rng(1).normal(size=(60, 8)) @ rng(2).normal(size=(8, 8)), rng(3).normal(size=(50, 8)) + 0.5
    c1, c2 = np.cov(first.T), np.cov(second.T)
    root = scipy.linalg.sqrtm(c1 @ c2).real
    gap = first.mean(0) - second.mean(0)
    expected = gap @ gap + np.trace(c1 + c2 - 2 * root)
    assert distance(first, second) == pytest.approx(expected, rel=1e-9)
    stored = Gaussian.with_covariance(first.mean(0), c1), Gaussian.with_covariance(second.mean(0), c2)
    assert frechet_distance(*stored) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("number", [2, 3, 40, 600])
def test_frechet_distance_with_few_clips(number):
    first, second = rng(4).normal(size=(number, 512)).astype(np.float32), rng(5).normal(size=(7, 512)) + 0.1
    assert distance(first, first) == pytest.approx(0, abs=1e-9)
    assert distance(first, second) == pytest.approx(distance(second, first), rel=1e-9)
    # A shift moves the mean alone, a scale c leaves (1 - c)^2 of the variance.
    assert distance(first, first + 0.5) == pytest.approx(512 * 0.25, rel=1e-6)
    spread = np.var(first, axis=0, ddof=1, dtype=np.float64).sum()
    centred = first - first.mean(0, dtype=np.float64)
    assert distance(centred, 3 * centred) == pytest.approx(4 * spread, rel=1e-9)
    turn = np.linalg.qr(rng(6).normal(size=(512, 512)))[0]
    assert distance(first @ turn, second @ turn) == pytest.approx(distance(first, second), rel=1e-9)


def test_frechet_distance_between_subspaces_without_overlap():
    first, second = np.zeros((4, 6)), np.zeros((4, 6))
    first[:, :3], second[:, 3:] = rng(1).normal(size=(4, 3)), rng(2).normal(size=(4, 3))
    first, second = first - first.mean(0), second - second.mean(0)
    assert distance(first, second) == pytest.approx(((first**2).sum() + (second**2).sum()) / 3)


@pytest.mark.parametrize("embeddings", [np.zeros((1, 4)), np.zeros(4), np.full((3, 4), np.nan)])
def test_sets_are_checked(embeddings):
    with pytest.raises(ValueError, match=r"expected finite numbers of two clips or more"):
        Gaussian.of(embeddings)


# -- taggers ----------------------------------------------------------------------------------------------------------
def test_divergences():
    p, q = np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([[0.25, 0.75], [0.9, 0.1]])
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    np.testing.assert_allclose(kl_divergence(p, q, multi_label=False), [expected, 0], atol=1e-12)
    # Two independent classes: the sum of both divergences, which are equal here.
    np.testing.assert_allclose(kl_divergence(p, q), [2 * expected, 0], atol=1e-12)
    assert np.isfinite(kl_divergence([[1.0, 0.0]], [[0.0, 1.0]])).all()
    draws = rng(1).random((2, 200, 5))
    assert (kl_divergence(*draws) > 0).all()


def test_classes_and_cosines():
    p, q = np.array([[0.1, 0.8, 0.3], [0.9, 0.2, 0.1]]), np.array([[0.5, 0.6, 0.0], [0.1, 0.7, 0.6]])
    np.testing.assert_array_equal(same_classes(p, q), [1, 0])
    np.testing.assert_array_equal(same_classes(p, q, 2), [1, 0])
    np.testing.assert_array_equal(same_classes(p, q, 3), [1, 1])
    np.testing.assert_allclose(cosine_distance([[1, 0], [1, 1], [0, 0]], [[0, 2], [3, 3], [1, 0]]), [1, 0, np.nan])


# -- comparison -------------------------------------------------------------------------------------------------------
FEATURES = {f"o{k}": rng(k).random((8, 6)) for k in range(6)}
FEATURES |= {f"s{k}.{c}": rng(k).random((8 + c, 6)) ** c for k in range(6) for c in (1, 2)}
PAIRS = pair_up(
    [f"clip {k}" for k in range(6)], [f"o{k}" for k in range(6)], [{2: f"s{k}.2", 1: f"s{k}.1"} for k in range(6)]
)


def features(path):
    if path not in FEATURES:
        raise ValueError(f"{path}: not readable as audio")
    return FEATURES[path]


def analyse(files):
    embeddings = np.array([np.full(6, np.nan) if f == "o1" else FEATURES[f].mean(0) for f in files])
    return embeddings, 1 / (1 + np.exp(-embeddings))


def test_pairs():
    assert PAIRS[:2] == [Pair("clip 0", 1, "o0", "s0.1"), Pair("clip 0", 2, "o0", "s0.2")]
    assert pair_up(["a", "b"], [None, "o"], [{1: "x"}, {}]) == []


def test_comparison_of_log_mels():
    found = compare(PAIRS, features, encode=lambda mel: mel.mean(0))
    assert found.pairs == PAIRS
    assert list(found.values) == ["dtw", "wcc", "model", "dtw_time"]
    for number, pair in enumerate(PAIRS):
        original, synthetic = scaled(FEATURES[pair.original]), scaled(FEATURES[pair.synthetic])
        assert found.values["dtw"][number] == published_dtw(original, synthetic)
        assert found.values["dtw_time"][number] == dtw_in_time(original, synthetic)
        expected = cosine_distance(original.mean(0), synthetic.mean(0))
        assert found.values["model"][number] == expected
    assert (found.frechet, found.chance, found.floor) == ({}, {}, None)


def test_jobs_go_through_a_pool():
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        pooled = compare(PAIRS, features, measures=("wcc",), apply=pool.map)
    np.testing.assert_array_equal(pooled.values["wcc"], compare(PAIRS, features).values["wcc"])


def test_comparison_with_a_tagger():
    pairs = [pair for pair in PAIRS if pair.clip != "clip 1"]
    found = compare(pairs, analyse=analyse)
    embeddings, probabilities = analyse([pair.original for pair in pairs])
    others, tags = analyse([pair.synthetic for pair in pairs])
    np.testing.assert_allclose(found.values["embedding"], cosine_distance(embeddings, others))
    np.testing.assert_allclose(found.values["kl"], kl_divergence(probabilities, tags))
    assert found.frechet[0] == pytest.approx(distance(embeddings[::2], others))  # every original counts once
    assert found.frechet[2] == pytest.approx(distance(embeddings[::2], others[1::2]))
    assert found.floor == pytest.approx(distance(embeddings[::2][::2], embeddings[::2][1::2]))
    moved = np.roll(probabilities, -2, axis=0)  # the next clip of the same caption column
    assert found.chance["kl"] == pytest.approx(kl_divergence(moved, tags).mean())
    without = compare(pairs, analyse=lambda files: (analyse(files)[0], None))
    assert list(without.values) == ["embedding"]


def test_unreadable_files_are_named_and_left_out():
    pairs = [*PAIRS, Pair("clip 6", 1, "o6", "s0.1"), Pair("clip 0", 3, "o0", "s0.3")]
    found = compare(pairs, features, analyse=analyse, measures=("wcc",))
    assert found.skipped == {
        "o6": "o6: not readable as audio", "s0.3": "s0.3: not readable as audio", "o1": "no finite embedding",
    }  # fmt: skip
    assert found.pairs == [pair for pair in PAIRS if pair.original != "o1"]
    assert {len(values) for values in found.values.values()} == {10}
    with pytest.raises(ValueError, match=r"none of 1 pairs can be compared: o6: not readable"):
        compare(pairs[-2:-1], features)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PAIRS, features, None, None, True, ("dtw", "emd")), r"compare.measures has 'emd', expected some of dtw, wcc"),
        (([], features), r"0 pairs"),
        ((PAIRS,), r"no measure of log-mels and no tagger"),
    ],
)
def test_bad_requests(arguments, message):
    with pytest.raises(ValueError, match=message):
        compare(*arguments)


# -- tables -----------------------------------------------------------------------------------------------------------
def test_statistics():
    pairs = [Pair(str(k), 1 + k % 2, f"o{k}", f"s{k}") for k in range(5)]
    values = np.array([1.0, np.nan, 2.0, 5.0, 6.0])
    rows = summaries(Comparison(pairs, {"wcc": values}, {"wcc": 9.0}, {0: 2.5, 2: 1.5}, 0.25))
    by_name = {(row.group, row.measure): row for row in rows}
    first = by_name["caption 1", "wcc"]
    assert (first.n, first.missing, first.mean, first.median, first.min, first.max) == (3, 0, 3, 2, 1, 6)
    assert first.std == pytest.approx(math.sqrt(7))
    assert (by_name["caption 2", "wcc"].n, by_name["caption 2", "wcc"].missing) == (1, 1)
    assert by_name["all captions", "wcc"].mean == 3.5
    assert [(row.group, row.n, row.mean) for row in rows if row.measure == "frechet"] == [
        ("caption 2", 2, 1.5), ("all captions", 5, 2.5), ("halves of the originals", 2, 0.25),
    ]  # fmt: skip
    assert by_name["another original", "wcc"].mean == 9


def test_files(tmp_path):
    pairs = [*PAIRS, Pair("größer", 1, "o9", "s0.1")]
    found = compare(pairs, features, encode=lambda mel: mel.mean(0), analyse=analyse)
    found.values["wcc"][0] = np.nan
    paths = write_comparison(found, tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(path.name for path in paths.values())
    with open(paths["clips"], encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    assert rows[0]["wcc"] == ""
    assert float(rows[3]["kl"]) == found.values["kl"][3]
    with open(paths["csv"], newline="") as file:
        table = {(row["group"], row["measure"]): row for row in csv.DictReader(file)}
    assert float(table["all captions", "frechet"]["mean"]) == found.frechet[0]
    assert table["caption 1", "wcc"]["missing"] == "1"
    stored = json.loads(paths["json"].read_text(encoding="utf-8"))
    assert stored["pairs"] == 10
    assert stored["skipped"] == found.skipped
    text = paths["md"].read_text(encoding="utf-8")
    assert "| measure | caption 1 | caption 2 | all captions | another original | halves of the originals |" in text
    assert "- o9: o9: not readable as audio" in text
    assert f"| {found.values['dtw'].mean():.4f} | – | – | 0.5020 |" in text
    for name in ("measures", "frechet"):
        assert paths[name].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert overview(found) in text


def test_files_without_a_tagger(tmp_path):
    paths = write_comparison(compare(PAIRS[:1], features, measures=("wcc",)), tmp_path, "one")
    assert "frechet" not in paths
    assert paths["csv"].read_text().splitlines()[1].startswith("caption 1,wcc,1,0,")
