"""Clips per second of audio tagging on a CPU, waveform in memory to probabilities, beside plain PyTorch.

    python -m benchmarks.tagging
    python -m benchmarks.tagging --arch mn10_as --batch 8 --rounds 30 --threads 2 --audio recordings/*.wav
    python -m benchmarks.tagging --arch outputs/audio_tagging/RUN/checkpoints/best.ckpt --audio recordings/*.wav

Clips of 10 s. The first row is plain eager PyTorch of the same front end and network, as it is commonly written:
torch.stft, every layer by itself, channels first, inference mode, one batch after the other by all threads. The others
are what ``inference`` runs, with ``backend=`` and ``precision=`` as named: a clip per thread, several batches begun at
the same time where they are small. ``one clip at a time`` waits for a clip, which has all threads, before the next.
Backends whose package is not installed are left out.

Every row is a process of its own, since the thread pools of one library disturb those of another. The processes take
turns, a row is the median over the rounds, and the speed relative to the first row is what carries over to another
machine. The weights of a run are as they are. Those of an architecture are random: batch norms are calibrated on eight
clips and as many of noise, and the last layer is scaled so that the logits of the 527 classes have mean -6 and standard
deviation 2, about as those of trained taggers.

``difference`` is the largest one of probabilities. ``common`` is how many of the ten best classes are the same, mean of
the clips, of which there are eight or as many as recordings; ``exchange`` is how much less probable, by the first row,
a class among the ten is at most than the one it replaces.
"""

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm

SECONDS, RATE, TOP, CLIPS = 10, 32000, 10, 8
LOGIT_MEAN, LOGIT_DEVIATION = -6.0, 2.0
TURN = 0.4  # seconds of a turn, about
PLAIN = "plain PyTorch"
VARIANTS = {
    "torch f32": ("torch", "f32"),
    "torch bf16": ("torch", "bf16"),
    "onnx f32": ("onnx", "f32"),
    "openvino f32": ("openvino", "f32"),
    "openvino bf16": ("openvino", "bf16"),
}
ALONE = {f"{name}, one clip at a time": VARIANTS[name] for name in ("openvino f32", "openvino bf16")}


def clips(paths=(), seed=0):
    """Recordings, or noise and tones whose level changes, [CLIPS or number of recordings, samples] float32."""
    if paths:
        from benchmarks.decoding import recording

        return np.stack([recording(paths[number % len(paths)]) for number in range(max(CLIPS, len(paths)))])
    rng = np.random.default_rng(seed)
    instants = np.arange(SECONDS * RATE) / RATE
    tones = [
        sum(np.sin(2 * np.pi * f * instants) / n for n, f in enumerate(rng.uniform(100, 9000, 12), start=1))
        for _ in range(CLIPS)
    ]
    level = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.1, 2, (CLIPS, 1)) * instants)
    return (0.1 * level * (np.array(tones) + rng.normal(0, 0.3, (CLIPS, len(instants))))).astype(np.float32)


def noise(count=CLIPS, seed=1):
    """White noise, [count, samples] float32, as the check of exported files takes."""
    return (0.1 * np.random.default_rng(seed).standard_normal((count, SECONDS * RATE))).astype(np.float32)


@torch.no_grad()
def calibrate(net, features):
    """Gives all batch norms the statistics of these features, and the logits of the first clips their distribution."""
    norms = [module for module in net.eval().modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    net.tag(features)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.eval()
    last = [module for module in net.modules() if isinstance(module, torch.nn.Linear)][-1]
    logits = net.tag(features[:CLIPS])[0]
    last.weight *= LOGIT_DEVIATION / logits.std()
    last.bias.copy_((last.bias - logits.mean()) * LOGIT_DEVIATION / logits.std() + LOGIT_MEAN)


def plain(mel, net):
    """The same network as a function of waveforms, as it is commonly written."""
    kernel = torch.tensor([[[-0.97, 1.0]]])

    def features(waveform):
        waveform = F.conv1d(waveform[:, None], kernel)[:, 0]
        window = len(mel.window)
        spectrum = torch.stft(waveform, mel.n_fft, mel.hopsize, window, mel.window, return_complex=True)
        power = spectrum.real**2 + spectrum.imag**2
        return (((mel.bank @ power + 1e-5).log() + 4.5) / 5)[:, None]

    @torch.inference_mode()
    def run(waveforms):
        x = features(torch.from_numpy(waveforms))
        # Norms by themselves, and no other memory format: what the networks of this project do on a CPU is left out.
        with (
            mock.patch("models.convolutions.folds", return_value=False),
            mock.patch("models.dymn.blocks.folds", return_value=False),
        ):
            if not hasattr(net, "features"):
                return net.tag(x)[0].sigmoid().numpy()
            for layer in net.features:
                x = layer(x)
            return net.classifier(x).sigmoid().numpy()

    return run


def network(arch, paths=()):
    """Front end and network of the checkpoint of a run, or of an architecture with random weights."""
    from helpers.checkpoints import config_of_run
    from helpers.tagging_settings import content_of_run
    from models.tagging import build_tagger, load_tagger

    if content := content_of_run(arch):
        config = config_of_run(content)
        mel, net = build_tagger(config["arch"], config, len(content["classes"]), config["pooling"])
        load_tagger(net, config["arch"], arch, ".")
        return mel.eval(), net.eval()
    torch.manual_seed(0)
    mel, net = build_tagger(arch, {"dymn": {"temperature": 1.0}})
    waveforms = np.concatenate([clips(paths)[:CLIPS], noise()])  # on sounds unlike these the network would explode
    calibrate(net, mel.eval()(torch.from_numpy(waveforms)))
    return mel, net


def build(arch, name, threads, folder, paths):
    """Function of a list of batches of waveforms [B, samples] that gives their probabilities.

    Raises:
        ValueError: a package is not installed.
    """
    from helpers.tagging_runners import Member, computed, make_runner

    torch.set_num_threads(threads)
    mel, net = network(arch, paths)
    if name == PLAIN:
        run = plain(mel, net)
        return lambda batches: [run(batch) for batch in batches]
    backend, precision = {**VARIANTS, **ALONE}[name]
    workers = 1 if name in ALONE else None
    runner = make_runner([Member(Path(arch).stem, mel, net)], backend, precision, workers, onnx_folder=folder)

    def run(batches):
        return [torch.from_numpy(logits).sigmoid().numpy() for _, (logits, _) in computed(runner, enumerate(batches))]

    return run


def serve(pipe, *options):
    """A process: sends probabilities of all clips or an error; then, for (batch, batches), seconds per batch."""
    paths = options[-1]
    try:
        function = build(*options)
        waveforms = clips(paths)
        pipe.send(np.concatenate(function(list(waveforms[:, None]))))
    except ValueError as error:
        return pipe.send(str(error))
    while (turn := pipe.recv()) is not None:
        batch, count = turn
        batches = [np.take(waveforms, range(n, n + batch), axis=0, mode="wrap") for n in range(0, count * batch, batch)]
        function(batches[:1])  # wakes the threads
        start = time.perf_counter()
        function(batches)
        pipe.send((time.perf_counter() - start) / count)


def take_turns(pipes, batch, rounds):
    """Median seconds per batch of every process."""
    seconds = {name: [] for name in pipes}
    for pipe in pipes.values():
        pipe.send((batch, 2))
    counts = {name: max(2, round(TURN / pipe.recv())) for name, pipe in pipes.items()}
    for _ in range(rounds):
        for name, pipe in pipes.items():
            pipe.send((batch, counts[name]))
            seconds[name].append(pipe.recv())
    return {name: float(np.median(values)) for name, values in seconds.items()}


def agreement(reference, found):
    """Largest difference, number of common classes among the ten best, and the worst exchange; see the module."""
    best = [np.argsort(-each, axis=1, kind="stable")[:, :TOP] for each in (reference, found)]
    common = np.mean([len(set(one) & set(other)) for one, other in zip(*best)])
    tenth, last = (np.take_along_axis(reference, each, axis=1).min(1) for each in best)
    return float(np.abs(found - reference).max()), float(common), float((tenth - last).max())


def measure(arch, options, folder):
    """Rows: name, batch, clips per second, speed relative to the first row, and what :func:`agreement` says."""
    context, pipes, processes = multiprocessing.get_context("spawn"), {}, []
    outputs = {}
    for name in (PLAIN, *VARIANTS, *ALONE):
        pipe, other = context.Pipe()
        arguments = (other, arch, name, options.threads, folder, options.audio)
        processes.append(context.Process(target=serve, args=arguments, daemon=True))
        processes[-1].start()
        found = pipe.recv()
        if isinstance(found, str):
            print(f"({name}: {found})")
        else:
            pipes[name], outputs[name] = pipe, found
    for batch in options.batch:
        chosen = {name: pipe for name, pipe in pipes.items() if batch == 1 or name not in ALONE}
        seconds = take_turns(chosen, batch, options.rounds)
        for name, median in seconds.items():
            yield name, batch, batch / median, seconds[PLAIN] / median, *agreement(outputs[PLAIN], outputs[name])
    for pipe in pipes.values():
        pipe.send(None)
    for process in processes:
        process.join()


def main(argv=None):
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--arch",
        nargs="+",
        default=["mn04_as", "mn10_as", "mn20_as", "dymn10_as"],
        help="architectures, or checkpoints of runs",
    )
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8], help="clips (default: 1 and 8)")
    parser.add_argument("--rounds", type=int, default=15, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--audio", nargs="+", type=Path, default=(), help="recordings (default: noise and tones)")
    options = parser.parse_args(argv)
    print(f"| {options.threads} threads, 10 s clips | batch | clips/s | relative | difference | common | exchange |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for arch in options.arch:
            for name, batch, speed, relative, difference, common, exchange in measure(arch, options, folder):
                row = f"{batch} | {speed:.1f} | {relative:.2f} | {difference:.0e} | {common:.2f} | {exchange:.0e}"
                print(f"| {Path(arch).name}, {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
