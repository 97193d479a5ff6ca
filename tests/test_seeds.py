"""Seed studies: statistics, tables, results that are kept, and studies that are killed or shared."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from helpers.locks import holding
from helpers.seeds import SeedStudy, console_table, seed_study, spread, t_test, write_seeds

ROOT = Path(__file__).parents[1]
CONFIG = {"arch": "cnn14", "optimizer": {"lr": 0.1}, "trainer": {"max_epochs": 3, "devices": 1}, "seed": 0}

# Text-to-audio mAP@10 of the published seed experiment: ten runs per seed by which synthetic clips were drawn.
PUBLISHED = {
    42: [0.138875, 0.138083, 0.136441, 0.133754, 0.132457, 0.130587, 0.124643, 0.124154, 0.123951, 0.123525],
    88: [0.144619, 0.135387, 0.134662, 0.134175, 0.131227, 0.131185, 0.129309, 0.125115, 0.125071, 0.124762],
}


def train(seed):
    return {"test/mAP@10": 0.1 + seed / 100, "test/R@1": 1 / (1 + seed)}


def never(seed):
    raise AssertionError(f"seed {seed} was repeated")


def test_published_seed_experiment():
    means = {42: 0.130647, 88: 0.1315512}
    deviations = {42: 0.006175795315404956, 88: 0.006117549705560226}
    for seed, values in PUBLISHED.items():
        found = spread(values)
        assert found.mean == pytest.approx(means[seed], abs=1e-12)
        assert found.deviation == pytest.approx(deviations[seed], abs=1e-12)
    t, p = t_test(PUBLISHED[42], PUBLISHED[88])
    assert t == pytest.approx(-0.32893081068913727, abs=1e-9)
    assert p == pytest.approx(0.7460041833049564, abs=1e-9)


def test_confidence_interval_by_hand():
    found = spread([1.0, 2.0, 3.0])
    assert (found.mean, found.deviation) == (2.0, 1.0)
    assert found.interval == pytest.approx(4.302652729911275 / math.sqrt(3))  # t of two degrees of freedom
    single = spread([0.5])
    assert single.mean == 0.5
    assert math.isnan(single.deviation)
    assert math.isnan(single.interval)


def test_confidence_interval_covers_the_mean():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(400):
        found = spread(rng.normal(3.0, 0.5, size=5))
        inside += abs(found.mean - 3.0) <= found.interval
    assert 0.92 < inside / 400 < 0.98


def test_study_trains_every_seed_once(tmp_path):
    asked = []
    study = seed_study(lambda seed: asked.append(seed) or train(seed), [3, 0, 7], tmp_path, CONFIG)
    assert asked == [3, 0, 7]
    assert study.results == {seed: train(seed) for seed in (3, 0, 7)}
    again = seed_study(never, [3, 0, 7], tmp_path, {**CONFIG, "seed": 5, "trainer": {"max_epochs": 3, "devices": 2}})
    assert again == study
    more = seed_study(train, [3, 0, 7, 1], tmp_path, CONFIG)
    assert list(more.results) == [3, 0, 7, 1]
    assert not any((tmp_path / ".running").iterdir())


def test_tables_and_figure(tmp_path):
    study = seed_study(train, [0, 1, 2], tmp_path / "ö und mehr", CONFIG)
    folder = tmp_path / "ö und mehr"
    rows = list(csv.DictReader((folder / "seeds.csv").open()))
    assert [row["metric"] for row in rows] == ["test/mAP@10", "test/R@1"]
    assert [float(rows[0][f"seed {seed}"]) for seed in (0, 1, 2)] == pytest.approx([0.1, 0.11, 0.12])
    assert float(rows[0]["mean"]) == pytest.approx(0.11)
    assert float(rows[0]["deviation"]) == pytest.approx(0.01)
    assert float(rows[0]["interval"]) == pytest.approx(0.01 * 4.302652729911275 / math.sqrt(3))
    text = (folder / "seeds.md").read_text()
    assert "| test/mAP@10 | 0.1000 | 0.1100 | 0.1200 | 0.1100 | 0.0100 | 0.0248 |" in text
    assert (folder / "seeds.png").read_bytes()[:4] == b"\x89PNG"
    cells = [list(column.cells) for column in console_table(study).columns]
    assert cells[0] == ["test/mAP@10", "test/R@1"]
    assert cells[1][0] == "0.1100 ± 0.0100"
    assert cells[2][0] == "0.0852 to 0.1348"
    assert (cells[3][0], cells[4][0]) == ("0.1000", "0.1200")


def test_one_seed_has_no_deviation(tmp_path):
    seed_study(train, [4], tmp_path)
    (row, _) = csv.DictReader((tmp_path / "seeds.csv").open())
    assert (row["mean"], row["deviation"], row["interval"]) == ("0.14", "", "")


def test_chosen_metrics(tmp_path):
    study = seed_study(train, [0, 1], tmp_path, metrics=["test/R@1"])
    assert study.metrics == ["test/R@1"]
    assert study.values("test/R@1") == [1.0, 0.5]
    with pytest.raises(ValueError, match=r"seed 0 has no metric 'test/R@3', expected one of test/mAP@10, test/R@1"):
        seed_study(never, [0, 1], tmp_path, metrics=["test/R@3"])


def test_metrics_that_all_seeds_have(tmp_path):
    study = SeedStudy({0: {"a": 1.0, "b": 2.0}, 1: {"b": 4.0, "c": 1.0}})
    assert study.metrics == ["b"]
    write_seeds(study, tmp_path)
    assert "| b | 2.0000 | 4.0000 | 3.0000 | 1.4142 |" in (tmp_path / "seeds.md").read_text()


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([], r"seeds is \[\], expected a list of whole numbers"),
        (5, "seeds is 5, expected a list of whole numbers"),
        ([1, 2, 1], "seeds: 1 stands 2 times, expected every seed once"),
        ([1, -2], "seeds: -2 is no seed, expected whole numbers from 0 on"),
        ([1.5], r"seeds: 1\.5 is no seed"),
        ([True], "seeds: True is no seed"),
    ],
)
def test_wrong_seeds(tmp_path, seeds, message):
    with pytest.raises(ValueError, match=message):
        seed_study(never, seeds, tmp_path)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({}, "seed 1: the result is {}, expected values by metric"),
        (0.5, r"seed 1: the result is 0\.5"),
        ({"test/mAP": "high"}, "seed 1: test/mAP is 'high', expected a number"),
    ],
)
def test_wrong_results(tmp_path, result, message):
    with pytest.raises(ValueError, match=message):
        seed_study(lambda seed: result, [1], tmp_path)
    assert not list(tmp_path.glob("*.json"))


def test_stored_results_of_another_study_are_refused(tmp_path):
    seed_study(train, [0], tmp_path, CONFIG)
    for key, changed in (
        ("optimizer.lr was 0.1 and is 0.2", {"optimizer": {"lr": 0.2}}),
        ("trainer.max_epochs was 3 and is 9", {"trainer": {"max_epochs": 9, "devices": 1}}),
    ):
        with pytest.raises(ValueError, match=rf"seed_0\.json is of another config: {key}; take another name"):
            seed_study(never, [0], tmp_path, {**CONFIG, **changed})
    for text in ("{", "[]", '{"results": 3, "config": {}}', '{"results": {"a": "x"}, "config": {}}', '{"results": {}}'):
        (tmp_path / "seed_0.json").write_text(text)
        with pytest.raises(ValueError, match=r"seed_0\.json is no result of a seed, expected .* remove it") as caught:
            seed_study(never, [0], tmp_path, CONFIG)
        assert "\n" not in str(caught.value)


def test_what_a_seed_raises_ends_the_study_and_keeps_the_rest(tmp_path):
    def fails(seed):
        if seed == 2:
            raise MemoryError("no memory")
        return train(seed)

    with pytest.raises(MemoryError):
        seed_study(fails, [1, 2, 3], tmp_path)
    assert [path.name for path in tmp_path.glob("*.json")] == ["seed_1.json"]
    asked = []
    seed_study(lambda seed: asked.append(seed) or train(seed), [1, 2, 3], tmp_path)
    assert asked == [2, 3]


SCRIPT = """
import os, sys, time
from pathlib import Path
from helpers.seeds import seed_study

folder, mode = Path(sys.argv[1]), sys.argv[2]

def train(seed):
    with open(folder / "begun", "a") as file:
        file.write(f"{os.getpid()} {seed}\\n")
    if mode == "stuck" and seed == 2:
        time.sleep(600)
    while mode == "both" and len({line.split()[0] for line in (folder / "begun").read_text().splitlines()}) < 2:
        time.sleep(0.01)
    return {"test/mAP@10": 0.1 + seed / 100, "test/R@1": 1 / (1 + seed)}

seed_study(train, [0, 1, 2, 3], folder / "study", {"arch": "cnn14"})
"""


def start(folder, mode):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), mode], cwd=ROOT)


def begun_in(folder):
    file = folder / "begun"
    return [line.split() for line in file.read_text().splitlines()] if file.is_file() else []


def test_killed_study_goes_on(tmp_path):
    process = start(tmp_path, "stuck")
    end = time.monotonic() + 240
    while len(begun_in(tmp_path)) < 3:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    asked = []
    study = seed_study(
        lambda seed: asked.append(seed) or train(seed), [0, 1, 2, 3], tmp_path / "study", {"arch": "cnn14"}
    )
    assert asked == [2, 3]
    assert study.results == {seed: train(seed) for seed in range(4)}


def test_processes_share_the_seeds(tmp_path):
    processes = [start(tmp_path, "both") for _ in range(2)]
    assert [process.wait(timeout=240) for process in processes] == [0, 0]
    assert sorted(seed for _, seed in begun_in(tmp_path)) == ["0", "1", "2", "3"]
    assert {pid for pid, _ in begun_in(tmp_path)} == {str(process.pid) for process in processes}
    assert seed_study(never, [0, 1, 2, 3], tmp_path / "study", {"arch": "cnn14"}).results.keys() == {0, 1, 2, 3}


def test_seed_of_another_process_is_left_to_it(tmp_path):
    code = """if True:
        import sys, time
        from helpers.locks import holding
        with holding(sys.argv[1]):
            print(1, flush=True)
            time.sleep(600)"""
    command = [sys.executable, "-c", code, str(tmp_path / ".running" / "seed_1")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"1\n"
    study = seed_study(train, [0, 1], tmp_path)
    assert list(study.results) == [0]
    process.kill()
    process.communicate()
    assert list(seed_study(train, [0, 1], tmp_path).results) == [0, 1]
    with holding(tmp_path / ".running" / "seed_1") as ours:
        assert ours


def test_results_are_stored_with_their_config(tmp_path):
    seed_study(train, [1], tmp_path, CONFIG)
    stored = json.loads((tmp_path / "seed_1.json").read_text())
    assert stored["seed"] == 1
    assert stored["results"] == train(1)
    assert stored["config"] == CONFIG
    assert stored["seconds"] >= 0
