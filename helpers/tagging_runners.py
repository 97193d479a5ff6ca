"""Taggers as functions of waveforms: one way to call them, whatever computes them, and ensembles of them.

On a CPU a batch is worked off clip by clip, in as many threads as there are cores, each thread on one clip: the data of
a clip stay in the caches, and no core waits for another at the end of every layer.
"""

import bisect
import hashlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

PRECISIONS = ("f32", "bf16")
SET_BY_RUNNERS = ("training", "input_rate", "per_clip_range")  # settings of modules that say nothing about a network


@dataclass(frozen=True)
class Member:
    """One network of an ensemble, in evaluation mode.

    Attributes:
        name: what messages and files call it.
        mel: front end, waveforms [B, samples] -> features.
        net: network with ``tag``: features -> logits [B, classes] and embedding [B, dim].
    """

    name: str
    mel: nn.Module
    net: nn.Module


class Runner:
    """Waveforms [B, samples] float32 -> logits [B, classes] and embeddings [B, dim], numpy arrays.

    Args:
        workers: clips of a batch that are worked on at the same time; 1: all threads work on one clip, which then is
            ready soonest.

    Attributes:
        name: of the network.
        sample_rate: Hz of the waveforms.
        n_classes, embed_dim: sizes of the outputs.
        min_samples: fewest samples of a waveform.
        identity: tells the network with its weights and settings from others.
    """

    name: str
    sample_rate: int
    n_classes: int
    embed_dim: int
    min_samples: int
    identity: str

    def __init__(self, workers: int = 1):
        self.workers = workers
        self._pool = single_threaded(workers) if workers > 1 else None

    def __call__(self, waveforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See the class.

        Raises:
            ValueError: a waveform is shorter than ``min_samples``, or the network needs another length.
        """
        return self.submit(waveforms)()

    def submit(self, waveforms: np.ndarray) -> Callable:
        """Begins with a batch where there are several workers; the call of what is returned waits for the outputs."""
        if self._pool is None:
            outputs = self.run(waveforms)
            return lambda: outputs
        begun = [self._pool.submit(self.run, clip) for clip in np.split(waveforms, len(waveforms))]
        return lambda: tuple(map(np.concatenate, zip(*(clip.result() for clip in begun))))

    def run(self, waveforms):
        """The same for clips that are computed at once."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it runs")


class MemberRunner(Runner):
    """A runner of modules that are in memory.

    Args:
        member: the network.
        sample_rate: Hz of the waveforms; None: that of the front end.
        workers: see :class:`Runner`.
        precision: ``f32`` or ``bf16``.
    """

    def __init__(self, member: Member, sample_rate: int | None = None, workers: int = 1, precision: str = "f32"):
        super().__init__(workers)
        require_precision(precision)
        mel, net = member.mel.eval(), member.net.eval()
        self.name, self.mel, self.net = member.name, mel, net
        self.sample_rate = mel.input_rate = sample_rate or mel.sample_rate
        if hasattr(mel, "per_clip_range"):
            mel.per_clip_range = True  # what a clip gets must not depend on its neighbours
        self.n_classes, self.embed_dim = net.n_classes, net.embed_dim
        self.min_samples = -(-fewest_samples(mel, net) * self.sample_rate // mel.sample_rate)
        self.identity = f"{type(self).__name__} {precision} {member.name} {fingerprint(mel, net)}"


class TorchRunner(MemberRunner):
    """A tagger run by PyTorch; in bfloat16 are the matrix products and convolutions of the network.

    Args:
        member, sample_rate, workers, precision: see :class:`MemberRunner`.
        device: of torch; on another than the CPU a batch is computed at once.

    Raises:
        ValueError: unknown precision, or a device that is not there.
    """

    def __init__(self, member, sample_rate=None, workers=1, precision="f32", device="cpu"):
        self.device, self.reduced = usable_device(device), precision == "bf16"
        super().__init__(member, sample_rate, workers if self.device.type == "cpu" else 1, precision)
        self.mel.to(self.device)
        self.net.to(self.device)

    @torch.inference_mode()
    def run(self, waveforms):
        features = self.mel(torch.from_numpy(waveforms).to(self.device))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.reduced):
            outputs = self.net.tag(features)
        return tuple(output.float().cpu().numpy() for output in outputs)


class Ensemble:
    """Several taggers as one: the mean of their logits, as published, and their embeddings side by side.

    Args:
        runners: the members.

    Raises:
        ValueError: no member, or members of different numbers of classes or sample rates.
    """

    def __init__(self, runners: Sequence[Runner]):
        if not runners:
            raise ValueError("an ensemble needs at least 1 tagger, got none")
        for what, unit in (("n_classes", "classes"), ("sample_rate", "Hz")):
            first, *others = ((runner.name, getattr(runner, what)) for runner in runners)
            for name, value in others:
                if value != first[1]:
                    raise ValueError(f"ensemble: {name} has {value} {unit}, expected {first[1]} as {first[0]} has")
        self.runners = list(runners)
        self.sample_rate, self.n_classes = runners[0].sample_rate, runners[0].n_classes
        self.workers = max(runner.workers for runner in runners)
        self.embed_dim = sum(runner.embed_dim for runner in runners)
        self.min_samples = max(runner.min_samples for runner in runners)
        self.identity = " + ".join(runner.identity for runner in runners)

    def __call__(self, waveforms):
        """As :class:`Runner`."""
        return self.submit(waveforms)()

    def submit(self, waveforms):
        """As :meth:`Runner.submit`."""
        begun = [runner.submit(waveforms) for runner in self.runners]

        def outputs():
            logits, embeddings = zip(*(finish() for finish in begun))
            return np.mean(logits, axis=0, dtype=np.float32), np.concatenate(embeddings, axis=1)

        return outputs


def computed(runner, batches: Iterable[tuple[object, np.ndarray]]) -> Iterator[tuple[object, tuple]]:
    """Outputs of a runner for one batch after the other.

    Where several workers share the work, they begin with the next batches before the last clips of one are ready: so
    all of them are busy with batches of one clip, too.

    Args:
        runner: a :class:`Runner`, an :class:`Ensemble`, or any callable of waveforms.
        batches: pairs of anything and waveforms [B, samples].

    Yields:
        the same thing, and what the runner gives.
    """
    if getattr(runner, "workers", 1) < 2:
        yield from ((label, runner(waveforms)) for label, waveforms in batches)
        return
    begun, clips = deque(), 0
    for label, waveforms in batches:
        clips += len(waveforms)
        begun.append((label, len(waveforms), runner.submit(waveforms)))
        while begun and clips - begun[0][1] >= runner.workers:  # enough beyond the batch that is waited for
            label, count, outputs = begun.popleft()
            clips -= count
            yield label, outputs()
    for label, _, outputs in begun:
        yield label, outputs()


def make_runner(
    members: Sequence[Member], backend="torch", precision="f32", workers=None, device="cpu", onnx_folder=None
):
    """A runner of one network, or of an ensemble.

    Args:
        members: the networks; the waveforms have the highest of their sample rates.
        backend: ``torch``, ``onnx`` (onnxruntime, front end included) or ``openvino``.
        precision: ``f32``, or ``bf16`` where the backend has it.
        workers: clips that are worked on at the same time; None: one per thread of torch.
        device: of backend ``torch``.
        onnx_folder: where ``onnx`` keeps the exported networks.

    Raises:
        ValueError: unknown backend or precision; a package that is not installed; members that do not go together.
    """
    require_precision(precision)
    workers = torch.get_num_threads() if workers is None else workers
    rate = max((member.mel.sample_rate for member in members), default=None)
    if backend == "torch":
        return Ensemble([TorchRunner(member, rate, workers, precision, device) for member in members])
    if backend == "onnx":
        from helpers.onnx_export import OnnxRunner, exported

        if precision != "f32":
            raise ValueError(f"precision={precision}: backend=onnx computes in f32, backend=openvino also in bf16")
        return Ensemble([OnnxRunner(exported(member, onnx_folder), workers) for member in members])
    if backend == "openvino":
        from helpers.openvino_runner import OpenVinoRunner

        return Ensemble([OpenVinoRunner(member, rate, workers, precision) for member in members])
    raise ValueError(f"backend is '{backend}', expected one of torch, onnx, openvino")


def require_precision(precision):
    """Raises ValueError for an unknown precision."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision is '{precision}', expected one of {', '.join(PRECISIONS)}")


def usable_device(name) -> torch.device:
    """A device by its name.

    Raises:
        ValueError: there is none of this name.
    """
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError, TypeError) as error:  # torch without CUDA says so by an AssertionError
        there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        reason = str(error).splitlines()[0]
        raise ValueError(f"device is '{name}', expected one that is there: {', '.join(there)} ({reason})") from None


@torch.no_grad()
def fewest_samples(mel: nn.Module, net: nn.Module) -> int:
    """Fewest samples, at the rate of a front end, that are enough for it and for the network.

    A network that takes no clip of a single frame has ``min_frames``, its own or that of a part of it.
    """
    frames = max(getattr(part, "min_frames", 1) for part in net.modules())
    if frames == 1:
        return mel.min_samples
    device = next(mel.buffers()).device

    def given(samples):
        return mel.features(torch.zeros(1, samples, device=device)).shape[-1]

    return bisect.bisect_left(range(mel.sample_rate), frames, lo=mel.min_samples, key=given)


def fingerprint(*modules: nn.Module) -> str:
    """What tells modules from others: a digest of their structure, simple settings and tensors."""
    digest = hashlib.sha256()
    for module in modules:
        simple = {key: value for key, value in vars(module).items() if isinstance(value, int | float | str | tuple)}
        settings = sorted(item for item in simple.items() if item[0] not in SET_BY_RUNNERS)
        digest.update(f"{module} {settings}".encode())
        for name, tensor in itertools.chain(module.named_parameters(), module.named_buffers()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def single_threaded(workers) -> ThreadPoolExecutor:
    """Threads in which torch uses no further ones."""
    threads, ready = torch.get_num_threads(), threading.Barrier(workers)

    def begin():
        torch.get_num_threads()  # the first use in a thread takes over the common number, and would undo the next line
        torch.set_num_threads(1)

    pool = ThreadPoolExecutor(workers, "clips", initializer=begin)
    # All of them must have begun before the common number, which is 1 now, is set back.
    list(pool.map(lambda _: ready.wait(), range(workers)))
    torch.set_num_threads(threads)
    return pool
