"""Taggers run by OpenVINO: as fast as onnxruntime in float32, and the only one that gains much from bfloat16.

Eight-bit integers were tried, with static ranges per tensor and scales per output channel: on a CPU with VNNI the
conversions between layers take back what the products gain, and fewer of the ten best classes stay than in bfloat16.
"""

import threading
import warnings
from functools import cache

import torch
from torch import nn

from helpers.onnx_export import required
from helpers.tagging_runners import MemberRunner, single_threaded

EXAMPLE_SECONDS = 1.0  # of the waveform that the network is traced with
PRECISIONS = {"f32": "f32", "bf16": "bf16"}  # OpenVINO's names; bf16 has no effect on a CPU without it


@cache
def _core(openvino):
    """The one core of this process, never released.

    It gives the thread that makes it another stack for signal handlers, and frees that stack with the last network
    that holds on to it. Where another thread lets go of that one, the next signal that is handled ends the process.
    """
    return openvino.Core()


class _Tag(nn.Module):
    """Features -> logits and embeddings."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, mel):
        return self.net.tag(mel)


class OpenVinoRunner(MemberRunner):
    """A tagger whose network OpenVINO runs; the front end stays with torch, which has a fast Fourier transform.

    Args:
        member, sample_rate, workers, precision: see :class:`helpers.tagging_runners.MemberRunner`.

    Raises:
        ValueError: OpenVINO is not installed.
    """

    def __init__(self, member, sample_rate=None, workers=1, precision="f32"):
        openvino = required("openvino", "backend=openvino")
        super().__init__(member, sample_rate, workers, precision)
        # Several threads of torch would still wait actively for work when those of OpenVINO are to begin with theirs.
        self._pool = self._pool or single_threaded(1)
        samples = max(int(EXAMPLE_SECONDS * self.sample_rate), self.min_samples)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of the checks of input sizes
            example = self.mel(torch.zeros(2, samples))
            graph = openvino.convert_model(_Tag(self.net), example_input=example, input=[-1, 1, example.shape[2], -1])
        settings = {
            "INFERENCE_NUM_THREADS": max(workers, torch.get_num_threads()),
            "NUM_STREAMS": workers,
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        }
        self._compiled = _core(openvino).compile_model(graph, "CPU", settings)
        self._own = threading.local()

    @torch.inference_mode()
    def run(self, waveforms):
        if not hasattr(self._own, "request"):  # a request serves one thread at a time
            self._own.request = self._compiled.create_infer_request()
        features = self.mel(torch.from_numpy(waveforms)).contiguous().numpy()
        outputs = self._own.request.infer([features], share_inputs=True)
        return outputs[0].copy(), outputs[1].copy()
