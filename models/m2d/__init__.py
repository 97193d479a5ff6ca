"""M2D: a patch transformer, pre-trained by predicting the representations of masked patches."""

from models.m2d.net import M2d, M2dMel
from models.registry import Architecture, register
from models.strong import published

register(
    Architecture(
        name="m2d",
        net=M2d,
        mel=M2dMel,
        section="m2d",
        mel_section="m2d_mel",
        checkpoints=published("M2D", (r"^model\.(?!m2d\.)", "model.m2d."), ignored=(r"^model\.m2d\.to_spec\.",)),
        pretrained_name="M2D_strong_1",
    )
)
