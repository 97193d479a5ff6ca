"""The evaluators of validation and test, by role and source, and the names under which their values are published.

DESED metrics leave out clips without events, as published; those named after psds_eval and sed_eval count them, as
those libraries do. The MAESTRO test metrics leave them out, too, as published; MAESTRO validation keeps them and takes
the real lengths of its clips, where the published one ended each clip with its last event.
"""
# ruff: noqa: PT028 (test_evaluators is no test)

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from helpers.collectors import ClipLosses, ClipScores, Collector, FrameScores, Reference, as_array
from helpers.metrics import PSDS1, PSDS2, Evaluator, EventF1, MeanLoss, PsdRoc, Psds, SegmentAuc, WeakF1
from helpers.scores import Events


@dataclass(frozen=True)
class SumOf:
    """A value that is the sum of others of the same role.

    Attributes:
        name: what it is called.
        parts: names of the summands.
        role: the role it is taken from, and then the name has no role in it; None makes one of every role.
        partial: whether summands may lack, as when no data for them is there.
    """

    name: str
    parts: tuple[str, ...]
    role: str | None = None
    partial: bool = False
    higher_is_better = True

    def compute(self, values: Mapping[str, float]) -> Iterator[tuple[str, float]]:
        """Name and value, nothing where summands lack."""
        found = [values[part] for part in self.parts if part in values]
        if found and (self.partial or len(found) == len(self.parts)):
            yield self.name, float(sum(found))


class SourceEvaluators:
    """The evaluators of one source and role; what several of them collect is collected once."""

    def __init__(self, evaluators: Sequence[Evaluator]):
        self.evaluators = list(evaluators)
        self.collectors = list({id(e.collector): e.collector for e in self.evaluators}.values())

    def __iter__(self) -> Iterator[Evaluator]:
        return iter(self.evaluators)

    def update(self, strong, weak, batch):
        """Takes a batch of this source, see :meth:`helpers.collectors.Collector.update`."""
        for collector in self.collectors:
            collector.update(strong, weak, batch)


class EvaluatorSet:
    """Evaluators by role and source: ``evaluators["student"][source]``.

    Args:
        roles: role -> source number -> evaluators. An evaluator may stand under several sources of its role.
        sums: values made of others.
    """

    def __init__(self, roles: Mapping[str, Mapping[int, Sequence[Evaluator]]], sums: Sequence[SumOf] = ()):
        self.roles = {
            role: {source: SourceEvaluators(evaluators) for source, evaluators in sources.items()}
            for role, sources in roles.items()
        }
        self.sums = tuple(sums)

    def __getitem__(self, role: str) -> Mapping[int, SourceEvaluators]:
        return self.roles[role]

    def update(self, role: str, strong, weak, batch):
        """Hands every clip to the evaluators of its source; clips of other sources are passed over.

        Args:
            role: "student" or "teacher".
            strong: [B, classes, frames] probabilities.
            weak: [B, classes] probabilities.
            batch: sample batch with ``source``, ``filename``, ``strong`` and ``weak``.
        """
        strong, weak, source = as_array(strong), as_array(weak), as_array(batch["source"])
        labels = {key: as_array(batch[key]) for key in ("strong", "weak") if key in batch}
        for number, evaluators in self.roles[role].items():
            rows = np.flatnonzero(source == number)
            if len(rows):
                part = {key: values[rows] for key, values in labels.items()}
                part["filename"] = [batch["filename"][row] for row in rows]
                evaluators.update(strong[rows], weak[rows], part)

    def publish(self, prefix: str) -> Iterator[tuple[str, float]]:
        """All values as ``<prefix>/<role>/<name>``, then the sums."""
        for role in self.roles:
            values = {name: value for evaluator in self._unique(role) for name, value in evaluator.compute()}
            for total in self.sums:
                if total.role is None:
                    values.update(total.compute(values))
            yield from ((f"{prefix}/{role}/{name}", value) for name, value in values.items())
            for total in self.sums:
                if total.role == role:
                    yield from ((f"{prefix}/{name}", value) for name, value in total.compute(values))

    def per_class(self) -> dict[str, Mapping[str, float]]:
        """``<role>/<name>`` -> label -> value, nan for classes without a true event."""
        return {
            f"{role}/{name}": values
            for role in self.roles
            for evaluator in self._unique(role)
            for name, values in evaluator.per_class().items()
        }

    def curves(self) -> dict[str, PsdRoc]:
        """``<role>/<name>`` -> PSD-ROC of the PSDS evaluators."""
        outcomes = {
            f"{role}/{e.name}": e.outcome() for role in self.roles for e in self._unique(role) if isinstance(e, Psds)
        }
        return {name: outcome.curve for name, outcome in outcomes.items() if outcome.curve is not None}

    def reset(self):
        """Forgets all clips."""
        for collector in self._collectors():
            collector.reset()

    def state(self) -> list:
        """All that is collected, in a form that can be pickled and sent to another process."""
        return [collector.state() for collector in self._collectors()]

    def merge(self, states: Iterable[list]):
        """Adds what equal sets in other processes have collected; a clip seen by several counts once."""
        for state in states:
            for collector, collected in zip(self._collectors(), state, strict=True):
                collector.merge([collected])

    def _unique(self, role: str) -> list[Evaluator]:
        return list({id(e): e for evaluators in self.roles[role].values() for e in evaluators}.values())

    def _collectors(self) -> list[Collector]:
        evaluators = (e for role in self.roles for e in self._unique(role))
        return list({id(e.collector): e.collector for e in evaluators}.values())


@dataclass(frozen=True)
class Setting:
    """What the evaluators of validation and test are told alike.

    Attributes:
        labels: the classes of the predictions.
        timestamps: [frames + 1] frame boundaries of the predictions in seconds.
        desed_labels: the classes evaluated on DESED.
        maestro_labels: the classes evaluated on MAESTRO.
        median_window: median filter lengths in frames, one per class; None filters nothing.
        thresholds: of the F1 scores.
        roles: the networks evaluated side by side.
        num_jobs: processes of a metric.
    """

    labels: Sequence[str]
    timestamps: Sequence[float]
    desed_labels: Sequence[str]
    maestro_labels: Sequence[str]
    median_window: Sequence[int] | None = None
    thresholds: Sequence[float] = (0.5,)
    roles: Sequence[str] = ("student", "teacher")
    num_jobs: int = 1

    def scores(self) -> FrameScores:
        """A collector of frame scores."""
        return FrameScores(self.labels, self.timestamps, self.median_window)

    def desed(self, name: str, events: Events, durations: Mapping[str, float]) -> Reference:
        """Reference of a DESED set."""
        reference = Reference(events, durations, tuple(self.desed_labels), name=name)
        reference.require_durations()
        return reference

    def event_f1(self, scores: FrameScores, reference: Reference, suffix: str) -> list[EventF1]:
        """Intersection and collar F1 at every threshold."""
        return [
            EventF1(scores, reference, at(f"{criterion}_f1_macro", t) + suffix, criterion, t, num_jobs=self.num_jobs)
            for t in self.thresholds
            for criterion in ("intersection", "collar")
        ]


def at(name: str, threshold: float) -> str:
    """A name with its threshold as in the public names: 0.5 is thres05."""
    return f"{name}_thres{threshold:g}".replace(".", "")


def validation_evaluators(
    ground_truths: Mapping[str, Events],
    durations: Mapping[str, Mapping[str, float]],
    sources: Mapping[str, int],
    setting: Setting,
    maestro_as_published: bool = False,
) -> EvaluatorSet:
    """Evaluators of the four validation sets; a set that ``sources`` lacks is left out.

    Args:
        ground_truths: "synth", "real" (external strong), "maestro" -> events by clip.
        durations: "synth", "real" -> seconds by clip; "maestro" -> seconds by clip or file, and where neither is
            listed a clip is as long as its name says.
        sources: "synth", "real", "weak", "maestro" -> number in ``batch["source"]``.
        setting: classes, frames, thresholds.
        maestro_as_published: a MAESTRO clip ends with its last event, and clips without events are left out.

    Raises:
        ValueError: a clip of a DESED ground truth has no duration.
    """
    references = {
        name: setting.desed(name, ground_truths[name], durations[name]) for name in ("synth", "real") if name in sources
    }
    if "maestro" in sources:
        references["maestro"] = _maestro_validation(
            ground_truths["maestro"], durations.get("maestro", {}), setting.maestro_labels, maestro_as_published
        )

    def of_role():
        # The published loss_strong is one mean over synthetic and MAESTRO clips.
        loss, real_loss = (MeanLoss(ClipLosses("strong"), name) for name in ("loss_strong", "loss_real_strong"))
        by_source = {}
        for name, reference in references.items():
            scores, suffix = setting.scores(), "_real" if name == "real" else ""
            evaluators = by_source[sources[name]] = [real_loss if name == "real" else loss]
            if name == "maestro":
                evaluators.append(SegmentAuc(scores, reference, num_jobs=setting.num_jobs))
            else:
                evaluators.append(Psds(scores, reference, "psds1" + suffix, PSDS1, num_jobs=setting.num_jobs))
                evaluators += setting.event_f1(scores, reference, suffix)
        if "weak" in sources:
            clips = ClipScores()
            f1 = [WeakF1(clips, setting.labels, at("weak_f1_macro", t), t) for t in setting.thresholds]
            by_source[sources["weak"]] = [MeanLoss(ClipLosses("weak"), "loss_weak"), *f1]
        return by_source

    parts = ("segment_mpauc", "psds1", "psds1_real")
    objective = SumOf("obj_metric", parts, role=setting.roles[0], partial=True)
    return EvaluatorSet({role: of_role() for role in setting.roles}, [objective])


def _maestro_validation(events, durations, labels, as_published) -> Reference:
    if not as_published:
        return Reference(events, durations, tuple(labels), event_free="all", name="maestro")
    events = {clip: [event for event in clip_events if event[2] in set(labels)] for clip, clip_events in events.items()}
    ends = {clip: max(offset for _, offset, _ in clip_events) for clip, clip_events in events.items() if clip_events}
    return Reference(events, ends, tuple(labels), name="maestro")


def test_evaluators(
    ground_truths: Mapping[str, Events],
    durations: Mapping[str, Mapping[str, float]],
    sources: Mapping[str, int],
    setting: Setting,
    operating_points: int = 50,
) -> EvaluatorSet:
    """Evaluators of the test sets; a set that ``sources`` lacks is left out.

    Args:
        ground_truths: "devtest", "maestro" -> events by clip.
        durations: "devtest" -> seconds by clip, "maestro" -> seconds by file.
        sources: "devtest", "maestro", "real" -> number in ``batch["source"]``; "real" enters the loss alone.
        setting: classes, frames, thresholds.
        operating_points: number of thresholds of the ``*_psds_eval`` scores: 0.01, 0.03, ..., 0.99 for 50.

    Raises:
        ValueError: a clip of a DESED ground truth has no duration.
    """
    references = {}
    if "devtest" in sources:
        references["devtest"] = setting.desed("devtest", ground_truths["devtest"], durations["devtest"])
    if "maestro" in sources:
        references["maestro"] = Reference(
            ground_truths["maestro"], durations["maestro"], tuple(setting.maestro_labels), name="maestro"
        )
    points = (np.arange(operating_points) + 0.5) / operating_points

    def of_role():
        loss = MeanLoss(ClipLosses("strong"), "loss_strong")
        by_source = {number: [loss] for number in sources.values()}
        if "devtest" in references:
            by_source[sources["devtest"]] += _devtest(setting, references["devtest"], points)
        if "maestro" in references:
            scores, suffix = setting.scores(), "_sed_scores_eval"
            by_source[sources["maestro"]].append(
                SegmentAuc(scores, references["maestro"], suffix, per_file=True, num_jobs=setting.num_jobs)
            )
        return by_source

    rank = SumOf("rank_score", ("psds1_sed_scores_eval", "segment_mpauc_sed_scores_eval"))
    return EvaluatorSet({role: of_role() for role in setting.roles}, [rank])


test_evaluators.__test__ = False  # pytest would take the name for that of a test


def _devtest(setting, reference, points) -> list[Evaluator]:
    scores, jobs = setting.scores(), setting.num_jobs
    listed = replace(reference, event_free="listed")
    evaluators = setting.event_f1(scores, reference, "_sed_scores_eval")
    for name, criteria in (("psds1", PSDS1), ("psds2", PSDS2)):
        evaluators.append(Psds(scores, listed, f"{name}_psds_eval", criteria, points, num_jobs=jobs))
        evaluators.append(Psds(scores, reference, f"{name}_sed_scores_eval", criteria, num_jobs=jobs))
    for t in setting.thresholds:
        name = at("intersection_f1_macro", t) + "_psds_eval"
        evaluators.append(EventF1(scores, listed, name, "intersection", t, skip_missed=True, num_jobs=jobs))
        name = at("collar_f1_macro", t) + "_sed_eval"
        evaluators.append(EventF1(scores, listed, name, "collar", t, num_jobs=jobs))
    return evaluators
