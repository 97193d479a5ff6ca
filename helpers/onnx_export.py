"""Taggers as ONNX files, waveform in, and their use by onnxruntime.

ONNX runtimes have no fast Fourier transform worth the name, and no cheap way to cut overlapping frames. Both operators
of torch are translated here into products with small constant matrices and copies of whole rows, for every front end.
"""

import json
import logging
import math
import re
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from helpers.files import replacing
from helpers.tagging_runners import Member, Runner, fewest_samples, fingerprint

log = logging.getLogger(__name__)

OPSET = 18
TOLERANCE = 1e-4  # of probabilities, between the file and torch
METADATA = "tagger"  # key of the file's metadata, JSON
EXAMPLE_SECONDS = 3.0  # of the waveform that the network is traced with


def required(package: str, purpose: str):
    """Imports an optional package.

    Raises:
        ValueError: it is not installed; names the command that installs it.
    """
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        missing = (error.name or package).partition(".")[0]
        raise ValueError(f"{purpose} needs the package {missing}: python -m pip install {missing}") from None


class _Tagging(nn.Module):
    """Waveforms -> logits and embeddings."""

    def __init__(self, mel, net):
        super().__init__()
        self.mel, self.net = mel, net

    def forward(self, waveform):
        return self.net.tag(self.mel(waveform))


def export(member: Member, path, classes=None) -> Path:
    """Writes a tagger as one ONNX graph: ``waveform`` [batch, samples] -> ``logits`` and ``embeddings``.

    Both axes of the waveform are dynamic. The file appears once onnxruntime has computed the same as torch from it. Its
    metadata name sample rate, fewest samples and classes.

    Args:
        member: the tagger; its front end is exported for its own sample rate.
        path: the file.
        classes: names of the classes, for the metadata.

    Returns:
        the path.

    Raises:
        ValueError: a package is not installed, the network has parts that cannot be exported, or the file computes
            something else than torch.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        required(package, "export to ONNX")
    import onnx

    model = _Tagging(member.mel, member.net).eval()
    member.mel.input_rate = None
    if hasattr(member.mel, "per_clip_range"):
        member.mel.per_clip_range = True
    fewest = fewest_samples(member.mel, member.net)
    samples = max(int(EXAMPLE_SECONDS * member.mel.sample_rate), fewest)
    example = 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    entries = {
        "name": member.name,
        "sample_rate": member.mel.sample_rate,
        "min_samples": fewest,
        "identity": fingerprint(member.mel, member.net),
        "classes": list(classes or []),
    }
    with replacing(path) as temporary:
        try:
            _write(model, example, temporary)
        except torch.onnx.OnnxExporterError as error:
            raise ValueError(f"{path}: {member.name} cannot be exported to ONNX ({_reason(error)})") from error
        content = onnx.load(temporary)
        onnx.helper.set_model_props(content, {METADATA: json.dumps(entries)})
        onnx.save(content, temporary)
        _compare(temporary, model, path)
    return Path(path)


def exported(member: Member, folder) -> Path:
    """The ONNX file of a tagger in a folder; it is made unless one with the same weights and settings is there.

    Raises:
        ValueError: see :func:`export`.
    """
    path = Path(folder) / (re.sub(r"[^\w.-]+", "_", Path(member.name).name) + ".onnx")
    if path.is_file() and read_metadata(path).get("identity") == fingerprint(member.mel, member.net):
        return path
    log.info("%s: exporting %s, which takes up to a minute", path, member.name)
    return export(member, path)


def read_metadata(path) -> dict:
    """What :func:`export` wrote about a tagger; empty for another file.

    Raises:
        ValueError: onnx is not installed, or the file is no ONNX file.
    """
    onnx = required("onnx", "backend=onnx")
    try:
        content = onnx.load(path, load_external_data=False)
    except Exception as error:
        raise ValueError(f"{path}: not readable as ONNX ({type(error).__name__})") from None
    return json.loads(next((prop.value for prop in content.metadata_props if prop.key == METADATA), "{}"))


class OnnxRunner(Runner):
    """A tagger that :func:`export` has written, run by onnxruntime.

    Args:
        path: the file.
        workers: see :class:`helpers.tagging_runners.Runner`.

    Raises:
        ValueError: a package is not installed, or the file is none of ours.
    """

    def __init__(self, path, workers=1):
        super().__init__(workers)
        runtime, entries = required("onnxruntime", "backend=onnx"), read_metadata(path)
        if not entries:
            raise ValueError(f"{path}: no metadata '{METADATA}', expected a file that `export` has written")
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised as well
        options.intra_op_num_threads = 1 if workers > 1 else torch.get_num_threads()
        self._session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.name, self.classes = entries["name"], entries["classes"]
        self.sample_rate, self.min_samples = entries["sample_rate"], entries["min_samples"]
        self.n_classes, self.embed_dim = (output.shape[1] for output in self._session.get_outputs())
        self.identity = f"{type(self).__name__} {entries['name']} {entries['identity']}"

    def run(self, waveforms):
        return tuple(self._session.run(None, {"waveform": np.asarray(waveforms, dtype=np.float32)}))


# -- translation ------------------------------------------------------------------------------------------------------
def _write(model, example, path):
    aten, dynamic = torch.ops.aten, torch.export.Dim.DYNAMIC
    translations = {aten._fft_r2c.default: _real_fft, aten.unfold.default: _frames}
    # The exporter reports every step, and warns of what the translation of other networks would need.
    silenced = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in silenced]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for logger in silenced:
            logger.setLevel(logging.ERROR)
        try:
            torch.onnx.export(
                model, (example,), path, input_names=["waveform"], output_names=["logits", "embeddings"],
                dynamic_shapes={"waveform": {0: dynamic, 1: dynamic}}, opset_version=OPSET, dynamo=True,
                external_data=False, verbose=False, custom_translation_table=translations,
            )  # fmt: skip
        finally:
            for logger, level in zip(silenced, levels):
                logger.setLevel(level)


def _reason(error):
    """The lines of the exporter's message that say what is wrong, as one."""
    lines = [line.strip("- ") for line in str(error).splitlines() if line.strip()]
    heading = next((number for number, line in enumerate(lines) if "Exception summary" in line), -1)
    first, *more = lines[heading + 1 :]
    return " ".join([first, *more[:1]]) if first.endswith(":") else first


def _compare(temporary, model, path):
    """Raises ValueError unless the file computes what torch does, for several lengths and batch sizes."""
    runner = OnnxRunner(temporary)
    for batch, factor in ((1, 1.0), (3, 1.7)):
        generator = torch.Generator().manual_seed(batch)
        samples = max(int(factor * EXAMPLE_SECONDS * runner.sample_rate), runner.min_samples)
        waveform = 0.1 * torch.randn(batch, samples, generator=generator)
        with torch.no_grad():
            expected = torch.sigmoid(model(waveform)[0]).numpy()
        try:
            logits = runner.run(waveform.numpy())[0]
        except Exception as error:  # onnxruntime's exceptions have no public base class
            what = f"{batch} waveforms of {samples} samples"
            raise ValueError(f"{path}: the exported graph does not run for {what}, not all axes are free") from error
        found = torch.sigmoid(torch.from_numpy(logits)).numpy()
        if not np.abs(found - expected).max() <= TOLERANCE:
            difference = np.abs(found - expected).max()
            raise ValueError(f"{path}: probabilities differ from those of torch by {difference:.1e}")


def _constants():
    """Functions that make constants of the graph, float32 and int64."""
    import onnx_ir
    from onnxscript import opset18 as op

    def constant(values, dtype):
        return op.Constant(value=onnx_ir.tensor(np.ascontiguousarray(values, dtype=dtype)))

    return op, lambda values: constant(values, np.float32), lambda values: constant(values, np.int64)


def _frames(x, dimension, size, step):
    """``Tensor.unfold`` of the last axis: rows of the greatest common divisor of size and step are copied."""
    op, _, integers = _constants()
    axes = len(x.shape)
    if dimension % axes != axes - 1:
        raise ValueError(f"export to ONNX: unfold of axis {dimension} of {axes}, expected the last one")
    row = math.gcd(size, step)
    length = op.Shape(x, start=axes - 1)
    rows = op.Div(length, integers([row]))
    x = op.Slice(x, integers([0]), op.Mul(rows, integers([row])), integers([axes - 1]))
    x = op.Reshape(x, integers([0] * (axes - 1) + [-1, row]))
    last = op.Squeeze(op.Div(op.Sub(length, integers([size])), integers([step])))
    starts = op.Range(integers(0), op.Add(op.Mul(last, integers(step // row)), integers(1)), integers(step // row))
    index = op.Add(op.Unsqueeze(starts, integers([1])), integers(np.arange(size // row)))
    return op.Reshape(op.Gather(x, index, axis=axes - 1), integers([0] * axes + [size]))


def _real_fft(x, dim, normalization, onesided):
    """``torch.fft.rfft`` of the last axis as two products with small matrices, see :func:`split_dft`.

    Complex numbers are pairs on a further axis, as everywhere in exported graphs.
    """
    op, floats, integers = _constants()
    axes, size = len(x.shape), int(x.shape[-1])
    if [axis % axes for axis in dim] != [axes - 1] or normalization or not onesided:
        raise ValueError("export to ONNX: only the one-sided transform of the last axis without norm is translated")
    first, twiddle, second, place, sign = split_dft(size)
    rows, columns = twiddle.shape
    batch, swapped = [0] * (axes - 1), [*range(axes - 2), axes - 1, axes - 2]
    x = op.Reshape(x, integers([*batch, first.shape[1], columns]))
    x = op.Reshape(op.MatMul(floats(first), x), integers([*batch, rows, 2, columns]))
    turned = op.Gather(x, integers([1, 0]), axis=axes)
    x = op.Add(
        op.Mul(x, floats(twiddle.real[:, None])), op.Mul(turned, floats(np.stack([-twiddle.imag, twiddle.imag], 1)))
    )
    x = op.MatMul(op.Reshape(x, integers([*batch, rows, 2 * columns])), floats(second))
    # Rows are reordered rather than single numbers: frames become the last axis meanwhile.
    x = op.Transpose(op.Reshape(x, integers([*batch, -1])), perm=swapped)
    x = op.Mul(op.Gather(x, integers(place.T.ravel()), axis=axes - 2), floats(sign.T.reshape(-1, 1)))
    x = op.Reshape(op.Transpose(x, perm=swapped), integers([*batch, 2, size // 2 + 1]))
    return op.Transpose(x, perm=[*range(axes - 1), axes, axes - 1])


def split_dft(size: int) -> tuple[np.ndarray, ...]:
    """Factors of the Fourier transform of ``size = r * s`` real numbers x[s m + n], m < r and n < s.

    X[k + r l] = sum_n exp(-2 pi i n l / s) exp(-2 pi i n k / size) sum_m exp(-2 pi i m k / r) x[s m + n].
    Source: Cooley and Tukey, "An Algorithm for the Machine Calculation of Complex Fourier Series", 1965. Only the
    rows k <= r / 2 are computed; all other bins mirror one of them.

    Returns:
        the inner sum, real [2 (r // 2 + 1), r], real and imaginary parts of each k one after the other; the factors
        between, complex [r // 2 + 1, s]; the outer sum, real [2 s, 2 s], real parts before imaginary ones; place
        [bins, 2] of the real and imaginary parts of the one-sided bins in the flattened result [k, part, l]; and
        their signs [bins, 2].
    """
    r = next(divisor for divisor in range(math.isqrt(size), 0, -1) if size % divisor == 0)
    s, k = size // r, np.arange(r // 2 + 1)
    inner = np.exp(-2j * np.pi * np.outer(k, np.arange(r)) / r)
    outer = np.exp(-2j * np.pi * np.outer(np.arange(s), np.arange(s)) / s)
    bins = np.arange(size // 2 + 1)
    mirrored = bins % r > r // 2
    source = np.where(mirrored, size - bins, bins)
    real = source % r * 2 * s + source // r
    return (
        np.stack([inner.real, inner.imag], 1).reshape(-1, r),
        np.exp(-2j * np.pi * np.outer(k, np.arange(s)) / size),
        np.block([[outer.real, outer.imag], [-outer.imag, outer.real]]),
        np.stack([real, real + s], 1),
        np.where(mirrored[:, None], [1, -1], [1, 1]),
    )
