"""CNN14: a plain convolutional tagger, as published by PANNs, and as the retrieval baseline of DCASE 2023 uses it.

Published by Kong et al., "PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern Recognition" (IEEE/ACM
TASLP 2020). ``cnn14`` is that network. ``cnn14_clotho`` is the audio encoder of task 6b: it also pools behind the
sixth block, has another front end, and 300 outputs that are no classes.
"""

import functools

from models.cnn14.mel import ClothoMel, PannsMel
from models.cnn14.net import CHANNELS, Cnn14
from models.registry import Architecture, Checkpoint, register

__all__ = ["CHANNELS", "ENCODER_NAMES", "ClothoEncoder", "ClothoMel", "Cnn14", "PannsMel"]

# Layers that an AudioSetHead adds, and the one that the work of 2024 puts into networks without it.
_NEW_LAYERS = (r"^head_linear_layer\.", r"^att_linear_layer\.", r"^model\.projection\.")
_CLASSIFIER = (r"^model\.fc_audioset\.",)

ClothoEncoder = functools.partial(Cnn14, num_classes=300, last_dropout=0.5, pool_last=True)

# Names of the encoder's layers in its own files -> ours. `fc1` stands for two things, so order matters.
ENCODER_NAMES = (
    (r"^fc1\.", "projection."),
    (r"^fc\.1\.", "fc1."),
    (r"^fc2\.", "fc_audioset."),
    *(
        (rf"^cnn\.{8 * block + position}\.", f"conv_block{block + 1}.{layer}.")
        for block in range(len(CHANNELS))
        for position, layer in ((0, "conv1"), (1, "bn1"), (3, "conv2"), (4, "bn2"))
    ),
)

PANNS = Checkpoint(
    "pretrained_models/Cnn14_mAP=0.431.pth",
    entry="model",
    select=r"^(?!spectrogram_extractor\.|logmel_extractor\.)",  # the front end, as tensors
    rename=((r"^", "model."),),
    missing=_NEW_LAYERS,
    resized=_CLASSIFIER,
)
CLOTHO = Checkpoint(
    "pretrained_models/audio_encoder.pth",
    entry=None,
    select=r"^(bn0|cnn|fc|fc1|fc2)\.",
    rename=(*ENCODER_NAMES, (r"^", "model.")),
    missing=_NEW_LAYERS,
    resized=_CLASSIFIER,
    otherwise=PANNS,  # which that encoder was made from
)

register(Architecture("cnn14", Cnn14, PannsMel, "cnn14", "cnn14_mel", {"cnn14": PANNS}, "cnn14"))
register(
    Architecture(
        "cnn14_clotho",
        ClothoEncoder,
        ClothoMel,
        "cnn14_clotho",
        "cnn14_clotho_mel",
        {"cnn14_clotho": CLOTHO},
        "cnn14_clotho",
    )
)
