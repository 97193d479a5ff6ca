"""Choice of box parameters: published choices, exhaustive search through sed_scores_eval, folds that do not leak."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from helpers.boxes import Parameters, detect, segment_boxes
from helpers.candidates import Truth
from helpers.collectors import FrameScores, Reference
from helpers.fast_metrics import class_psds, psds
from helpers.metrics import COLLAR, PSDS1, PSDS2, SegmentAuc, psd_roc
from helpers.scores import ScoreTable, clip_id, events_of_table
from helpers.tuning import Grid, cross_validated, folds_of, tune
from tests.reference import golden
from tests.test_boxes import LABELS, golden_table, plausible, random_truth, same_boxes, tuned_parameters

SMALL = Grid((0.3, 0.6), (0.1, 0.3), (2.0, 4.0))


@pytest.fixture(scope="module")
def evaluation():
    return golden("sed/evaluation.json"), golden("sed/evaluation_scores.npz")


def rows(evaluation, name):
    import pandas

    stored = evaluation[0]["tables"][name]
    return pandas.DataFrame(stored["rows"], columns=stored["columns"])


def seconds(table):
    return {clip_id(name): float(duration) for name, duration in zip(table["filename"], table["duration"])}


@pytest.fixture(scope="module")
def devtest(evaluation):
    """The published tuning set: clips that have events, scores of the DESED classes."""
    labels = evaluation[0]["labels"][:10]
    events = events_of_table(rows(evaluation, "test_tsv"), labels)
    clips = [clip for clip in evaluation[0]["clips.devtest"] if events.get(clip)]
    table = golden_table(evaluation, "devtest").select(clips, labels)
    durations = seconds(rows(evaluation, "test_dur"))
    return table, {clip: events[clip] for clip in clips}, {clip: durations[clip] for clip in clips}


@pytest.fixture(scope="module")
def random_set():
    table = plausible(clips=12, seed=5)
    return table, *random_truth(table, seed=6)


def as_columns(parameters):
    return dict(vars(parameters))


@pytest.mark.parametrize("kind", ["classwise", "global"])
def test_tuning_golden(evaluation, devtest, kind):
    facts = evaluation[0]["csebbs"]
    tuned = tune(*devtest, Grid(**facts["grids"]), classwise=kind == "classwise")
    assert as_columns(tuned.parameters) == as_columns(tuned_parameters(evaluation, f"tuned_{kind}"))
    stored = facts[f"tuned_{kind}_value"]
    if kind == "classwise":
        assert tuned.values == pytest.approx(stored, abs=1e-6)
    else:  # stored is the mean over classes
        assert tuned.value == pytest.approx(stored["Speech"], abs=1e-6)
    assert tuned.missing == ()


def test_the_default_grid_is_the_published_one(evaluation):
    stored = evaluation[0]["csebbs"]["grids"]
    assert {name: list(values) for name, values in vars(Grid()).items()} == stored


def test_psds_of_tuned_boxes_golden(evaluation, devtest):
    table, events, durations = devtest
    boxes = detect(table, tuned_parameters(evaluation))
    expected = evaluation[0]["csebbs"]["psds1_csebbs"]
    truth = Truth.of(events, durations, table.clips, table.labels)
    assert psds(boxes.of, truth, PSDS1).value == pytest.approx(expected, abs=1e-6)
    assert psd_roc(boxes.score_frames(), events, durations, PSDS1)[0].value == pytest.approx(expected, abs=1e-6)


def test_mpauc_of_segment_boxes_golden(evaluation):
    facts = evaluation[0]
    labels = facts["maestro_eval_classes"]
    events = events_of_table(rows(evaluation, "real_maestro_val_tsv"), labels, above=0.5)
    boxes = segment_boxes(golden_table(evaluation, "maestro_dev").select(labels=labels))
    edges = np.append(np.unique(boxes.onset), boxes.end)
    collector = FrameScores(labels, edges)
    scores = [frame[labels].to_numpy() for frame in boxes.score_frames().values()]
    collector.add(boxes.clips, np.stack(scores))
    reference = Reference(events, seconds(rows(evaluation, "real_maestro_val_dur")), labels, event_free="listed")
    values = dict(SegmentAuc(collector, reference, per_file=True).compute())
    assert values["segment_mpauc"] == pytest.approx(facts["csebbs"]["mpauc_csebbs"], abs=1e-6)


def library_values(objective, table, events, durations, parameters):
    """Class values of one choice of parameters by sed_scores_eval."""
    from sed_scores_eval import collar_based

    frames = detect(table, parameters).score_frames(-np.inf)
    if objective == "collar_f1":
        f1 = collar_based.best_fscore(frames, events, **COLLAR)[0]
        return [f1[label] for label in table.labels]
    classes = psd_roc(frames, events, durations, {"psds1": PSDS1, "psds2": PSDS2}[objective])[1]
    return [classes[label] for label in table.labels]


@pytest.mark.parametrize("objective", ["psds1", "psds2", "collar_f1"])
def test_tuning_finds_what_an_exhaustive_search_finds(random_set, objective):
    table, events, durations = random_set
    points = [(length, *thresholds) for length in SMALL.step_filter_lengths for thresholds in SMALL.thresholds]
    assert points[:3] == [(0.3, 0.1, np.inf), (0.3, 0.3, np.inf), (0.3, np.inf, 2.0)]
    values = np.array([library_values(objective, *random_set, Parameters(*point)) for point in points])
    assert len(np.unique(values.round(6), axis=0)) > 4
    tuned = tune(table, events, durations, SMALL, objective=objective)
    best = values.round(9).argmax(0)
    assert [tuple(row) for row in tuned.parameters.of(LABELS).T] == [points[i] for i in best]
    assert [tuned.values[label] for label in LABELS] == pytest.approx(values.max(0), abs=1e-6)
    common = tune(table, events, durations, SMALL, classwise=False, objective=objective)
    best = values.mean(1).round(9).argmax()
    assert [tuple(row) for row in common.parameters.of(LABELS).T] == [points[best]] * 3
    assert [common.values[label] for label in LABELS] == pytest.approx(values[best], abs=1e-6)
    assert common.value == pytest.approx(values[best].mean(), abs=1e-6)
    assert common.value <= tuned.value + 1e-12


def test_classes_in_another_order_and_clips_in_another_order(random_set):
    table, events, durations = random_set
    tuned = tune(table, events, durations, SMALL)
    turned = tune(table.select(table.clips[::-1], LABELS[::-1]), events, durations, SMALL)
    assert turned.values == pytest.approx(tuned.values)
    assert as_columns(turned.parameters) == as_columns(tuned.parameters)


def test_of_equally_good_points_the_first_is_taken():
    scores = np.zeros((1, 100, 1))
    scores[0, 20:40] = 0.9
    table = ScoreTable(("x",), scores, np.arange(101) * 0.1, ("a",))
    tuned = tune(table, {"x": [(2.0, 4.0, "a")]}, {"x": 10.0}, Grid((0.6, 0.4), (0.3, 0.2), (2.0,)))
    assert tuned.values == {"a": 1.0}
    assert as_columns(tuned.parameters) == {
        "step_filter_length": {"a": 0.6}, "merge_threshold_abs": {"a": 0.3}, "merge_threshold_rel": {"a": np.inf}
    }  # fmt: skip


def test_a_class_without_an_event_takes_the_common_choice(random_set, caplog):
    table, events, durations = random_set
    without = {clip: [event for event in found if event[2] != "b"] for clip, found in events.items()}
    with caplog.at_level(logging.WARNING):
        tuned = tune(table, without, durations, SMALL)
    assert [record.getMessage() for record in caplog.records] == [
        "tuning: no true event of b, the best common choice is taken"
    ]
    others = tune(table.select(labels=["a", "c"]), without, durations, SMALL, classwise=False)
    assert tuned.parameters.of(["b"])[:, 0].tolist() == others.parameters.of(["a"])[:, 0].tolist()
    assert tuned.missing == ("b",)
    assert np.isnan(tuned.values["b"])
    alone = tune(table.select(labels=["a", "c"]), without, durations, SMALL)
    assert tuned.value == pytest.approx(alone.value)
    assert {label: tuned.values[label] for label in "ac"} == pytest.approx(alone.values)
    detect(table, tuned.parameters)


def test_bad_input_is_named(random_set):
    table, events, durations = random_set
    with pytest.raises(ValueError, match="unknown objective 'f1', expected one of psds1, psds2, collar_f1"):
        tune(table, events, durations, SMALL, objective="f1")
    with pytest.raises(ValueError, match=r"no true event of any class to tune on \(classes: a, b, c\)"):
        tune(table, {}, durations, SMALL)
    with pytest.raises(ValueError, match="no duration of clip 'clip003'"):
        tune(table, events, {clip: 10.0 for clip in durations if clip != "clip003"}, SMALL)
    with pytest.raises(ValueError, match="clip 'clip011' has true events but is not evaluated"):
        tune(table.select(table.clips[:-1]), events, durations, SMALL)
    broken = replace(table, scores=np.where(np.arange(12)[:, None, None] == 4, np.nan, table.scores))
    with pytest.raises(ValueError, match="clip 'clip004' has scores that are no numbers"):
        tune(broken, events, durations, SMALL)
    with pytest.raises(ValueError, match="the grid needs a step filter length and a merge threshold"):
        Grid((0.4,), (), ())
    with pytest.raises(ValueError, match=r"step filter lengths need positive seconds, got \[0.4, 0\]"):
        Grid((0.4, 0))


def subset(events, clips):
    return {clip: events[clip] for clip in clips}


@pytest.mark.parametrize("objective", ["psds1", "psds2", "collar_f1"])
def test_each_fold_is_tuned_on_the_others(random_set, objective):
    table, events, durations = random_set
    boxes, chosen = cross_validated(table, events, durations, SMALL, folds=3, seed=1, objective=objective)
    assert boxes.clips == table.clips
    fold = folds_of(table.clips, 3, seed=1)
    for i, tuned in enumerate(chosen):
        seen = [clip for clip, of_clip in zip(table.clips, fold) if of_clip != i]
        unseen = [clip for clip in table.clips if clip not in seen]
        alone = tune(table.select(seen), subset(events, seen), durations, SMALL, objective=objective)
        assert as_columns(alone.parameters) == as_columns(tuned.parameters)
        assert alone.values == pytest.approx(tuned.values, abs=1e-9)
        same_boxes(boxes.select(unseen), detect(table.select(unseen), alone.parameters))
    assert len({str(tuned.parameters) for tuned in chosen}) > 1


def test_the_truth_of_a_fold_does_not_reach_its_boxes(random_set):
    table, events, durations = random_set
    fold = folds_of(table.clips, 3, seed=1)
    boxes, _ = cross_validated(table, events, durations, SMALL, folds=3, seed=1)
    held_out = [clip for clip, of_clip in zip(table.clips, fold) if of_clip == 1]
    lies = {**events, **{clip: [(1.0, 2.0, "a"), (3.0, 9.0, "c")] for clip in held_out}}
    lying, chosen = cross_validated(table, lies, durations, SMALL, folds=3, seed=1)
    same_boxes(lying.select(held_out), boxes.select(held_out))
    assert len(chosen) == 3


def test_folds_are_even_and_a_matter_of_the_seed_only():
    clips = tuple(f"clip{i}" for i in range(23))
    fold = dict(zip(clips, folds_of(clips, 5, seed=3)))
    assert sorted(np.bincount(list(fold.values()))) == [4, 4, 5, 5, 5]
    assert dict(zip(clips[::-1], folds_of(clips[::-1], 5, seed=3))) == fold
    assert dict(zip(clips, folds_of(clips, 5, seed=4))) != fold
    for folds in (1, 24):
        with pytest.raises(ValueError, match=rf"23 clips cannot be split into {folds} folds, expected 2 to 23"):
            folds_of(clips, folds, seed=0)


def test_a_class_that_a_fold_lacks_is_named_once(random_set, caplog):
    table, events, durations = random_set
    fold = folds_of(table.clips, 3, seed=1)
    only = next(clip for clip, of_clip in zip(table.clips, fold) if of_clip == 2)
    rare = {
        clip: [event for event in found if event[2] != "b"] + [(1.0, 3.0, "b")] * (clip == only)
        for clip, found in events.items()
    }
    with caplog.at_level(logging.WARNING):
        _, chosen = cross_validated(table, rare, durations, SMALL, folds=3, seed=1)
    assert [tuned.missing for tuned in chosen] == [(), (), ("b",)]
    assert [record.getMessage() for record in caplog.records] == [
        "tuning: folds leave no true event of b, the best common choice is taken"
    ]


@pytest.mark.data
def test_real_system_outputs(real_data):
    pandas = pytest.importorskip("pandas")
    folder = real_data / "scores" / "dcase2023_task4a_baseline2_run1"
    frames = {path.stem: pandas.read_csv(path, sep="\t") for path in sorted((folder / "scores").glob("*.tsv"))}
    first = next(iter(frames.values()))
    labels, edges = tuple(first.columns[2:]), np.append(first["onset"], first["offset"].iloc[-1])
    table = ScoreTable(tuple(frames), np.stack([frame[list(labels)] for frame in frames.values()]), edges, labels)
    events = events_of_table(pandas.read_csv(folder / "ground_truth.tsv", sep="\t"))
    durations = seconds(pandas.read_csv(folder / "audio_durations.tsv", sep="\t"))
    tuned = tune(table, events, durations)
    truth = Truth.of(events, durations, table.clips, labels)
    boxes = detect(table, tuned.parameters)
    merged = {clip: list(found) for clip, found in events.items()}
    for criteria in (PSDS1, PSDS2):
        ours = psds(boxes.of, truth, criteria)
        library, classes = psd_roc(boxes.score_frames(-np.inf), merged, durations, criteria)
        assert ours.value == pytest.approx(library.value, abs=1e-6)
        assert class_psds(ours, labels) == pytest.approx(classes, abs=1e-6)
        if criteria is PSDS1:
            assert classes == pytest.approx(tuned.values, abs=1e-6)
            raw = psd_roc(table.data_frames(), merged, durations, criteria)[1]
            assert np.mean(list(classes.values())) > np.mean(list(raw.values()))
    honest, _ = cross_validated(table, events, durations, folds=7)
    assert np.nanmean(list(class_psds(psds(honest.of, truth, PSDS1), labels).values())) < tuned.value
