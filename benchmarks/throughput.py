"""Clips per second of every front end and of one stage-1 training step per architecture, with peak memory.

    python -m benchmarks.throughput                       # CPU, or the first GPU where there is one
    python -m benchmarks.throughput --arch atst_frame beats --batch 8 --threads 1

Times are medians over repetitions after one warm-up, on 10 s clips of noise with random weights; every row is also
given relative to the first of its table, which is what carries over to another machine. Each row is measured in a
process of its own, so that peak memory is its own.
"""

import argparse
import json
import subprocess
import sys
import time

import numpy as np
import torch

SECONDS, RATE, CLASSES = 10, 16000, 27


def median_seconds(work, repetitions, device):
    """Median duration of ``work()`` after a warm-up."""
    durations = []
    for _ in range(repetitions + 1):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        durations.append(time.perf_counter() - start)
    return float(np.median(durations[1:]))


def peak_mib(device):
    """Peak memory of this process so far in MiB: allocated on the GPU, resident on a CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def front_end(arch, batch, device):
    """A function that computes features of a batch."""
    import models
    from models.frontends import CrnnMel

    mel = CrnnMel() if arch == "CNN branch" else models.build(arch)[0]
    mel.input_rate = RATE
    mel = mel.to(device).eval()
    audio = torch.randn(batch, SECONDS * RATE, device=device) / 10

    def work():
        with torch.no_grad():
            mel(audio)

    return work


def training_step(arch, batch, device):
    """A function that does one optimizer step of stage 1, teacher and moving average included."""
    from helpers.ema import ema_update
    from helpers.mean_teacher import MeanTeacher, Stage
    from helpers.objective import Losses, Rules, combine
    from helpers.optim import make_optimizer
    from helpers.views import Recipe
    from models.frontends import CnnInput
    from models.sed import build_detectors

    parts = build_detectors(arch, {}, "resources", sample_rate=RATE, random_weights=True)
    stage = Stage(1, Recipe(), Losses(), Rules(), (0.5, 0.25, 0.12, 0.1, 0.1, 1.5), 14000, 2.0)
    module = MeanTeacher(*parts[:4], CnnInput(parts.scaler), stage, None, None, {})
    module = module.to(device).train()
    optimizer = make_optimizer(module.student.named_parameters(), layer_groups=module.student.layer_groups())
    rng = np.random.default_rng(0)
    frames = 156
    samples = {
        "audio": torch.randn(batch, SECONDS * RATE, device=device) / 10,
        "strong": torch.rand(batch, CLASSES, frames, device=device),
        "weak": torch.rand(batch, CLASSES, device=device).round(),
        "pseudo": torch.rand(batch, CLASSES, frames, device=device),
        "valid": torch.ones(batch, CLASSES, dtype=torch.bool, device=device),
        "source": torch.arange(batch) % 5,
    }
    precision = dict(device_type=device, dtype=torch.float16, enabled=device == "cuda")

    def work():
        with torch.autocast(**precision):
            views = stage.views(*module.features(samples["audio"]), samples, rng)
            terms = stage.terms(*module.predict(views), views)
        total = combine(terms, stage.weights(1000, mixed=views.mix is not None)[0])
        ema_update(module.teacher.parameters(), module.student.parameters(), 1000)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    return work


WHAT = {"front end": front_end, "training step": training_step}


def measure(what, arch, batch, device, repetitions, threads):
    """One row: seconds per batch and peak memory; ``error`` when it does not run."""
    torch.manual_seed(0)
    if threads:
        torch.set_num_threads(threads)
    seconds = median_seconds(WHAT[what](arch, batch, device), repetitions, device)
    return {"clips_per_second": batch / seconds, "peak_mib": peak_mib(device)}


def main(argv=None):
    """Prints one table per kind of work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=["atst_frame", "fpasst", "beats", "mn04_as", "mn10_as"])
    parser.add_argument("--batch", type=int, default=6, help="clips per batch (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's choice")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "ARCH"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    common = (options.batch, options.device, options.repetitions, options.threads)
    if options.one:
        print(json.dumps(measure(*options.one, *common)))
        return
    flags = [f"--{name}={value}" for name, value in zip(("batch", "device", "repetitions", "threads"), common)]
    for what in WHAT:
        print(f"\n| {what} ({options.device}, batch {options.batch}) | clips/s | relative | peak MiB |")
        print("| --- | --- | --- | --- |")
        first = None
        for arch in (["CNN branch"] if what == "front end" else []) + options.arch:
            command = [sys.executable, "-m", "benchmarks.throughput", "--one", what, arch, *flags]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"| {arch} | failed: {done.stderr.strip().splitlines()[-1]} | | |")
                continue
            row = json.loads(done.stdout.splitlines()[-1])
            first = first or row["clips_per_second"]
            relative = row["clips_per_second"] / first
            print(f"| {arch} | {row['clips_per_second']:.2f} | {relative:.2f} | {row['peak_mib']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
