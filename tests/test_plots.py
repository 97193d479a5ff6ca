"""Figures are whole PNG files that show what they are given; tables hold every value."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers import plots
from helpers.metrics import PsdRoc
from helpers.plots import plot_class_psds, plot_clip, plot_psd_roc, shown_classes
from helpers.report import by_role, console_table, write_table

LABELS = ("Dog_bark", "Cat", "Speech")


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, in order."""
    drawn = []
    made = plots.new_figure
    monkeypatch.setattr(plots, "new_figure", lambda *size: drawn.append(made(*size)) or drawn[-1])
    return drawn


def is_png(path):
    data = path.read_bytes()
    return data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82")


def clip(path, events=((1.0, 3.0, "Dog_bark"),), scores=None, **options):
    rng = np.random.default_rng(0)
    scores = np.array([[0.9, 0.3, 0.05]] * 156) if scores is None else scores
    return plot_clip(rng.normal(size=(64, 200)), events, scores, LABELS, path, **options)


def test_clip_shows_true_events_and_scores_of_the_classes_that_matter(tmp_path, figures):
    path = clip(tmp_path / "deep" / "clip.png", title="a clip", timestamps=np.arange(157) * 0.064)
    assert is_png(path)
    top, bottom, *_ = figures[0].axes
    assert top.get_title() == "a clip"
    assert [tick.get_text() for tick in bottom.get_yticklabels()] == ["Dog bark", "Cat"]
    (bar,) = bottom.patches
    assert (bar.get_x(), bar.get_width()) == (1.0, 2.0)
    assert [float(mesh.get_array().mean()) for mesh in bottom.collections] == pytest.approx([0.9, 0.3])
    assert bottom.get_xlim() == (0.0, 10.0)
    assert bottom.get_xlabel() == "time (s)"


def test_classes_worth_a_row():
    scores = np.array([[0.05, 0.1, 0.3], [0.0, 0.15, 0.1]])
    assert shown_classes([], scores, LABELS) == [2]
    assert shown_classes([(0, 1, "Dog_bark")], scores, LABELS) == [0, 2]
    assert shown_classes([], scores * 0.1, LABELS) == [2]


def test_clip_without_events_or_scores(tmp_path, figures):
    assert is_png(clip(tmp_path / "x.png", events=[], scores=np.zeros((156, 3))))
    assert "no true event" in figures[0].axes[1].get_title()


def test_a_silent_clip_is_drawn(tmp_path):
    path = plot_clip(np.full((64, 100), -50.0), [], np.zeros((156, 3)), LABELS, tmp_path / "x.png")
    assert is_png(path)


def test_psd_roc_is_a_staircase_to_the_end(tmp_path, figures):
    curve = PsdRoc(
        0.25, np.array([0.0, 20.0, 150.0]), np.array([0.1, 0.4, 1.0]), {"Cat": (np.array([5.0]), np.ones(1))}
    )
    path = plot_psd_roc({"student": curve, "untrained": curve}, tmp_path / "roc.png")
    assert is_png(path)
    (axes,) = figures[0].axes
    student = axes.lines[0]
    assert student.get_label() == "student (PSDS 0.250)"
    assert student.get_drawstyle() == "steps-post"
    np.testing.assert_array_equal(student.get_xdata(), [0, 0, 20, 100])
    np.testing.assert_array_equal(student.get_ydata(), [0, 0.1, 0.4, 0.4])
    np.testing.assert_array_equal(axes.lines[2].get_ydata(), [0, 1, 1])
    assert axes.get_xlabel() == "effective false positives per hour"


def test_class_bars_say_where_a_value_is_missing(tmp_path, figures):
    values = {"student": {"Cat": 0.5, "Dog_bark": np.nan}, "teacher": {"Cat": 0.25, "Dog_bark": 1.0}}
    assert is_png(plot_class_psds(values, tmp_path / "classes.png"))
    (axes,) = figures[0].axes
    assert [text.get_text() for text in axes.texts] == ["0.50", "no true event", "0.25", "1.00"]
    assert [patch.get_width() for patch in axes.patches] == [0.5, 0.0, 0.25, 1.0]


def test_a_failed_figure_leaves_the_old_file(tmp_path, monkeypatch):
    path = clip(tmp_path / "clip.png")
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *names: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        clip(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["clip.png"]


def test_figures_leave_no_trace_in_pyplot(tmp_path):
    code = f"""
import sys
import helpers.evaluators, helpers.plots, helpers.report
early = [name for name in ("matplotlib", "sed_scores_eval", "rich", "pandas", "torch") if name in sys.modules]
helpers.plots.plot_class_psds({{"a": {{"b": 0.5}}}}, {str(tmp_path / "x.png")!r})
sys.exit(f"imported: {{early}}" if early else int("matplotlib.pyplot" in sys.modules))
"""
    folder = Path(plots.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert is_png(tmp_path / "x.png")


METRICS = {
    "test/student/psds1_sed_scores_eval": 0.4321987,
    "test/student/segment_mpauc_sed_scores_eval": float("nan"),
    "test/teacher/psds1_sed_scores_eval": 0.5,
    "test/teacher/rank_score": 1.25,
    "test/tot_energy_kWh": 0.5,
}
UNTRAINED = {"test/student/psds1_sed_scores_eval": 0.01, "test/teacher/psds1_sed_scores_eval": 0.02}


def test_tables_hold_every_value(tmp_path):
    table, text = write_table(
        METRICS, tmp_path / "run", UNTRAINED, {"student/psds1": {"Cat": 0.5, "Dog": float("nan")}}
    )
    assert (table.name, text.name) == ("results.csv", "results.md")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(row["system"], row["metric"]): float(row["value"]) for row in rows}
    assert found[("student", "test/psds1_sed_scores_eval")] == 0.4321987
    assert found[("untrained", "test/psds1_sed_scores_eval")] == 0.01
    assert found[("", "test/tot_energy_kWh")] == 0.5
    assert len(rows) == len(METRICS) + 1
    lines = text.read_text().splitlines()
    assert "| metric | student | teacher | untrained |" in lines
    assert "| test/psds1_sed_scores_eval | 0.4322 | 0.5000 | 0.0100 |" in lines
    assert "| test/rank_score | – | 1.2500 | – |" in lines
    assert "| test/tot_energy_kWh | 0.5000 |" in lines
    assert lines[lines.index("### student") :][2:6] == [
        "| class | psds1 |",
        "| --- | ---: |",
        "| Cat | 0.5000 |",
        "| Dog | – |",
    ]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["results.csv", "results.md"]


def test_console_table_is_short():
    import io

    from rich.console import Console

    console = Console(file=io.StringIO(), width=100)
    console.print(console_table(METRICS, UNTRAINED))
    text = console.file.getvalue()
    assert [word in text for word in ("PSDS1", "mpAUC", "PSDS2", "collar")] == [True, True, False, False]
    rows = [line.split("│")[1:-1] for line in text.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["student", "0.4322", "–"],
        ["teacher", "0.5000", "–"],
        ["untrained", "0.0100", "–"],
    ]


def test_names_without_a_role_are_kept_apart():
    assert by_role({"val/obj_metric": 1, "val/student/x": 2}) == {
        "": {"val/obj_metric": 1.0},
        "student": {"val/x": 2.0},
    }
