"""Frame-wise models against their stored features, embeddings and predictions."""

import numpy as np
import torch

from models import registry
from models.strong import StrongModel, build_strong
from tests.golden.named_weights import golden_waveform, set_named_weights

# What FPaSST and BEATs call their tensors, and what the stored names are.
IN_MEMORY = {"fpasst": ("model.", "model.fpasst."), "beats": ("model.model.", "model.beats.")}
MELS = {"fpasst": {"passt_mel": {"fmin_aug_range": 10, "fmax_aug_range": 2000}}}


def stored_name(arch, name):
    """The name that a tensor of a StrongModel has in the stored manifests."""
    own, stored = IN_MEMORY.get(arch, ("model.", "model."))
    return stored + name.removeprefix(own) if name.startswith(own) else name


def on_meta(arch, **options):
    """A StrongModel of published size, without memory."""
    architecture = registry.get(arch)
    with torch.device("meta"):
        return StrongModel(architecture.net(**architecture.preset), **options)


def shapes(arch):
    """Stored name -> shape of all tensors of a StrongModel of published size."""
    model = on_meta(arch)
    return {stored_name(arch, name): list(tensor.shape) for name, tensor in model.state_dict().items()}


def layer_groups(arch):
    """Stored names by depth as published: last block first, what is above and below the blocks joins its neighbour."""
    backbone = on_meta(arch).model
    names = {
        id(parameter): stored_name(arch, f"model.{name}").removeprefix("model.")
        for name, parameter in backbone.named_parameters()
    }
    lowest, *blocks, top = backbone.layer_groups()
    blocks[0], blocks[-1] = [*lowest, *blocks[0]], [*blocks[-1], *top]
    return [{names[id(parameter)] for parameter in block} for block in reversed(blocks)]


def built(arch):
    """Front end and model with the weights of the recipe, in evaluation mode."""
    mel, model = build_strong(arch, MELS.get(arch, {}))
    set_named_weights(model, 0, rename=lambda name: stored_name(arch, name))
    return mel.eval(), model.eval()


def clips(seconds=10.0, batch=2):
    return torch.from_numpy(golden_waveform(seconds, 16000, 0, batch))


def assert_near(actual, expected, tolerance):
    actual = actual.detach().numpy()
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance


def assert_mel(actual, expected):
    """The tolerances of the stored features."""
    assert_near(actual, expected, 5e-3)
    assert np.abs(actual.numpy() - expected).mean() < 2e-5


def assert_front_end(front_end, expected):
    """Stored features of M2D or ASiT."""
    mel = front_end(clips())
    assert list(mel.shape) == expected["mel.shape"].tolist()
    assert_mel(mel[:, :, ::4, ::20], expected["mel"])
    assert_mel(mel.mean(3), expected["mel.time_mean"])
    assert_mel(mel[..., 0], expected["mel.frame0"])
    assert_mel(mel[..., -1], expected["mel.frame_last"])
    assert_mel(front_end(clips(5.0, 1))[:, :, ::8, ::20], expected["mel_5s"])
    silence = front_end(torch.zeros(1, 16000))
    np.testing.assert_allclose([silence.min(), silence.max()], expected["mel_silence_min_max"], atol=1e-6)


@torch.no_grad()
def assert_predictions(mel, model, expected):
    """Stored embeddings and predictions of M2D or ASiT, for five, ten and twenty seconds."""
    seen = []
    model.model.register_forward_hook(lambda module, inputs, embedding: seen.append(embedding))
    for suffix, seconds, batch, (tokens, channels), every in (
        ("", 10.0, 2, (7, 16), 4),
        ("_5s", 5.0, 1, (7, 16), 8),
        ("_20s", 20.0, 1, (11, 24), 8),
    ):
        strong, weak = model(mel(clips(seconds, batch)))
        assert list(seen[0].shape) == expected[f"embedding{suffix}.shape"].tolist()
        assert_near(seen.pop()[:, ::tokens, ::channels], expected[f"embedding{suffix}"], 3e-4)
        assert list(strong.shape) == expected[f"strong{suffix}.shape"].tolist()
        assert_near(strong[:, ::every, ::5], expected[f"strong{suffix}"], 3e-4)
        assert_near(weak, expected[f"weak{suffix}"], 3e-4)
