"""fPaSST: a frame-wise audio spectrogram transformer, started from an image model."""

from types import MappingProxyType

from models.fpasst.net import FPaSST, from_deit
from models.frontends import KaldiMel
from models.registry import Architecture, Checkpoint, register
from models.strong import published

HEAD = r"^head_linear_layer\."
ATTENTION = r"^att_linear_layer\."
AUDIOSET_STRONG = "pretrained_models/passt_as_strong.ckpt"
# What all published fPaSST systems were trained with: the upper mel edge, also in evaluation, and the head.
MEL = MappingProxyType({"fmax_aug_range": 2000})
WRAPPER = MappingProxyType({"embed_pool": "int", "interpolation_mode": "nearest-exact"})


def _stage(name):
    return Checkpoint(
        f"pretrained_models/{name}.ckpt",
        entry="student",
        select=r"^as_model\.",
        rename=((r"^as_model\.", ""),),
        missing=(ATTENTION,),
        wrapper=WRAPPER,
        mel=MEL,
    )


CHECKPOINTS = {
    "passt_as_strong": Checkpoint(  # the GRU of AudioSet-strong sat directly on the backbone: no head
        AUDIOSET_STRONG,
        select=r"^net_strong\.model\.(?!(model|head_linear_layer|att_linear_layer)\.)",
        rename=((r"^net_strong\.", ""),),
        missing=(HEAD, ATTENTION),
        wrapper=WRAPPER,
        mel=MEL,
        otherwise=Checkpoint(  # it sat on the AudioSet head
            AUDIOSET_STRONG,
            select=r"^net_strong\.model\.",
            rename=((r"^net_strong\.model\.", ""),),
            missing=(ATTENTION,),
            otherwise=Checkpoint(  # weakly supervised training
                AUDIOSET_STRONG, select=r"^net\.", rename=((r"^net\.", ""),), ignored=(ATTENTION,)
            ),
        ),
    ),
    "passt_stage1": _stage("passt_stage1"),
    "passt_stage2": _stage("passt_stage2"),
    "deit_base_distilled_patch16_384": Checkpoint(  # for fpasst.pretrained alone
        "pretrained_models/deit_base_distilled_patch16_384-d0272ac0.pth",
        entry="model",
        convert=from_deit,
        rename=((r"^", "model."),),
        missing=(r"^model\.conv_in_", HEAD, ATTENTION),
    ),
    **published("fpasst", (r"^model\.fpasst\.", "model."), mel={**MEL, "fmin_aug_range": 10}),
}

register(
    Architecture(
        name="fpasst",
        net=FPaSST,
        mel=KaldiMel,
        section="fpasst",
        mel_section="passt_mel",
        checkpoints=CHECKPOINTS,
        pretrained_name="passt_as_strong",
        loading={"pretrained": True, "wandb_id": None, "n_classes": 527, "sample_rate": 16000},
    )
)
