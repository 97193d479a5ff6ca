"""MobileNetV3 on mel spectrograms: the "MN" taggers of EfficientAT and the frame-wise ones of PretrainedSED.

Published by Schmid et al., "Efficient Large-Scale Audio Tagging via Transformer-to-CNN Knowledge Distillation" (ICASSP
2023) and "Effective Pre-Training of Audio Transformers for Sound Event Detection" (ICASSP 2025). One registry entry
per published file: its name says width (``mn04``: 0.4), hop in ms, mel bands, head and strides, and these are no
config entries then.
"""

import functools
import re

from models.frontends import KaldiMel, MnMel
from models.mobilenetv3.net import FrameMobileNet, MobileNetV3
from models.registry import Architecture, Checkpoint, register

__all__ = ["FILES", "FrameMnMel", "FrameMobileNet", "MobileNetV3", "settings"]

# All in https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/; the numbers are mAP on AudioSet in tenths
# of a percent. "no_im_pre" was not trained on ImageNet before, "ext" longer, (2) and (3) are further runs.
FILES = {
    "mn10_im_pytorch": "mn10_im_pytorch.pt",
    "mn01_im": "mn01_im.pt",
    "mn02_im": "mn02_im.pt",
    "mn04_im": "mn04_im.pt",
    "mn05_im": "mn05_im.pt",
    "mn10_im": "mn10_im.pt",
    "mn20_im": "mn20_im.pt",
    "mn30_im": "mn30_im.pt",
    "mn40_im": "mn40_im.pt",
    "mn01_as": "mn01_as_mAP_298.pt",
    "mn02_as": "mn02_as_mAP_378.pt",
    "mn04_as": "mn04_as_mAP_432.pt",
    "mn05_as": "mn05_as_mAP_443.pt",
    "mn10_as": "mn10_as_mAP_471.pt",
    "mn20_as": "mn20_as_mAP_478.pt",
    "mn30_as": "mn30_as_mAP_482.pt",
    "mn40_as": "mn40_as_mAP_484.pt",
    "mn40_as(2)": "mn40_as_mAP_483.pt",
    "mn40_as(3)": "mn40_as_mAP_483(2).pt",
    "mn40_as_no_im_pre": "mn40_as_no_im_pre_mAP_483.pt",
    "mn40_as_no_im_pre(2)": "mn40_as_no_im_pre_mAP_483(2).pt",
    "mn40_as_no_im_pre(3)": "mn40_as_no_im_pre_mAP_482.pt",
    "mn40_as_ext": "mn40_as_ext_mAP_487.pt",
    "mn40_as_ext(2)": "mn40_as_ext_mAP_486.pt",
    "mn40_as_ext(3)": "mn40_as_ext_mAP_485.pt",
    "mn10_as_hop_5": "mn10_as_hop_5_mAP_475.pt",
    "mn10_as_hop_15": "mn10_as_hop_15_mAP_463.pt",
    "mn10_as_hop_20": "mn10_as_hop_20_mAP_456.pt",
    "mn10_as_hop_25": "mn10_as_hop_25_mAP_447.pt",
    "mn10_as_mels_40": "mn10_as_mels_40_mAP_453.pt",
    "mn10_as_mels_64": "mn10_as_mels_64_mAP_461.pt",
    "mn10_as_mels_256": "mn10_as_mels_256_mAP_474.pt",
    "mn10_as_fc": "mn10_as_fc_mAP_465.pt",
    "mn10_as_fc_s2221": "mn10_as_fc_s2221_mAP_466.pt",
    "mn10_as_fc_s2211": "mn10_as_fc_s2211_mAP_466.pt",
}
FRAME_WISE = tuple(f"frame_mn{width}" for width in "01 02 04 05 06 08 10 12 14 16 20 30 40".split())
WITH_WEIGHTS = ("frame_mn06", "frame_mn10")  # published

_NAME = re.compile(
    r"(frame_)?mn(?P<width>\d\d)(_im(_pytorch)?|_as(_no_im_pre|_ext)?)?(?P<fc>_fc)?(_s(?P<strides>\d{4}))?"
    r"(_hop_(?P<hop>\d+))?(_mels_(?P<mels>\d+))?(\(\d\))?"
)
_HEAD_STAYS = (r"^head_linear_layer\.", r"^att_linear_layer\.")  # layers that an AudioSetHead adds
_TIME_AT_10_S = 320000  # samples at 32 kHz

# The 16 kHz front end of the frame-wise networks: that of PaSST with a symmetric window and other training edges,
# on which the upper edge of evaluation, 7000 Hz, depends too.
FrameMnMel = functools.partial(KaldiMel, fmin_aug_range=10, fmax_aug_range=2000, periodic_window=False)


def settings(name: str) -> tuple[dict, dict]:
    """What a name decides: entries of the network and of the front end.

    Args:
        name: e.g. ``mn04_as``, ``mn10_as_hop_15``, ``mn10_as_fc_s2211`` or ``frame_mn06``.

    Raises:
        ValueError: a name of another form; it never means some default width.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"'{name}' does not name a MobileNetV3, expected for example mn04_as or mn10_as_hop_15")
    net, mel = {"width_mult": int(match["width"]) / 10}, {}
    if match["fc"]:
        net["head_type"] = "fully_convolutional"
    if match["strides"]:
        net["strides"] = tuple(map(int, match["strides"]))
    if match["hop"]:
        mel["hopsize"] = int(match["hop"]) * 32
        net["input_dim_t"] = -(-_TIME_AT_10_S // mel["hopsize"])
    if match["mels"]:
        net["input_dim_f"] = mel["n_mels"] = int(match["mels"])
    return net, mel


def _checkpoint(name: str) -> Checkpoint:
    """A bare state dict; a classifier for other classes (1000 in some ImageNet files) is left out."""
    return Checkpoint(
        f"pretrained_models/{FILES[name]}",
        entry=None,
        rename=((r"^", "model."),),
        missing=_HEAD_STAYS,
        resized=(r"^model\.classifier\.",),
    )


def _register_all():
    for name in FILES:
        net, mel = settings(name)
        register(Architecture(name, MobileNetV3, MnMel, "mn", "mn_mel", {name: _checkpoint(name)}, name, net, mel))
    for name in FRAME_WISE:
        net, _ = settings(name)
        own = f"{name}_strong_1"
        # A file of the AudioSet-strong wrapper; its two heads (447 sound events) have no place in the AudioSet head.
        heads = (r"^strong_head\.", r"^weak_head\.")
        published = {own: Checkpoint(f"pretrained_models/{own}.pt", entry=None, missing=_HEAD_STAYS, ignored=heads)}
        if name not in WITH_WEIGHTS:
            published, own = {}, None
        mel = {"n_mels": 128}  # the strides bring just this number of bands to one
        register(Architecture(name, FrameMobileNet, FrameMnMel, "frame_mn", "frame_mn_mel", published, own, net, mel))


_register_all()
