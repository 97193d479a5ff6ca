"""ATST-Frame: a frame-level transformer, pre-trained by a student and a teacher on AudioSet."""

from models.atst_frame.net import AtstFrame
from models.frontends import AtstMel
from models.registry import Architecture, Checkpoint, register
from models.strong import published

ATTENTION = r"^att_linear_layer\."
HEAD = (r"^head_linear_layer\.", ATTENTION)
AUDIOSET_STRONG = "pretrained_models/atst_as_strong.ckpt"


def _stage(name):
    return Checkpoint(
        f"pretrained_models/{name}.ckpt",
        entry="student",
        select=r"^as_model\.",
        rename=((r"^as_model\.", ""),),
        missing=(ATTENTION,),
    )


CHECKPOINTS = {
    # Fine-tuned on AudioSet-strong. The head stays random: in the published systems it was never trained either.
    "atst_as_strong": Checkpoint(
        AUDIOSET_STRONG,
        select=r"^net_strong\.model\.",
        rename=((r"^net_strong\.model\.atst\.", "model.atst."),),
        missing=HEAD,
        otherwise=Checkpoint(  # weakly supervised training
            AUDIOSET_STRONG, select=r"^net\.", rename=((r"^net\.", ""),), ignored=(ATTENTION,)
        ),
    ),
    # The backbone alone, in three layouts: teacher, encoder, or encoder with the frame branch of two.
    "atst_as": Checkpoint(
        "pretrained_models/atst_as.ckpt",
        select=r"model\.teacher\.encoder\.|encoder\.encoder\.(?!teacher_module\.)",
        rename=(
            (r"^.*?model\.teacher\.encoder\.norm\.", "model.atst.norm_frame."),
            (r"^.*?(model\.teacher\.encoder|encoder\.encoder\.frame_encoder|encoder\.encoder)\.", "model.atst."),
        ),
        missing=HEAD,
        ignored=(r"^model\.atst\.cls_token$",),
    ),
    "atst_stage1": _stage("atst_stage1"),
    "atst_stage2": _stage("atst_stage2"),
    **published("ATST-F", ignored=(r"^model\.atst_mel\.",)),
}

register(
    Architecture(
        name="atst_frame",
        net=AtstFrame,
        mel=AtstMel,
        section="atst_frame",
        mel_section="atst_mel",
        checkpoints=CHECKPOINTS,
        pretrained_name="atst_as_strong",
    )
)
