"""BEATs: a patch transformer, pre-trained on AudioSet to predict acoustic tokens."""

from types import MappingProxyType

from models.beats.net import Beats
from models.frontends import BeatsFbank
from models.registry import Architecture, Checkpoint, register
from models.strong import published

HEAD = (r"^head_linear_layer\.", r"^att_linear_layer\.")
# Names of the weight-normed convolution before torch 2.0.
WEIGHT_NORM = (
    (r"(pos_conv\.0)\.weight_g$", r"\1.parametrizations.weight.original0"),
    (r"(pos_conv\.0)\.weight_v$", r"\1.parametrizations.weight.original1"),
)
# What the published systems were trained with: no AudioSet head, tokens picked by index.
WRAPPER = MappingProxyType({"no_wrapper": True, "embed_pool": "int", "interpolation_mode": "nearest-exact"})


def _stage(name):
    return Checkpoint(
        f"pretrained_models/{name}.ckpt",
        entry="student",
        select=r"^as_model\.",
        rename=((r"^as_model\.", "model."), *WEIGHT_NORM),
        missing=HEAD,
        wrapper=WRAPPER,
    )


CHECKPOINTS = {
    "beats_as": Checkpoint(
        "pretrained_models/beats_as.pt",
        entry="model",
        rename=((r"^", "model.model."), *WEIGHT_NORM),
        missing=HEAD,
        ignored=(r"^model\.model\.predictor\.",),
        wrapper=WRAPPER,
        config="cfg",
    ),
    "beats_stage1": _stage("beats_stage1"),
    "beats_stage2": _stage("beats_stage2"),
    **published("BEATs", (r"^model\.beats\.", "model.model."), *WEIGHT_NORM),
}

register(
    Architecture(
        name="beats",
        net=Beats,
        mel=BeatsFbank,
        section="beats",
        mel_section="beats_mel",
        checkpoints=CHECKPOINTS,
    )
)
