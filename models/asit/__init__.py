"""ASiT: a patch transformer, pre-trained by reconstructing masked groups of patches and by contrasting views."""

from models.asit.net import Asit, AsitFbank
from models.registry import Architecture, register
from models.strong import published

register(
    Architecture(
        name="asit",
        net=Asit,
        mel=AsitFbank,
        section="asit",
        mel_section="asit_mel",
        checkpoints=published("ASIT", (r"^model\.(?!asit\.)", "model.asit.")),
        pretrained_name="ASIT_strong_1",
    )
)
