"""Every published validation and test value against stored results, and what happens where data are missing."""

import json
import logging
import pickle
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
import torch

from helpers import evaluators
from helpers.collectors import ClipLosses, ClipScores, FrameScores, Reference
from helpers.evaluators import EvaluatorSet, Setting, SumOf, validation_evaluators
from helpers.metrics import PSDS1, PSDS2, EventF1, MeanLoss, Psds, SegmentAuc, WeakF1, roc_area
from helpers.scores import events_of_table
from tests.reference import golden

TIMESTAMPS = np.arange(157) * 0.064
SOURCES = {"maestro": 0, "real": 1, "synth": 2, "weak": 3}
TEST_SOURCES = {"devtest": 5, "maestro": 0, "real": 1}
FOLDERS = {"synth": "synth_val", "real": "external", "weak": "weak", "maestro": "maestro_train"}
TEST_FOLDERS = {"devtest": "devtest", "maestro": "maestro_dev", "real": "external"}
ONE = ("student",)


@pytest.fixture(scope="module")
def facts():
    return golden("sed/evaluation.json")


@pytest.fixture(scope="module")
def arrays():
    return {name: array for name, array in golden("sed/evaluation_scores.npz").items()}


@pytest.fixture(scope="module")
def tables(facts):
    return {name: pandas.DataFrame(t["rows"], columns=t["columns"]) for name, t in facts["tables"].items()}


@pytest.fixture(scope="module")
def setting(facts):
    return Setting(facts["labels"], TIMESTAMPS, facts["labels"][:10], facts["maestro_eval_classes"],
                   facts["median_window"])  # fmt: skip


def seconds(table):
    return {name.removesuffix(".wav"): duration for name, duration in table.itertuples(index=False)}


def strong_labels(table, clips, labels):
    """[clips, classes, frames] as encoded in training; a later row replaces an earlier one."""
    strong = np.zeros((len(clips), len(labels), 156), dtype=np.float32)
    for row in table.dropna(subset="onset").itertuples():
        first = int(np.clip(row.onset * 16000 / 1024, 0, 156))
        last = int(np.ceil(np.clip(row.offset * 16000 / 1024, 0, 156)))
        confidence = getattr(row, "confidence", 1.0)
        strong[clips.index(row.filename.removesuffix(".wav")), labels.index(row.event_label), first:last] = confidence
    return strong


def batches(facts, arrays, tables, folders, sources, role, size=6):
    """Batches over all sets, clips of different sets side by side."""
    of_set = {"synth_val": "synth_val_tsv", "external": "external_strong_val_tsv", "devtest": "test_tsv",
              "maestro_train": "real_maestro_train_tsv", "maestro_dev": "real_maestro_val_tsv"}  # fmt: skip
    labels, parts = facts["labels"], []
    for name, folder in folders.items():
        clips = facts[f"clips.{folder}"]
        strong = arrays[f"{folder}.{role}"]
        weak = arrays.get(f"{folder}.{role}_clip", strong.max(-1))
        if name == "weak":
            present = [[label in facts["weak_labels"][clip] for label in labels] for clip in clips]
            true = np.repeat(np.array(present, dtype=np.float32)[..., None], 156, axis=-1)
        else:
            true = strong_labels(tables[of_set[folder]], clips, labels)
        names = [f"{folder}/{clip}.wav" for clip in clips]
        parts.append((strong, weak, true, true.max(-1), [sources[name]] * len(clips), names))
    columns = [np.concatenate(column) if column[0] is not None else column for column in zip(*parts)]
    order = np.random.default_rng(0).permutation(len(columns[0]))
    for rows in np.array_split(order, len(order) // size):
        strong, weak, true, true_weak, source = (torch.from_numpy(column[rows]) for column in columns[:5])
        batch = {"strong": true, "weak": true_weak, "source": source, "filename": columns[5][rows].tolist()}
        yield strong, weak, batch


def validation(tables, facts, setting, **options):
    labels = facts["labels"]
    truths = {
        "synth": events_of_table(tables["synth_val_tsv"], labels),
        "real": events_of_table(tables["external_strong_val_tsv"], labels),
        "maestro": events_of_table(tables["real_maestro_train_tsv"], facts["maestro_eval_classes"], above=0.5),
    }
    durations = {"synth": seconds(tables["synth_val_dur"]), "real": seconds(tables["external_strong_dur"])}
    return validation_evaluators(truths, durations, SOURCES, setting, **options)


def test_set(tables, facts, setting):
    truths = {
        "devtest": events_of_table(tables["test_tsv"]),
        "maestro": events_of_table(tables["real_maestro_val_tsv"], facts["maestro_eval_classes"], above=0.5),
    }
    durations = {"devtest": seconds(tables["test_dur"]), "maestro": seconds(tables["real_maestro_val_dur"])}
    return evaluators.test_evaluators(truths, durations, TEST_SOURCES, setting)


test_set.__test__ = False


@pytest.fixture(scope="module")
def validated(facts, arrays, tables, setting):
    made = validation(tables, facts, setting, maestro_as_published=True)
    for role in setting.roles:
        for batch in batches(facts, arrays, tables, FOLDERS, SOURCES, role):
            made.update(role, *batch)
    return made


@pytest.fixture(scope="module")
def tested(facts, arrays, tables, setting):
    made = test_set(tables, facts, setting)
    for role in setting.roles:
        for batch in batches(facts, arrays, tables, TEST_FOLDERS, TEST_SOURCES, role):
            made.update(role, *batch)
    return made


def expected_values(stored, clips):
    """Stored values; a list has one per set, and the published mean weights sets by their clips."""
    values = {}
    for name, found in stored.items():
        weights = clips if len(found) > 1 else None
        values[name] = np.average(found, weights=weights)
    return values


def test_validation_values_golden(validated, facts):
    clips = [len(facts["clips.synth_val"]), len(facts["clips.maestro_train"])]
    expected = expected_values(facts["validation"], clips)
    found = dict(validated.publish("val"))
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name
        assert isinstance(found[name], float)


def test_test_values_golden(tested, facts):
    clips = [len(facts[f"clips.{name}"]) for name in ("external", "devtest", "maestro_dev")]
    expected = expected_values(facts["test"], clips)
    del expected["test/tot_energy_kWh"]  # measured elsewhere
    found = dict(tested.publish("test"))
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name


def test_per_class_psds_golden(tested, facts):
    found = tested.per_class()["student/psds1_sed_scores_eval"]
    assert found == pytest.approx(facts["functions"]["psds1_median_single_class"], abs=1e-6)


@pytest.mark.parametrize("kind", ["raw", "median"])
def test_functions_golden(facts, arrays, tables, kind):
    windows = facts["median_window"] if kind == "median" else None
    labels, stored = facts["labels"], facts["functions"]
    scores = FrameScores(labels, TIMESTAMPS, windows)
    scores.update(arrays["devtest.student"], None, {"filename": [f"{clip}.wav" for clip in facts["clips.devtest"]]})
    reference = Reference(events_of_table(tables["test_tsv"]), seconds(tables["test_dur"]), labels[:10])
    for name, criteria in (("psds1", PSDS1), ("psds2", PSDS2)):
        metric = Psds(scores, reference, name, criteria)
        assert dict(metric.compute())[name] == pytest.approx(stored[f"{name}_{kind}"], abs=1e-6)
    segments = FrameScores(labels, TIMESTAMPS, windows)
    names = [f"{clip}.wav" for clip in facts["clips.maestro_dev"]]
    segments.update(arrays["maestro_dev.student"], None, {"filename": names})
    events = events_of_table(tables["real_maestro_val_tsv"], above=0.5)
    reference = Reference(events, seconds(tables["real_maestro_val_dur"]), facts["maestro_eval_classes"])
    found = dict(SegmentAuc(segments, reference, per_file=True).compute())
    assert found["segment_mpauc"] == pytest.approx(stored[f"mpauc_{kind}"], abs=1e-6)
    assert found["segment_mauc"] == pytest.approx(stored[f"mauc_{kind}"], abs=1e-6)
    assert found["segment_f1_macro_thresopt"] == pytest.approx(stored[f"best_f1_{kind}"], abs=1e-6)


def test_psd_roc_has_the_area_of_the_score(tested):
    curves = tested.curves()
    assert {"student/psds1_sed_scores_eval", "teacher/psds2_psds_eval"} <= set(curves)
    curve = curves["student/psds1_sed_scores_eval"]
    inside = curve.efpr <= curve.max_efpr
    widths = np.diff(np.append(curve.efpr[inside], curve.max_efpr))
    assert (widths * curve.etpr[inside]).sum() / curve.max_efpr == pytest.approx(curve.value)
    assert set(curve.classes) == set(tested["student"][5].evaluators[1].reference.labels)


def test_maestro_validation_takes_real_lengths(facts, arrays, tables, setting, validated):
    made = validation(tables, facts, setting)
    for batch in batches(facts, arrays, tables, FOLDERS, SOURCES, "student"):
        made.update("student", *batch)
    found, published = dict(made.publish("val")), dict(validated.publish("val"))
    changed = {name for name in found if abs(found[name] - published[name]) > 1e-12}
    maestro = {f"val/student/segment_{name}" for name in ("f1_macro_thresopt", "mauc", "mpauc")}
    assert changed == maestro | {"val/obj_metric"}
    match = made["student"][0].evaluators[1].reference.match(facts["clips.maestro_train"])
    assert set(match.durations.values()) == {10.0}


def test_processes_together_see_what_one_sees(facts, arrays, tables, setting, validated):
    parts = [validation(tables, facts, setting, maestro_as_published=True) for _ in range(2)]
    for role in setting.roles:
        for i, batch in enumerate(batches(facts, arrays, tables, FOLDERS, SOURCES, role)):
            parts[i % 2].update(role, *batch)
            if i < 2:  # the sampler pads: clips of the beginning come again elsewhere
                parts[1 - i].update(role, *batch)
    states = pickle.loads(pickle.dumps([part.state() for part in parts]))
    whole = validation(tables, facts, setting, maestro_as_published=True)
    whole.merge(states)
    assert dict(whole.publish("val")) == pytest.approx(dict(validated.publish("val")), abs=1e-12)
    parts[0].merge([states[1]])
    assert dict(parts[0].publish("val")) == pytest.approx(dict(validated.publish("val")), abs=1e-12)


def test_nothing_seen_gives_no_values(facts, tables, setting):
    for made in (validation(tables, facts, setting), test_set(tables, facts, setting)):
        assert list(made.publish("x")) == []
        assert (made.per_class(), made.curves()) == ({}, {})
        made.merge([made.state()])
        assert list(made.publish("x")) == []


def test_reset_forgets(facts, arrays, tables, setting):
    made = validation(tables, facts, setting)
    for batch in batches(facts, arrays, tables, FOLDERS, SOURCES, "student"):
        made.update("student", *batch)
    assert dict(made.publish("val"))
    made.reset()
    assert list(made.publish("val")) == []


def test_a_few_clips_are_evaluated_as_far_as_they_go(facts, arrays, tables, setting):
    made = validation(tables, facts, setting)
    batch = next(batches(facts, arrays, tables, {"synth": "synth_val"}, SOURCES, "student", size=2))
    made.update("student", *batch)
    found = dict(made.publish("val"))
    assert {"val/student/psds1", "val/student/loss_strong", "val/obj_metric"} <= set(found)
    assert found["val/obj_metric"] == found["val/student/psds1"]
    assert not any("real" in name or "teacher" in name or "segment" in name for name in found)


def made_up(labels=("a", "b"), clips=4, seed=0):
    """Scores that follow the events with noise, and the events: class a in every clip, b in the first."""
    rng = np.random.default_rng(seed)
    events = {f"x{i}": [(2.0, 4.0, "a")] + [(6.0, 7.0, "b")] * (i == 0) for i in range(clips)}
    scores = rng.random((clips, len(labels), 100)) * 0.6
    scores[:, 0, 20:40] += 0.4
    scores[0, 1, 60:70] += 0.4
    collected = FrameScores(labels, np.arange(101) * 0.1, [5] * len(labels))
    collected.update(scores, None, {"filename": [f"d/x{i}.wav" for i in range(clips)]})
    return collected, events, {clip: 10.0 for clip in events}


def test_a_class_without_events_is_missing_and_named_once(caplog):
    collected, events, durations = made_up(("a", "b", "c"))
    reference = Reference(events, durations, ("a", "b", "c"), name="made up")
    metrics = Psds(collected, reference, "p"), EventF1(collected, reference, "f"), SegmentAuc(collected, reference)
    with caplog.at_level(logging.WARNING):
        for metric in metrics:
            assert np.isfinite([value for _, value in metric.compute()]).all()
            for classes in metric.per_class().values():
                assert list(classes) == ["a", "b", "c"]
                assert np.isnan(list(classes.values())).tolist() == [False, False, True]
        collected.add(["x0"], np.array(collected.rows["x0"]))  # something new: all is computed again
        assert all(dict(metric.compute()) for metric in metrics)
    assert [record.getMessage() for record in caplog.records] == [
        "made up: no true event of c in the 4 evaluated clips, left out of the means"
    ]


def test_roc_area_by_hand_and_in_any_order():
    fpr, tpr = np.array([0.0, 0.0, 0.2, 0.2, 0.6, 1.0]), np.array([0.0, 0.5, 0.5, 0.7, 0.9, 1.0])
    whole = 0.2 * 0.5 + 0.4 * 0.8 + 0.4 * 0.95
    part = 0.2 * 0.5 + 0.2 * (0.7 + 0.8) / 2
    rng = np.random.default_rng(0)
    for _ in range(10):
        order = rng.permutation(len(fpr))
        assert roc_area(tpr[order], fpr[order]) == pytest.approx(whole)
        assert roc_area(tpr[order], fpr[order], 0.4) == pytest.approx(part / 0.4)
        assert roc_area(tpr[order], fpr[order], 0.2) == pytest.approx(0.5)


def test_segment_auc_is_the_chance_of_the_right_order():
    collected, events, durations = made_up()
    metric = SegmentAuc(collected, Reference(events, durations, ("a", "b")))
    for c, label in enumerate(("a", "b")):
        # frames of 0.1 s: the largest of ten is the score of a segment
        segments = collected.table().scores[..., c].reshape(4, 10, 10).max(-1)
        true = np.zeros((4, 10), dtype=bool)
        for i in range(4):
            for onset, offset, name in events[f"x{i}"]:
                true[i, int(onset) : int(offset)] |= name == label
        above = segments[true][:, None] - segments[~true]
        assert metric.per_class()["segment_mauc"][label] == pytest.approx(np.mean((above > 0) + 0.5 * (above == 0)))


def test_missing_classes_do_not_change_the_others():
    collected, events, durations = made_up(("a", "b", "c"))
    with_c = dict(Psds(collected, Reference(events, durations, ("a", "b", "c")), "p", PSDS2).compute())
    without = dict(Psds(collected, Reference(events, durations, ("a", "b")), "p", PSDS2).compute())
    assert with_c == without


def test_no_true_event_at_all_gives_no_values():
    collected, _, durations = made_up()
    for events in ({}, {"x0": []}, {"other": [(0.0, 1.0, "a")]}):
        for free in ("drop", "listed", "all"):
            reference = Reference(events, {**durations, "other": 10.0}, ("a", "b"), free)
            for metric in (Psds(collected, reference, "p"), EventF1(collected, reference, "f"),
                           SegmentAuc(collected, reference)):  # fmt: skip
                assert (list(metric.compute()), metric.per_class()) == ([], {})


def test_which_clips_without_events_count():
    events = {"x0": [(0.0, 1.0, "a")], "x1": [], "y": [(0.0, 1.0, "a")]}
    clips = ["x0", "x1", "x2"]
    durations = dict.fromkeys(["x0", "x1", "x2", "y"], 10.0)
    counted = {
        free: Reference(events, durations, ("a",), free).match(clips).clips for free in ("drop", "listed", "all")
    }
    assert counted == {"drop": ["x0"], "listed": ["x0", "x1"], "all": ["x0", "x1", "x2"]}


def test_events_behind_the_end_of_a_clip_do_not_count_as_true():
    collected, events, durations = made_up()
    events["x0"] = [*events["x0"][:1], (11.0, 12.0, "b")]
    for metric in (SegmentAuc(collected, Reference(events, durations, ("a", "b"))),):
        assert all(np.isfinite(value) for _, value in metric.compute())
        assert np.isnan(metric.per_class()["segment_mauc"]["b"])


def test_a_class_that_never_ends_has_no_roc():
    collected, events, durations = made_up()
    for clip in events:
        events[clip] = [*events[clip][1:], (0.0, 10.0, "a")]
    metric = SegmentAuc(collected, Reference(events, durations, ("a", "b")))
    values = dict(metric.compute())
    assert values["segment_mauc"] == metric.per_class()["segment_mauc"]["b"]
    assert np.isnan(metric.per_class()["segment_mauc"]["a"])


def test_operating_points_of_a_class_that_is_never_detected():
    collected, events, durations = made_up()
    for clip, (scores,) in list(collected.rows.items()):
        scores[:, 1] *= 0.4
        collected.add([clip], scores[None])
    for criteria in (PSDS1, PSDS2):
        metric = Psds(collected, Reference(events, durations, ("a", "b")), "p", criteria, [0.5, 0.7])
        # mean minus standard deviation of (x, 0) is x / 2 - x / 2
        assert dict(metric.compute())["p"] == pytest.approx(0.0, abs=1e-12)
        assert metric.per_class()["p"]["b"] == 0.0 < metric.per_class()["p"]["a"]
    silent = Psds(collected, Reference(events, durations, ("a", "b")), "p", {**PSDS2, "alpha_st": 0.0}, [0.99])
    assert dict(silent.compute()) == {"p": 0.0}


def test_a_detection_that_is_neither_hit_nor_miss():
    # within the event, so no false alarm, but too short to find it
    scores = np.zeros((1, 1, 100))
    scores[0, 0, 30:40] = 0.9
    collected = FrameScores(["a"], np.arange(101) * 0.1)
    collected.update(scores, None, {"filename": ["x.wav"]})
    reference = Reference({"x": [(1.0, 9.0, "a")]}, {"x": 10.0}, ["a"])
    assert dict(Psds(collected, reference, "p", operating_points=[0.5]).compute()) == {"p": 0.0}
    assert dict(EventF1(collected, reference, "f", "intersection").compute()) == {"f": 0.0}


def test_connected_events_are_one_event():
    collected, events, durations = made_up()
    split = {clip: [(2.0, 3.0, "a"), (2.5, 4.0, "a"), *found[1:]] for clip, found in events.items()}
    for make in (
        lambda reference: Psds(collected, reference, "p"),
        lambda reference: EventF1(collected, reference, "p"),
    ):
        found = [dict(make(Reference(e, durations, ("a", "b"))).compute()) for e in (events, split)]
        assert found[0] == found[1]


def test_broken_scores_are_named_and_count_as_silence(caplog):
    scores = np.full((2, 1, 10), 0.7)
    scores[1, 0, 3] = np.nan
    collected = FrameScores(["a"], np.arange(11.0))
    with caplog.at_level(logging.WARNING):
        collected.update(scores, None, {"filename": ["a.wav", "b.wav"]})
    assert "1 clips have scores that are no numbers, first 'b'" in caplog.text
    assert collected.table().scores[1, 3, 0] == 0.0
    reference = Reference({"b": [(0.0, 3.0, "a")]}, {"b": 10.0}, ["a"])
    assert dict(Psds(collected, reference, "p").compute())


def test_event_f1_by_hand():
    scores = np.zeros((1, 2, 100))
    scores[0, 0, 21:39] = 0.9  # 2.1 s to 3.9 s: within both collars of the event from 2 s to 4 s
    scores[0, 0, 60:70] = 0.9  # a false alarm
    scores[0, 1, 60:63] = 0.9  # 0.3 s of an event of 1 s: neither half of it nor its end
    collected = FrameScores(["a", "b"], np.arange(101) * 0.1)
    collected.update(torch.from_numpy(scores).bfloat16(), None, {"filename": ["x.wav"]})
    reference = Reference({"x": [(2.0, 4.0, "a"), (6.0, 7.0, "b")]}, {"x": 10.0}, ["a", "b"])
    for criterion in ("collar", "intersection"):
        metric = EventF1(collected, reference, "f", criterion)
        assert dict(metric.compute())["f"] == pytest.approx((2 / 3 + 0) / 2)
        assert metric.per_class()["f"] == pytest.approx({"a": 2 / 3, "b": 0.0})
        found = EventF1(collected, reference, "f", criterion, skip_missed=True)
        assert dict(found.compute())["f"] == pytest.approx(2 / 3)
    assert dict(EventF1(collected, reference, "f", threshold=0.95, skip_missed=True).compute()) == {"f": 0.0}


def test_weak_f1_is_that_of_torchmetrics():
    from torchmetrics.classification import MultilabelF1Score

    rng = np.random.default_rng(0)
    predicted, true = rng.random((30, 6), dtype=np.float32), rng.random((30, 6)) > 0.6
    predicted[:, 4:], true[:, 5] = 0.1, False  # class 4 is never found, class 5 is nowhere at all
    expected = MultilabelF1Score(6, average="macro")(torch.from_numpy(predicted), torch.from_numpy(true).long())
    collected = ClipScores()
    collected.update(None, predicted, {"weak": true.astype(np.float32), "filename": [str(i) for i in range(30)]})
    metric = WeakF1(collected, list("abcdef"), "f")
    assert dict(metric.compute())["f"] == pytest.approx(float(expected), abs=1e-6)
    assert metric.per_class()["f"]["e"] == 0.0
    assert np.isnan(metric.per_class()["f"]["f"])


def test_loss_is_that_of_torch_and_low_is_good():
    rng = torch.Generator().manual_seed(0)
    predicted, true = torch.rand(5, 3, 7, generator=rng), torch.rand(5, 3, 7, generator=rng)
    predicted[0, 0, :2], true[0, 0, :2] = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0])
    collected = ClipLosses("strong")
    for i in (0, 2, 4, 4):  # the last batch twice
        part = {"strong": true[i : i + 2], "filename": [f"{j}" for j in range(i, min(i + 2, 5))]}
        collected.update(predicted[i : i + 2], None, part)
    metric = MeanLoss(collected, "loss")
    expected = torch.nn.functional.binary_cross_entropy(predicted, true)
    assert dict(metric.compute())["loss"] == pytest.approx(float(expected), rel=1e-6)
    assert not metric.higher_is_better
    assert all(better.higher_is_better for better in (Psds, EventF1, SegmentAuc, WeakF1, SumOf("s", ())))


def test_sums_need_their_parts():
    assert dict(SumOf("s", ("a", "b")).compute({"a": 1.0, "b": 2.0})) == {"s": 3.0}
    assert dict(SumOf("s", ("a", "b")).compute({"a": 1.0})) == {}
    assert dict(SumOf("s", ("a", "b"), partial=True).compute({"a": 1.0})) == {"s": 1.0}
    assert dict(SumOf("s", ("a", "b"), partial=True).compute({})) == {}


def test_a_clip_of_another_source_is_passed_over():
    metric = SimpleNamespace(collector=ClipLosses("weak"))
    made = EvaluatorSet({"student": {3: [metric]}})
    batch = {
        "source": np.array([3, 4]),
        "filename": ["a", "b"],
        "weak": np.zeros((2, 1)),
        "strong": np.zeros((2, 1, 5)),
    }
    made.update("student", np.zeros((2, 1, 5)), np.zeros((2, 1)), batch)
    assert list(metric.collector.rows) == ["a"]


def test_thresholds_are_part_of_the_names(facts, tables, setting):
    made = validation(tables, facts, Setting(**{**vars(setting), "thresholds": (0.3, 0.55), "roles": ONE}))
    names = {e.name for sources in made.roles.values() for evaluators in sources.values() for e in evaluators}
    assert {"collar_f1_macro_thres03", "intersection_f1_macro_thres055_real", "weak_f1_macro_thres055"} <= names


def test_a_clip_without_a_duration_is_named(facts, tables, setting):
    durations = seconds(tables["test_dur"])
    del durations["dev_07"]
    truths = {"devtest": events_of_table(tables["test_tsv"])}
    with pytest.raises(ValueError, match="durations of 'devtest' lack 1 clips of its ground truth, first 'dev_07'"):
        evaluators.test_evaluators(truths, {"devtest": durations}, {"devtest": 5}, setting)


@pytest.mark.data
def test_real_system_outputs(real_data):
    folder = real_data / "scores" / "dcase2023_task4a_baseline2_run1"
    expected = json.loads((folder / "expected.json").read_text())
    frames = {path.stem: pandas.read_csv(path, sep="\t") for path in sorted((folder / "scores").glob("*.tsv"))}
    first = next(iter(frames.values()))
    labels = list(first.columns[2:])
    collected = FrameScores(labels, [*first["onset"], first["offset"].iloc[-1]])
    scores = np.stack([frame[labels].to_numpy().T for frame in frames.values()])
    collected.update(scores, None, {"filename": [f"{clip}.wav" for clip in frames]})
    durations = seconds(pandas.read_csv(folder / "audio_durations.tsv", sep="\t"))
    events = events_of_table(pandas.read_csv(folder / "ground_truth.tsv", sep="\t"))
    reference = Reference(events, durations, labels)
    for number, criteria in ((1, PSDS1), (2, PSDS2)):
        metric = Psds(collected, reference, "psds", criteria)
        assert dict(metric.compute())["psds"] == pytest.approx(expected[f"PSDS{number}_dcase23"], abs=1e-6)
        per_class = expected[f"PSDS{number}_dcase23_per_class_before_alpha"]
        assert metric.per_class()["psds"] == pytest.approx(per_class, abs=1e-6)
    for criterion, stored in (("collar", "collar_F1_at_0.5"), ("segment", "segment_1s_F1_at_0.5")):
        metric = EventF1(collected, reference, "f1", criterion)
        assert dict(metric.compute())["f1"] == pytest.approx(expected[stored]["macro_average"], abs=1e-6)
        assert all(metric.per_class()["f1"][label] == pytest.approx(expected[stored][label]) for label in labels)
    segments = SegmentAuc(collected, reference).per_class()
    # The stored partial areas are below 1 even where, as the F1 tells, all positives lie above all negatives: they come
    # from a sort that shuffles ties.
    perfect = [label for label in labels if segments["segment_f1_macro_thresopt"][label] == 1.0]
    assert perfect == ["Alarm_bell_ringing", "Cat", "Electric_shaver_toothbrush"]
    assert all(segments["segment_mpauc"][label] == pytest.approx(1.0) for label in perfect)
