"""Tiny tagging data sets in their published layouts: noise whose loudness tells the clips apart."""

import csv
import io

import h5py
import numpy as np
import soundfile

from data_util.class_tables import audioset_ids, class_names

RATE = 32000
SECONDS = 0.5


def noise(seconds=SECONDS, seed=0, rate=RATE, channels=None):
    """Uniform noise in [-0.5, 0.5]; [samples] or [samples, channels]."""
    samples = round(seconds * rate)
    shape = samples if channels is None else (samples, channels)
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)


def write(path, seconds=SECONDS, seed=0, rate=RATE, channels=None, **options):
    """Writes noise; returns the path as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(seconds, seed, rate, channels), rate, **options)
    return str(path)


def audio_bytes(kind="FLAC", seconds=SECONDS, seed=0, rate=RATE, channels=None):
    """Noise as bytes of a file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(seconds, seed, rate, channels), rate, format=kind)
    return buffer.getvalue()


def write_packed(path, blobs, targets, names=None, **attributes):
    """A packed file of these bytes and targets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = names or [f"Yid{number:09d}.mp3" for number in range(len(blobs))]
    with h5py.File(path, "w") as file:
        file["audio_name"] = np.array(names, dtype="S20")
        file["target"] = targets
        audio = file.create_dataset("mp3", (len(blobs),), dtype=h5py.vlen_dtype(np.uint8))
        for row, blob in enumerate(blobs):
            audio[row] = np.frombuffer(blob, dtype=np.uint8)
        file.attrs.update(attributes)
    return path


def packed_labels(rows, classes):
    """Class numbers per clip as packed bits."""
    hot = np.zeros((len(rows), classes), dtype=bool)
    for number, row in enumerate(rows):
        hot[number, row] = True
    return np.packbits(hot, axis=1)


def write_table(path, columns, rows, delimiter=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([columns, *rows])
    return path


def make_audioset(root, clips=(3, 4, 2), kind="mp3"):
    """Segment tables and audio of the three parts; clip i of a part has classes i and 526 - i."""
    ids, names = audioset_ids(), []
    for part, count in zip(("balanced_train", "unbalanced_train", "eval"), clips):
        rows = []
        for number in range(count):
            name = f"{part[0]}-_{number:08d}"
            names.append(name)
            rows.append(f'{name}, 30.000, 40.000, "{ids[number]},{ids[526 - number]}"')
            write(root / "audio" / f"{part}_segments" / f"Y{name}.{kind}", seed=len(names))
        table = root / f"{part}_segments.csv"
        table.write_text("\n".join(["# Segments csv", f"# num_ytids={count}", "# YTID, start_seconds, ...", *rows, ""]))
    return names


def make_fsd50k(root):
    """Four dev clips (one of them for validation) and two eval clips."""
    truth = root / "FSD50K.ground_truth"
    dev = [
        (1, "Bark,Dog", "train"),
        (2, "Rain", "train"),
        (3, "Meow,Cat,Animal", "val"),
        (4, "Zipper_(clothing)", "train"),
    ]
    write_table(truth / "dev.csv", ("fname", "labels", "mids", "split"), [(n, labels, "", s) for n, labels, s in dev])
    write_table(truth / "eval.csv", ("fname", "labels", "mids"), [(5, "Accordion", ""), (6, "Bark", "")])
    for number in range(1, 7):
        folder = root / f"FSD50K.{'dev' if number < 5 else 'eval'}_audio"
        write(folder / f"{number}.wav", seconds=0.3 * number, seed=number, rate=44100)


def make_esc50(root, per_fold=2, rate=44100, folder="audio"):
    """Clips of the first classes in every fold."""
    classes, rows = class_names("esc50"), []
    for fold in range(1, 6):
        for target in range(per_fold):
            name = f"{fold}-{100 * fold + target}-A-{target}.wav"
            rows.append((name, fold, target, classes[target], "False", 100 * fold + target, "A"))
            write(root / folder / name, seed=100 * fold + target, rate=rate, subtype="PCM_16")
    write_table(root / "meta" / "esc50.csv", "filename fold target category esc10 src_file take".split(), rows)


def make_dcase20(root, scenes=("tram", "airport", "park")):
    """A training and an evaluation clip of every scene."""
    for part in ("train", "evaluate"):
        rows = [(f"audio/{scene}-lisbon-{part}-a.wav", scene) for scene in scenes]
        write_table(root / "evaluation_setup" / f"fold1_{part}.csv", ("filename", "scene_label"), rows, "\t")
        for seed, (name, _) in enumerate(rows):
            write(root / name, seed=seed, rate=44100, subtype="PCM_24")


def make_openmic(root):
    """Two training clips and one test clip with two or three annotated instruments each."""
    labels = [
        ("000046_3840", "clarinet", 0.17), ("000046_3840", "flute", 0.0), ("000135_483840", "bass", 0.9),
        ("000135_483840", "mallet_percussion", 0.6), ("000135_483840", "voice", 0.3), ("000139_119040", "drums", 1.0),
    ]  # fmt: skip
    rows = [(*row, 3) for row in labels]
    write_table(
        root / "openmic-2018-aggregated-labels.csv", "sample_key instrument relevance num_responses".split(), rows
    )
    (root / "partitions").mkdir(parents=True)
    (root / "partitions" / "split01_train.csv").write_text("000135_483840\n000046_3840\n")
    (root / "partitions" / "split01_test.csv").write_text("000139_119040\n")
    for seed, key in enumerate(("000046_3840", "000135_483840", "000139_119040")):
        write(root / "audio" / key[:3] / f"{key}.ogg", seed=seed, rate=44100)


def make_folder(root, classes=("cat", "dog", "owl"), clips=5):
    """One sub-folder of wav files per class."""
    for seed, name in enumerate(classes):
        for number in range(clips):
            write(root / name / f"{number}.wav", seed=100 * seed + number, rate=16000)
