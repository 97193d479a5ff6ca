"""Search in an index of sounds: latency, recall and memory by size, and how many clips a second are indexed.

    python -m benchmarks.search                                   # 10,000 and 100,000 vectors of 960 dimensions
    python -m benchmarks.search --sizes 1000000 --kinds numpy flat ivf
    python -m benchmarks.search --sizes --encoder package.module:function --clips 500

Vectors are drawn around random centres, twenty to a centre, and so are the queries, which are none of the vectors:
embeddings of sounds lie in clusters, while vectors without any structure have no neighbours that a search could
approximate. One query is searched at a time, as on the page. ``memory`` is how much the process grows by the search
itself, pages of files on disk that it has read included. Every row is measured in a process of its own.

Indexing is measured on noise in wav files of 44.1 kHz, from disk to the written index, beside plain code: read a file,
resample it, pad it, encode it, one after the other. ``--encoder`` names a function without arguments that gives an
encoder (see helpers/sound_building.py), ``--plain-encoder`` the one of the plain code, where that is to be another;
without them, a spectrum stands in, so that reading is most of the costs. Both take turns, and the best of three counts.
"""

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from helpers.nearest import BLOCK, exact, recall_of, searcher, write_faiss

KINDS = ("numpy", "flat", "ivf", "hnsw")
PER_CENTRE, SPREAD, QUERIES, TOP, ROUNDS = 20, 0.7, 100, 10, 3


def draw(count, dim, rng, centres):
    """Unit vectors [count, dim] around centres drawn at random from [n, dim]."""
    noise = rng.standard_normal((count, dim), dtype=np.float32) * np.float32(SPREAD / np.sqrt(dim))
    vectors = centres[rng.integers(len(centres), size=count)] + noise
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_vectors(path, size, dim):
    """Writes vectors, and returns queries [100, dim]."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(size // PER_CENTRE, 1), dim), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(size, dim))
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        vectors[start:stop] = draw(stop - start, dim, rng, centres)
    vectors.flush()
    return draw(QUERIES, dim, rng, centres)


def resident_mib():
    """Memory of this process, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure_search(folder, kind):
    """One row of the table of searches; vectors, queries and truth lie in the folder."""
    folder = Path(folder)
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    queries, truth = np.load(folder / "queries.npy"), np.load(folder / "truth.npy")
    path, about, start = folder / f"{kind}.faiss", {"kind": kind}, time.perf_counter()
    if kind != "numpy" and not path.is_file():
        return write_faiss(path, vectors, kind) | {"built": time.perf_counter() - start}
    before = resident_mib()
    search = searcher(vectors, path, kind)
    found, seconds = [], []
    for number, query in enumerate(queries):
        start = time.perf_counter()
        found.append(search(query[None], TOP)[1][0])
        if number:  # the first one loads
            seconds.append(time.perf_counter() - start)
    return about | {
        "median": float(np.median(seconds)), "worst": float(np.quantile(seconds, 0.95)),
        "found": recall_of(np.array(found), truth), "memory": resident_mib() - before,
    }  # fmt: skip


def in_process(*arguments):
    """A measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.search", "--measure", *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def search_table(sizes, dim, kinds):
    """Prints a row per size and kind of search."""
    print(
        f"| {dim} dimensions, {TOP} nearest | search | ms per query | 95 % | recall@{TOP} | memory MiB | built in s |"
    )
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            queries = make_vectors(Path(folder) / "vectors.npy", size, dim)
            vectors = np.load(Path(folder) / "vectors.npy", mmap_mode="r")
            np.save(Path(folder) / "queries.npy", queries)
            np.save(Path(folder) / "truth.npy", exact(vectors, queries, TOP)[1])
            del vectors
            for kind in kinds:
                built = in_process(folder, kind) if kind != "numpy" else {}
                row = in_process(folder, kind)
                (Path(folder) / f"{kind}.faiss").unlink(missing_ok=True)
                name = f"{kind} {built['effort']}" if "effort" in built else kind
                print(
                    f"| {size:,} | {name} | {1000 * row['median']:.2f} | {1000 * row['worst']:.2f} "
                    f"| {row['found']:.3f} | {row['memory']:.0f} | {built.get('built', 0):.1f} |",
                    flush=True,
                )


# -- indexing ---------------------------------------------------------------------------------------------------------
class Spectrum:
    """Magnitudes of 960 bins of the spectrum of 10 s."""

    sample_rate, dim, max_seconds, identity = 32000, 960, 10.0, "spectrum"

    def __call__(self, waveforms):
        magnitudes = [np.abs(np.fft.rfft(one.reshape(-1, 2000))).mean(0)[: self.dim] for one in waveforms]
        return np.stack([one / np.linalg.norm(one) for one in magnitudes]).astype(np.float32)


def named_encoder(name):
    """An encoder by ``module:function``; None: the spectrum."""
    if name is None:
        return Spectrum()
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)()


def plainly(paths, encoder):
    """Embeds files one after the other, as it is commonly written."""
    from data_util.audio import read

    samples = int(encoder.max_seconds * encoder.sample_rate)
    vectors = []
    for path in paths:
        audio = read(path, encoder.sample_rate, resample=True)[:samples]
        vectors.append(encoder(np.pad(audio, (0, samples - len(audio)))[None])[0])
    return np.stack(vectors)


def timed(work):
    """Wall and processor seconds of ``work()``."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def indexing_table(encoder, plain_encoder, clips, seconds):
    """Prints clips per second of plain code and of the index."""
    import soundfile

    from data_util.streaming import find_audio, stream
    from helpers.sound_building import build_index

    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        rng, sounds = np.random.default_rng(0), Path(folder) / "sounds"
        sounds.mkdir()
        for number in range(clips):
            soundfile.write(sounds / f"{number:06}.wav", rng.uniform(-0.3, 0.3, round(seconds * 44100)), 44100)
        paths = find_audio(sounds)
        plainly(paths[:2], plain_encoder)
        works = {
            "plain, one file after the other": lambda: plainly(paths, plain_encoder),
            "index": lambda: build_index(Path(folder) / "index", sounds, paths, encoder, stream),
        }
        taken = {name: [] for name in works}
        for _ in range(ROUNDS):
            for name, work in works.items():
                shutil.rmtree(Path(folder) / "index", ignore_errors=True)
                taken[name].append(timed(work))
        title = f"{clips} clips of {seconds:g} s, {cores} cores, {encoder.identity}"
        print(f"| {title} | clips/s | clips/s per core | clips per processor second |")
        print("| --- | ---: | ---: | ---: |")
        for name, rounds in taken.items():
            wall, processor = np.min(rounds, axis=0)
            print(f"| {name} | {clips / wall:.1f} | {clips / wall / cores:.1f} | {clips / processor:.1f} |", flush=True)


def main(argv=None):
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", type=int, default=[10_000, 100_000], help="(default: %(default)s)")
    parser.add_argument("--dim", type=int, default=960, help="(default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="(default: all)")
    parser.add_argument("--encoder", help="module:function that gives an encoder")
    parser.add_argument("--plain-encoder", help="the same for the plain code (default: --encoder)")
    parser.add_argument("--clips", type=int, default=200, help="that are indexed; 0: none (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a clip (default: %(default)s)")
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.measure:
        return print(json.dumps(measure_search(*options.measure)))
    if options.sizes:
        search_table(options.sizes, options.dim, options.kinds)
    if options.clips:
        encoders = named_encoder(options.encoder), named_encoder(options.plain_encoder or options.encoder)
        indexing_table(*encoders, options.clips, options.seconds)


if __name__ == "__main__":
    main()
