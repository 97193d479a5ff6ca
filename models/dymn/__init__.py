"""DyMN: MobileNetV3 whose kernels, activations and gates depend on the clip, the "DyMN" taggers of EfficientAT.

Published by Schmid et al., "Dynamic Convolutional Neural Networks as Efficient Pre-Trained Audio Models" (IEEE/ACM
TASLP 2024). One registry entry per published file: its name says the width (``dymn04``: 0.4) and which blocks are
dynamic, and these are no config entries then. The front end is that of MobileNetV3.
"""

import functools
import re

import torch

from models.dymn.net import DyMN, scheduled_temperature
from models.frontends import MnMel
from models.registry import Architecture, Checkpoint, register

__all__ = ["FILES", "DyMN", "scheduled_temperature", "settings"]

# All in https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/; the numbers are mAP on AudioSet in tenths
# of a percent, and (1) to (3) are further runs.
FILES = {
    "dymn04_im": "dymn04_im.pt",
    "dymn10_im": "dymn10_im.pt",
    "dymn20_im": "dymn20_im.pt",
    "dymn04_as": "dymn04_as.pt",
    "dymn10_as": "dymn10_as.pt",
    "dymn20_as": "dymn20_as_mAP_493.pt",
    "dymn20_as(1)": "dymn20_as.pt",
    "dymn20_as(2)": "dymn20_as_mAP_489.pt",
    "dymn20_as(3)": "dymn20_as_mAP_490.pt",
    "dymn04_replace_se_as": "dymn04_replace_se_as.pt",
    "dymn10_replace_se_as": "dymn10_replace_se_as.pt",
}
# The published files lack the temperature of the kernel mixtures at which their training ended.
TEMPERATURES = {"as": 1.0, "im": 30.0}

_NAME = re.compile(r"dymn(?P<width>\d\d)(?P<replace_se>_replace_se)?(_(?P<data>im|as))?(\(\d\))?")
_HEAD_STAYS = (r"^head_linear_layer\.", r"^att_linear_layer\.")  # layers that an AudioSetHead adds


def settings(name: str) -> dict:
    """Entries of the network which a name decides.

    Args:
        name: e.g. ``dymn04_as`` or ``dymn10_replace_se_as``.

    Raises:
        ValueError: a name of another form; it never means some default width.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"'{name}' does not name a DyMN, expected for example dymn04_as or dymn10_replace_se_as")
    return {
        "width_mult": int(match["width"]) / 10,
        **({"use_dy_blocks": "replace_se"} if match["replace_se"] else {}),
    }


def _with_temperature(state, temperature):
    """The tensors of a file, with the temperature of its training where it says nothing about that."""
    return {"temperature": torch.tensor(temperature), "start_temperature": torch.tensor(temperature), **state}


def _checkpoint(name: str) -> Checkpoint:
    """A bare state dict; a classifier for other classes is left out."""
    return Checkpoint(
        f"pretrained_models/{FILES[name]}",
        entry=None,
        convert=functools.partial(_with_temperature, temperature=TEMPERATURES[_NAME.fullmatch(name)["data"]]),
        rename=((r"^", "model."),),
        missing=_HEAD_STAYS,
        resized=(r"^model\.classifier\.",),
    )


def _register_all():
    for name in FILES:
        published = {name: _checkpoint(name)}
        register(Architecture(name, DyMN, MnMel, "dymn", "mn_mel", published, name, settings(name)))


_register_all()
