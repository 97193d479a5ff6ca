"""Tables hold every value and who computed it; figures show what they are given."""

import io
import math
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from helpers import evaluation_plots, plots
from helpers.evaluation_plots import plot_boxes, plot_class_intervals, plot_parameters
from helpers.evaluation_report import Row, evaluation_table, write_evaluation, write_figures
from helpers.metrics import PsdRoc
from helpers.scores import ScoreTable

NAN, INF = float("nan"), float("inf")
ROWS = [
    Row("devtest", "psds1", 0.5, 0.45, 0.5512),
    Row("devtest", "psds1_csebbs", 0.61234567, computed_by="ours"),
    Row("maestro_real_dev", "mpAUC", NAN),
]
PER_CLASS = {"devtest": {"psds1": {"Cat": 0.25, "Dog": NAN}, "psds1_csebbs": {"Cat": 0.5, "Dog": NAN}}}
PARAMETERS = {
    "filter length (s)": {"Cat": 0.48, "Dog": 0.6},
    "absolute threshold": {"Cat": INF, "Dog": 0.175},
    "relative threshold": {"Cat": 2.5},
}


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, in order."""
    drawn = []
    made = plots.new_figure
    for module in (plots, evaluation_plots):
        monkeypatch.setattr(module, "new_figure", lambda *size: drawn.append(made(*size)) or drawn[-1])
    return drawn


def pixels(path):
    """[height, width, channels] of a PNG; the checksums of its parts are right."""
    from matplotlib.image import imread

    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at = 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        (checksum,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        assert zlib.crc32(data[at + 4 : at + 8 + length]) == checksum
        at += 12 + length
    return imread(path)[..., :3]


def share(image, colour, within=0.02):
    """Share of the pixels that have a colour."""
    from matplotlib.colors import to_rgb

    return float((np.abs(image - to_rgb(colour)).max(-1) < within).mean())


def test_csv_holds_every_value(tmp_path):
    table, _ = write_evaluation(ROWS, PER_CLASS, tmp_path / "new")
    assert table == tmp_path / "new" / "evaluation.csv"
    assert table.read_bytes() == (
        b"dataset,metric,label,value,low,high,computed_by\n"
        b"devtest,psds1,,0.5,0.45,0.5512,sed_scores_eval\n"
        b"devtest,psds1_csebbs,,0.61234567,nan,nan,ours\n"
        b"maestro_real_dev,mpAUC,,nan,nan,nan,sed_scores_eval\n"
        b"devtest,psds1,Cat,0.25,nan,nan,sed_scores_eval\n"
        b"devtest,psds1,Dog,nan,nan,nan,sed_scores_eval\n"
        b"devtest,psds1_csebbs,Cat,0.5,nan,nan,ours\n"
        b"devtest,psds1_csebbs,Dog,nan,nan,nan,ours\n"
    )


def test_markdown_is_for_reading(tmp_path):
    _, text = write_evaluation(ROWS, PER_CLASS, tmp_path, {"devtest": PARAMETERS})
    assert (
        text.read_text(encoding="utf-8")
        == """# Evaluation

| data set | metric | value | 95 % interval | computed by |
| --- | --- | --- | --- | --- |
| devtest | psds1 | 0.5000 | 0.4500–0.5512 | sed_scores_eval |
| devtest | psds1_csebbs | 0.6123 | – | ours |
| maestro_real_dev | mpAUC | – | – | sed_scores_eval |

Intervals: bootstrap over clips. A dash: not computed, or no true event in the evaluated clips.

## By class

A dash: the class has no true event in the evaluated clips.

### devtest

| class | psds1 | psds1_csebbs |
| --- | ---: | ---: |
| Cat | 0.2500 | 0.5000 |
| Dog | – | – |

## cSEBBs parameters, tuned on devtest

| class | filter length (s) | absolute threshold | relative threshold |
| --- | --- | --- | --- |
| Cat | 0.48 | off | 2.5 |
| Dog | 0.6 | 0.175 | – |
"""
    )


def test_tables_without_classes_are_short_and_deterministic(tmp_path):
    first = write_evaluation(iter(ROWS), {}, tmp_path / "first")
    second = write_evaluation(ROWS, {}, tmp_path / "second")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert len(first[0].read_text().splitlines()) == 1 + len(ROWS)
    assert "By class" not in first[1].read_text()
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == ["evaluation.csv", "evaluation.md"]


def test_failed_tables_leave_the_old_ones(tmp_path, monkeypatch):
    write_evaluation(ROWS, {}, tmp_path)
    before = (tmp_path / "evaluation.csv").read_bytes()
    monkeypatch.setattr("os.replace", lambda *names: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_evaluation(ROWS[:1], {}, tmp_path)
    assert (tmp_path / "evaluation.csv").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_console_says_who_computed_a_value():
    from rich.console import Console

    console = Console(file=io.StringIO(), width=120)
    console.print(evaluation_table(ROWS, "ensemble_3"))
    lines = console.file.getvalue().splitlines()
    assert lines[0].strip() == "ensemble_3"
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert cells == [
        ["devtest", "psds1", "0.5000", "0.4500–0.5512", "sed_scores_eval"],
        ["devtest", "psds1_csebbs", "0.6123", "–", "ours"],
        ["maestro_real_dev", "mpAUC", "–", "–", "sed_scores_eval"],
    ]


def test_a_value_is_computed_by_one_of_two():
    with pytest.raises(ValueError, match="psds1 is computed by 'somebody', expected sed_scores_eval or ours"):
        Row("devtest", "psds1", 0.5, computed_by="somebody")


SYSTEMS = {"raw": {"Cat": 0.25, "Dog_bark": NAN}, "cSEBBs": {"Cat": 0.5, "Dog_bark": NAN}}
INTERVALS = {"raw": {"Cat": (0.2, 0.35), "Dog_bark": (NAN, NAN)}}


def test_class_values_with_intervals(tmp_path, figures):
    path = plot_class_intervals(SYSTEMS, tmp_path / "deep" / "classes.png", INTERVALS, title="devtest")
    axes, numbers = figures[0].axes
    points = [(float(line.get_xdata()[0]), line.get_color()) for line in axes.lines if line.get_marker() == "o"]
    blue, orange = plots.COLOURS[:2]
    assert [point for point in points if not math.isnan(point[0])] == [(0.25, blue), (0.5, orange)]
    spans = [tuple(line.get_xdata()) for line in axes.lines if line.get_marker() == "None"]
    assert (0.2, 0.35) in spans
    assert sum(np.isfinite(span).all() for span in spans) == 1 + 1  # and the line between the two lanes
    assert [text.get_text() for text in numbers.texts] == ["raw", "0.250", "–", "cSEBBs", "0.500", "–"]
    assert [text.get_text() for text in axes.texts] == ["no true event"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["Cat", "Dog bark"]
    assert axes.get_xlabel() == "PSDS1, lines: 95 % interval"
    image = pixels(path)
    assert image.shape == (int((1.5 + 2 * 0.42) * 120), int(8.4 * 120), 3)
    assert 0.7 < share(image, "white") < 0.99
    assert min(share(image, blue), share(image, orange)) > 1e-4


def test_class_values_without_intervals(tmp_path, figures):
    plot_class_intervals({"raw": {"Cat": 0.25}}, tmp_path / "classes.png", xlabel="PSDS2")
    assert figures[0].axes[0].get_xlabel() == "PSDS2"


def test_parameters_are_dots_on_their_grid(tmp_path, figures):
    grids = {"filter length (s)": [0.38, 0.48, 0.6]}
    path = plot_parameters(PARAMETERS, tmp_path / "parameters.png", grids)
    panels = figures[0].axes
    assert [panel.get_xlabel() for panel in panels] == list(PARAMETERS)
    dots = [
        [(float(line.get_xdata()[0]), int(line.get_ydata()[0])) for line in panel.lines if line.get_marker() == "o"]
        for panel in panels
    ]
    assert dots == [[(0.48, 0), (0.6, 1)], [(0.175, 1)], [(2.5, 0)]]
    assert [[text.get_text() for text in panel.texts] for panel in panels] == [[], ["off"], ["–"]]
    assert [line.get_xdata()[0] for line in panels[0].lines[:3]] == grids["filter length (s)"]
    assert pixels(path).shape == (int(1.9 * 120), 1200, 3)


LABELS = ("Dog_bark", "Cat", "Speech")
TIMES = np.arange(157) * 0.064


def clip_scores():
    return np.tile(np.float32([0.9, 0.3, 0.05]), (156, 1))


def test_boxes_are_as_high_as_confident(tmp_path, figures):
    events = [(1.0, 3.0, "Dog_bark"), (0.0, 1.0, "unknown class")]
    boxes = [(0.9, 3.1, "Dog_bark", 0.75), (4.0, 4.2, "Cat", 0.5), (5.0, 6.0, "Cat", 0.05), (0.0, 1.0, "Speech", 1.0)]
    path = plot_boxes(clip_scores(), TIMES, LABELS, events, boxes, tmp_path / "clip.png", title="a clip")
    axes, _ = figures[0].axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["Dog bark", "Cat"]
    *bars, true = [patch for patch in axes.patches if hasattr(patch, "get_width")]
    found = [(bar.get_x(), bar.get_x() + bar.get_width(), bar.get_height() / 0.8) for bar in bars]
    np.testing.assert_allclose(found, [(5.0, 6.0, 0.05), (4.0, 4.2, 0.5), (0.9, 3.1, 0.75)], atol=1e-9)
    bottoms = [bar.get_y() + bar.get_height() for bar in bars]
    np.testing.assert_allclose(bottoms, [1.45, 1.45, 0.45], atol=1e-9)
    darkness = [1 - np.mean(bar.get_facecolor()[:3]) for bar in bars]
    assert darkness == sorted(darkness)
    assert (true.get_x(), true.get_width(), true.get_y() < -0.4) == (1.0, 2.0, True)
    assert [text.get_text() for text in axes.texts] == ["0.75"]
    curves = [patch.get_data() for patch in axes.patches if hasattr(patch, "get_data")]
    np.testing.assert_allclose([curve.values.mean() for curve in curves], [0.45 - 0.72, 1.45 - 0.24], atol=1e-6)
    np.testing.assert_array_equal(curves[0].edges, TIMES)
    assert axes.get_xlim() == (0.0, TIMES[-1])
    image = pixels(path)
    assert image.shape == (int((1.6 + 1.5) * 120), 1200, 3)
    assert share(image, plots.TRUTH) > 0.002
    assert share(image, plots.COLOURS[0]) > 0.002


def test_a_clip_without_events_boxes_or_scores(tmp_path, figures):
    path = plot_boxes(np.zeros((156, 3)), TIMES, LABELS, [], [], tmp_path / "clip.png")
    assert figures[0].axes[0].get_title().startswith("no true event")
    assert share(pixels(path), plots.TRUTH) == 0


def draw(folder, **changes):
    curve = PsdRoc(0.25, np.array([0.0, 20.0]), np.array([0.1, 0.4]), {"Cat": (np.array([5.0]), np.ones(1))})
    given = {
        "curves": {"cSEBBs": curve, "raw": curve},
        "per_class": SYSTEMS,
        "parameters": PARAMETERS,
        "table": ScoreTable(("a", "b", "c"), np.stack([clip_scores()] * 3), TIMES, LABELS),
        "boxes": {"a": [(0.0, 1.0, "Cat", 0.5)], "b": []},
        "events": {"a": [(0.0, 1.0, "Cat")]},
        "clips": ["c", "a"],
        "intervals": INTERVALS,
        "title": "devtest",
    }
    return write_figures(folder, **{**given, **changes})


def test_all_figures_of_a_data_set(tmp_path, figures):
    paths = draw(tmp_path)
    names = ["psd_roc.png", "psds_by_class.png", "parameters.png", "clips/c.png", "clips/a.png"]
    assert [str(path.relative_to(tmp_path)) for path in paths] == names
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")) == sorted(names)
    assert figures[0].axes[0].get_title() == "devtest: PSD-ROC"
    assert [figure.get_suptitle() for figure in figures[1:]] == [
        "devtest: PSDS1 by class",
        "devtest: cSEBBs parameters by class",
        "devtest: c",
        "devtest: a",
    ]
    assert [share(pixels(path), plots.TRUTH) > 0 for path in paths[3:]] == [False, True]
    assert all(0.3 < share(pixels(path), "white") < 0.99 for path in paths)


def test_figures_are_the_same_every_time(tmp_path):
    first, second = draw(tmp_path / "first", clips=["a"]), draw(tmp_path / "second", clips=["a"])
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_what_is_empty_is_not_drawn(tmp_path):
    assert draw(tmp_path, curves={}, per_class={}, parameters={}, clips=[]) == []
    with pytest.raises(ValueError, match="the score table has no 'x'"):
        draw(tmp_path, curves={}, per_class={}, parameters={}, clips=["x"])
    assert list(tmp_path.iterdir()) == []


def test_libraries_are_imported_where_they_are_used():
    code = """
import sys
import helpers.evaluation_report, helpers.submission
print([name for name in ("matplotlib", "sed_scores_eval", "rich", "pandas", "tqdm", "torch") if name in sys.modules])
"""
    root = Path(plots.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout == "[]\n"
