"""The course of an evaluation of stored predictions: tune boxes on one set, evaluate all, write tables and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers import submission
from helpers.boxes import Boxes
from helpers.evaluation import Bootstrap, Compared, Labelled, evaluate_desed, evaluate_maestro, post_process
from helpers.evaluation_report import Row, write_evaluation, write_figures
from helpers.gallery import pick
from helpers.scores import ScoreTable
from helpers.tuning import Grid, Tuned, cross_validated, tune

DEVTEST, MAESTRO = "devtest", "maestro_real_dev"  # the sets that every evaluation needs
PRINTED = {"mpAUC": "mpAUC", "mpAUC_csebbs": "mpAUC_csebbs (should be the same)"}  # metric -> its line
TUNED_ON = ("devtest", "cv")
# parameter -> entry of the grid
TRIED = {
    "step_filter_length": "step_filter_lengths",
    "merge_threshold_abs": "merge_thresholds_abs",
    "merge_threshold_rel": "merge_thresholds_rel",
}


@dataclass(frozen=True)
class Tuning:
    """How the parameters of boxes are chosen.

    Attributes:
        grid: what is tried.
        classwise: by class.
        objective: see :func:`helpers.tuning.tune`.
        on: "devtest": on all of devtest, as published, which flatters the values there; "cv": the values of devtest
            are those of a cross-validation. Other sets are predicted with what is best on devtest either way.
        seed: of the folds.

    Raises:
        ValueError: ``on`` is neither.
    """

    grid: Grid
    classwise: bool = True
    objective: str = "psds1"
    on: str = "devtest"
    seed: int = 0

    def __post_init__(self):
        if self.on not in TUNED_ON:
            raise ValueError(f"tune_on is '{self.on}', expected one of {', '.join(TUNED_ON)}")

    def of(self, labelled: Labelled, labels: Sequence[str]) -> tuple[Tuned, Boxes | None]:
        """What is chosen for a set, and with "cv" the boxes of the cross-validation."""
        data = labelled.table.select(labels=labels), labelled.match.events, labelled.match.durations, self.grid
        options = {"classwise": self.classwise, "objective": self.objective}
        boxes = cross_validated(*data, seed=self.seed, **options)[0] if self.on == "cv" else None
        return tune(*data, **options), boxes


@dataclass(frozen=True)
class Evaluation:
    """Everything that is known after an evaluation.

    Attributes:
        rows: all values, data set by data set.
        per_class: data set -> metric -> label -> value.
        tuned: the parameters of the boxes.
        grid: those that were tried.
        tables, boxes: data set -> scores of the model, and what became of them.
        compared: DESED set -> values before and after.
        labelled: DESED set -> its true events.
        desed: the classes that have bounding boxes.
    """

    rows: list[Row]
    per_class: Mapping[str, Mapping[str, Mapping[str, float]]]
    tuned: Tuned
    grid: Grid
    tables: Mapping[str, ScoreTable]
    boxes: Mapping[str, Boxes]
    compared: Mapping[str, Compared]
    labelled: Mapping[str, Labelled]
    desed: Sequence[str]

    def lines(self) -> list[str]:
        """The values as the published command prints them."""
        printed = [row for row in self.rows if row.metric.startswith(("mpAUC", "psds1"))]
        return [f"{row.dataset} {PRINTED.get(row.metric, row.metric)}: {row.value}" for row in printed]

    def parameters(self) -> dict[str, Mapping[str, float]]:
        """Name -> label -> what was chosen."""
        return {name: getattr(self.tuned.parameters, name) for name in TRIED}

    def write(self, folder, n_clips: int):
        """Writes tables, figures and event lists.

        Args:
            folder: ``evaluation.{csv,md}``, ``<set>_events.tsv`` and ``<set>/*.png`` go there.
            n_clips: how many clips of every DESED set are drawn.
        """
        folder, parameters = Path(folder), self.parameters()
        grid = {name: getattr(self.grid, entry) for name, entry in TRIED.items()}
        write_evaluation(self.rows, self.per_class, folder, {DEVTEST: parameters})
        for name, boxes in self.boxes.items():
            found = boxes.select(boxes.clips, self.desed)
            submission.write_events(folder / f"{name}_events.tsv", found.by_clip())
            if name in self.compared:
                compared, labelled = self.compared[name], self.labelled[name]
                write_figures(
                    folder / name, compared.curves, compared.psds1, parameters,
                    labelled.table.select(labels=self.desed), found.by_clip(), labelled.match.events,
                    pick(labelled.match.clips, n_clips), compared.intervals, grid, name,
                )  # fmt: skip

    def submit(self, folder, system: str, run: int, name: str, durations: Mapping[str, float]) -> Path:
        """Writes the system output for a data set in the format of the challenge, and validates it.

        Args:
            folder: where the folder of the system goes.
            system: ``<author>_<affiliation>_task4_<index>``.
            run: number of the training, from 1.
            name: of the data set.
            durations: seconds of its clips.

        Raises:
            ValueError: a wrong name of the system, a clip without duration.
        """
        table = self.tables[name]
        processed = self.boxes[name].score_frames()
        path = submission.write_submission(folder, system, table, processed, run, durations)
        submission.validate_submission(path, table.clips, durations, table.labels, runs=run)
        return path


def evaluate(
    tables: Mapping[str, ScoreTable], references, desed: Sequence[str], maestro: Sequence[str], tuning: Tuning,
    bootstrap: Bootstrap,
) -> Evaluation:  # fmt: skip
    """Tunes on devtest and evaluates every set that has a truth.

    Args:
        tables: data set -> raw scores of all its clips and classes; :data:`DEVTEST` and :data:`MAESTRO` are needed.
        references: data set -> :class:`helpers.collectors.Reference`.
        desed: the classes that get bounding boxes.
        maestro: the classes that get a score per second.
        tuning: of the boxes.
        bootstrap: of the intervals.

    Raises:
        ValueError: predictions and truth do not belong together, or an unknown objective.
    """
    labelled = {name: Labelled.of(tables[name], references[name]) for name in references if name != MAESTRO}
    tuned, held_out = tuning.of(labelled[DEVTEST], desed)
    boxes = {name: post_process(table, tuned.parameters, desed, maestro) for name, table in tables.items()}
    rows, by_class = evaluate_maestro(tables[MAESTRO], boxes[MAESTRO], references[MAESTRO], bootstrap)
    compared, per_class = {}, {MAESTRO: by_class}
    for name, of_set in labelled.items():
        judged = held_out if held_out is not None and name == DEVTEST else boxes[name]
        compared[name] = evaluate_desed(of_set, judged, desed, bootstrap)
        rows = rows + compared[name].rows
        per_class[name] = compared[name].per_class
    return Evaluation(rows, per_class, tuned, tuning.grid, tables, boxes, compared, labelled, desed)
