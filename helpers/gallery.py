"""The figures of a tested run: clips with their detections, PSD-ROC curves, PSDS by class."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from helpers.evaluators import EvaluatorSet
from helpers.files import clip_id
from helpers.metrics import Psds
from helpers.plots import plot_class_psds, plot_clip, plot_psd_roc

CURVE = "psds1_sed_scores_eval"


def pick(names, n):
    """``n`` of the names, evenly spread over them in alphabetic order."""
    names = sorted(names)
    return names if n >= len(names) else [names[round(i * (len(names) - 1) / max(n - 1, 1))] for i in range(n)]


def write_figures(folder, evaluators: EvaluatorSet, mels: Iterable[tuple[str, object]], role="student") -> list[Path]:
    """Draws what the evaluators of a test have seen.

    Args:
        folder: where the files go.
        evaluators: of the test, after it.
        mels: (file name, mel spectrogram [bands, frames] in dB) of the clips to draw.
        role: whose detections.

    Returns:
        paths of the files.
    """
    folder = Path(folder)
    paths = []
    curves = {name: curve for name, curve in evaluators.curves().items() if name.endswith(f"/{CURVE}")}
    if curves:
        paths.append(plot_psd_roc({_role(name): curve for name, curve in curves.items()}, folder / "psd_roc.png"))
        classes: Mapping = evaluators.per_class()
        bars = {_role(name): classes[name] for name in curves}
        paths.append(plot_class_psds(bars, folder / "psds_by_class.png", title="PSDS1 by class", xlabel="PSDS1"))
    psds = next((e for source in evaluators[role].values() for e in source if isinstance(e, Psds)), None)
    table = psds.collector.table() if psds else None
    if table is None:
        return paths
    row = {clip: i for i, clip in enumerate(table.clips)}
    for file, mel in mels:
        clip = clip_id(file)
        if clip in row:
            events = psds.reference.events.get(clip, ())
            scores = table.scores[row[clip]]
            path = folder / "clips" / f"{clip}.png"
            paths.append(plot_clip(mel, events, scores, table.labels, path, timestamps=table.timestamps, title=clip))
    return paths


def _role(name):
    return name.partition("/")[0]
