"""Which parts of a tagging data set are there, and how large they are beside the published ones."""

from data_util.tagging import DATASETS, evaluation_set
from data_util.task4_files import Check

# Clips of the parts that are the same for everybody: not of AudioSet, whose videos vanish; of AudioSet-strong, those of
# the tables.
PUBLISHED = {
    "audioset_strong": {"train": 103463, "test": 16996},
    "fsd50k": {"train": 36796, "val": 4170, "test": 10231},
    "esc50": {"train": 1600, "test": 400},
    "openmic": {"train": 14915, "test": 5085},
}


def check(name, root=None, **options) -> list[Check]:
    """A line for every part of a data set.

    Args:
        name, root: as in :func:`data_util.tagging.evaluation_set`.
        **options: further options of that.

    Raises:
        ValueError: unknown data set.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset is '{name}', expected one of {', '.join(DATASETS)}")
    lines = []
    for part in DATASETS[name].splits:
        expected = PUBLISHED.get(name, {}).get(part)
        try:
            clips = evaluation_set(name, root, **{**options, "split": part, "cache_path": None})
        except (FileNotFoundError, ValueError) as error:
            lines.append(Check(f"{name} {part}", str(root), 0, None, expected, str(error)))
            continue
        found, missing = len(clips), getattr(clips, "without_audio", ())
        listed = found + len(missing)
        problems = [f"{listed} clips, the published set has {expected}"] if expected not in (None, listed) else []
        if missing:
            problems.append(f"{len(missing)} have no audio, the first is {missing[0]}")
        lines.append(Check(f"{name} {part}", str(root), found, listed, expected, "; ".join(problems)))
    return lines
