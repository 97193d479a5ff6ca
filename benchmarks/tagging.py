"""Clips per second of audio tagging on a CPU, waveform in memory to probabilities, beside plain PyTorch.

    python -m benchmarks.tagging
    python -m benchmarks.tagging --arch mn10_as --batch 8 --repetitions 30 --threads 2

Clips of 10 s. The first row is plain eager PyTorch of the same front end and network: torch.stft, every layer by
itself, channels first, no gradients. The others are what ``inference`` runs, with ``backend=`` and ``precision=`` as
named; those whose package is not installed are left out. Weights are random, with batch norms calibrated on the clips,
so that outputs depend on the input. Variants take turns, each row is a median, and the speed relative to the first row
is what carries over to another machine. ``common`` is how many of the ten best classes are the same on average, which
says little with random weights: their 527 probabilities lie within a few hundredths.
"""

import argparse
import tempfile
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm

SECONDS, RATE, TOP = 10, 32000, 10
VARIANTS = (("torch", "f32"), ("torch", "bf16"), ("onnx", "f32"), ("openvino", "f32"), ("openvino", "bf16"))


def clips(count, seed=0):
    """Noise and tones whose level changes, [count, samples] float32."""
    rng = np.random.default_rng(seed)
    instants = np.arange(SECONDS * RATE) / RATE
    tones = [
        sum(np.sin(2 * np.pi * f * instants) / n for n, f in enumerate(rng.uniform(100, 9000, 12), start=1))
        for _ in range(count)
    ]
    level = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.1, 2, (count, 1)) * instants)
    return (0.1 * level * (np.array(tones) + rng.normal(0, 0.3, (count, len(instants))))).astype(np.float32)


@torch.no_grad()
def calibrate(net, features):
    """Gives all batch norms the statistics of these features."""
    norms = [module for module in net.eval().modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    net.tag(features)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.eval()


def plain(mel, net):
    """The same network as a function of waveforms, as it is commonly written."""
    net.requires_grad_(False)
    kernel = torch.tensor([[[-0.97, 1.0]]])

    def features(waveform):
        waveform = F.conv1d(waveform[:, None], kernel)[:, 0]
        window = len(mel.window)
        spectrum = torch.stft(waveform, mel.n_fft, mel.hopsize, window, mel.window, return_complex=True)
        power = spectrum.real**2 + spectrum.imag**2
        return (((mel.bank @ power + 1e-5).log() + 4.5) / 5)[:, None]

    def run(waveforms):
        # No parameter wants a gradient, so nothing is recorded; norms are folded into kernels only without this.
        with torch.enable_grad():
            x = features(torch.from_numpy(waveforms))
            if not hasattr(net, "features"):
                return net.tag(x)[0].sigmoid().numpy()
            for layer in net.features:
                x = layer(x)
            return net.classifier(x).sigmoid().numpy()

    return run


def probabilities(runner):
    """The runner as a function of waveforms."""
    return lambda waveforms: torch.from_numpy(runner(waveforms)[0]).sigmoid().numpy()


def variants(arch, batch, waveforms, folder):
    """Name -> function of waveforms."""
    from helpers.tagging_runners import Member, make_runner
    from models.tagging import build_tagger

    torch.manual_seed(0)
    mel, net = build_tagger(arch, {"dymn": {"temperature": 1.0}})
    calibrate(net, mel.eval()(torch.from_numpy(waveforms)))
    found, workers = {"plain PyTorch": plain(mel, net)}, 1 if batch == 1 else None
    for backend, precision in VARIANTS:
        try:
            runner = make_runner([Member(arch, mel, net)], backend, precision, workers, onnx_folder=folder)
        except ValueError as error:
            print(f"({backend} {precision}: {error})")
            continue
        found[f"{backend} {precision}"] = probabilities(runner)
    return found


def agreement(reference, found):
    """Largest difference, and mean number of the ten best classes of every clip that are the same."""
    best = [np.argsort(-each, axis=1, kind="stable")[:, :TOP] for each in (reference, found)]
    common = np.mean([len(set(one) & set(other)) for one, other in zip(*best)])
    return float(np.abs(found - reference).max()), float(common)


def measure(arch, batch, repetitions, folder):
    """Rows: name, clips per second, speed relative to the first row, largest difference, common classes."""
    waveforms = clips(batch)
    functions = variants(arch, batch, waveforms, folder)
    outputs = {name: function(waveforms) for name, function in functions.items()}
    seconds = {name: [] for name in functions}
    for _ in range(repetitions):
        for name, function in functions.items():
            start = time.perf_counter()
            function(waveforms)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    first = next(iter(functions))
    for name, median in medians.items():
        yield name, batch / median, medians[first] / median, *agreement(outputs[first], outputs[name])


def main(argv=None):
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=["mn04_as", "mn10_as", "mn20_as", "dymn10_as"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8], help="clips (default: 1 and 8)")
    parser.add_argument("--repetitions", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    print(f"| {options.threads} threads, 10 s clips | batch | clips/s | relative | largest difference | common |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for arch in options.arch:
            for batch in options.batch:
                for name, speed, relative, difference, common in measure(arch, batch, options.repetitions, folder):
                    row = f"{arch}, {name} | {batch} | {speed:.1f} | {relative:.2f} | {difference:.0e} | {common:.1f}"
                    print(f"| {row} |", flush=True)


if __name__ == "__main__":
    main()
