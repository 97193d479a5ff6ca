"""The training objective of both stages: named terms, and a table of weights for each stage.

Mean teacher [Tarvainen and Valpola, 2017] and interpolation consistency [Verma et al., 2019] on top of supervised and
pseudo-label losses. Every term is the plain mean over all elements of its clips, classes outside the class mask
included, as in the published training. ``student`` and ``teacher`` are anything with ``strong`` [B, C, T] and ``weak``
[B, C] probabilities, ``source`` holds the [B] source numbers, and a loss is a function of :mod:`helpers.losses`.
"""

from dataclasses import dataclass

import torch

from helpers.augment import mix
from helpers.losses import LOSSES, bce, loss_function
from helpers.sources import MAESTRO, REAL, SUBSETS, SYNTH, UNLABELED, WEAK, members

SUPERVISED_STRONG = ("maestro", "real", "synth")
PSEUDO = ("pseudo_desed", "pseudo_maestro")
CONSISTENCY = ("ssl_strong", "ssl_weak")
STAGE_FACTOR = {1: 5, 2: 1}  # stage 1 multiplies its total by the number of weights without that of pseudo-labels
INTERPOLATION = ("ict_weak", "ict_unlabeled", "ict_desed", "ict_maestro")


# -- configuration ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Losses:
    """Section ``loss``: the type of each loss, a name of ``helpers.losses.LOSSES``, and how often labels are hardened.

    Raises:
        ValueError: unknown type.
    """

    maestro_type: str = "BCELoss"
    selfsup_type: str = "MSELoss"
    pseudo_type: str = "BCELoss"
    harden_labels_maestro_p: float = 0.0
    harden_pseudo_labels_p: float = 0.0

    def __post_init__(self):
        for key in ("maestro_type", "selfsup_type", "pseudo_type"):
            loss_function(getattr(self, key), f"loss.{key}")

    @property
    def maestro(self):
        """Loss of the soft labels of MAESTRO."""
        return LOSSES[self.maestro_type]

    @property
    def selfsup(self):
        """Loss between student and teacher."""
        return LOSSES[self.selfsup_type]

    @property
    def pseudo(self):
        """Loss of pseudo-labels."""
        return LOSSES[self.pseudo_type]


@dataclass(frozen=True)
class Rules:
    """Which clips and classes enter which term; names and defaults of the public configuration.

    Attributes:
        include_maestro_ssl: clips of MAESTRO enter the consistency with the teacher.
        exclude_maestro_weak_ssl: but not its clip-wise part.
        ssl_no_class_mask: consistency is computed on all classes, not only on the annotated ones.
        pseudo_strong_no_class_mask: the same for pseudo-labels.
        use_ict_loss: stage 2: mixed clips are held to the mixed predictions of the teacher.
    """

    include_maestro_ssl: bool = True
    exclude_maestro_weak_ssl: bool = False
    ssl_no_class_mask: bool = False
    pseudo_strong_no_class_mask: bool = False
    use_ict_loss: bool = True


# -- terms ------------------------------------------------------------------------------------------------------------


def supervised(student, labels, weak, source, losses):
    """Losses of annotated clips.

    Args:
        student: predictions inside the class mask.
        labels: [B, C, T] strong labels.
        weak: [B, C] clip labels.
        source: [B] source numbers.
        losses: the :class:`Losses`; their ``maestro`` serves MAESTRO, all others are binary cross-entropies.

    Returns:
        ``maestro``, ``real``, ``synth`` from the strong and ``weak`` from the clip-wise predictions.
    """
    return {
        "maestro": losses.maestro(student.strong, labels, source == MAESTRO),
        "real": bce(student.strong, labels, source == REAL),
        "synth": bce(student.strong, labels, source == SYNTH),
        "weak": bce(student.weak, weak, source == WEAK),
    }


def consistency(student, teacher, where_strong, where_weak, loss):
    """Distance between student and teacher, mean over all selected clips at once.

    Args:
        student: predictions of the student.
        teacher: predictions of the teacher, of the same classes; no gradient goes there.
        where_strong: [B] bool, clips that count in the frame-wise term.
        where_weak: [B] bool, clips that count in the clip-wise term.
        loss: the distance.

    Returns:
        ``ssl_strong`` and ``ssl_weak``.
    """
    return {
        "ssl_strong": loss(student.strong, teacher.strong.detach(), where_strong),
        "ssl_weak": loss(student.weak, teacher.weak.detach(), where_weak),
    }


def interpolation(student, teacher, m, source, loss, joint, maestro_weak_classes=None):
    """Interpolation consistency: the student on mixed clips against the mix of the teacher on the clips themselves.

    Args:
        student: predictions for the mixed clips.
        teacher: predictions for the clips before mixing; no gradient goes there.
        m: the ``Mix`` of the clips. A clip that was not mixed has itself as target.
        source: [B] source numbers.
        loss: the distance.
        joint: whether DESED and MAESTRO were mixed with each other.
        maestro_weak_classes: [C] bool; the clip-wise term of clips in which MAESTRO takes part is restricted to these
            classes when they were mixed with DESED, and left out when they were not. None: all classes count.

    Returns:
        ``ict_weak``, ``ict_unlabeled``, ``ict_desed`` and ``ict_maestro``, each frame-wise + clip-wise / 2. In the
        joint case the last two are both the term of all strong clips, which thereby counts twice, as in the published
        training.
    """
    target_strong = mix(teacher.strong.detach().float(), m).clamp(0, 1)
    target_weak = mix(teacher.weak.detach().float(), m).clamp(0, 1)

    def term(kinds, weak_classes=None):
        where = members(source, kinds)
        where_weak = where if weak_classes is None else where[:, None] & weak_classes
        return loss(student.strong, target_strong, where) + loss(student.weak, target_weak, where_weak) / 2

    terms = {"ict_weak": term((WEAK,)), "ict_unlabeled": term((UNLABELED,))}
    if joint:
        terms["ict_desed"] = terms["ict_maestro"] = term(SUBSETS["strong"], maestro_weak_classes)
    else:
        terms["ict_desed"] = term(SUBSETS["desed_strong"])
        no_classes = None if maestro_weak_classes is None else torch.zeros_like(maestro_weak_classes)
        terms["ict_maestro"] = term((MAESTRO,), no_classes)
    return terms


def pseudo(student, pseudo_strong, source, loss):
    """Losses of stored predictions as frame-wise targets.

    Args:
        student: predictions, inside the class mask when the pseudo-labels are.
        pseudo_strong: [B, C, T] probabilities.
        source: [B] source numbers.
        loss: the distance.

    Returns:
        ``pseudo_desed`` over all clips of DESED and ``pseudo_maestro``.
    """
    return {
        "pseudo_desed": loss(student.strong, pseudo_strong, members(source, SUBSETS["desed"])),
        "pseudo_maestro": loss(student.strong, pseudo_strong, source == MAESTRO),
    }


def training_terms(student, teacher, views, losses, rules, *, with_pseudo, interpolate=None):
    """All terms of a training step.

    Args:
        student: pair of predictions, inside the class mask and without any mask.
        teacher: predictions without mask if ``rules.ssl_no_class_mask``, else inside the class mask.
        views: labels, ``source`` and ``mix`` as in ``helpers.views.Views``.
        losses: the :class:`Losses`.
        rules: the :class:`Rules`.
        with_pseudo: whether pseudo-labels count; needless where their weight is zero.
        interpolate: stage 2: the keywords ``joint`` and ``maestro_weak_classes`` of :func:`interpolation` as a dict,
            used when the clips were mixed and ``rules.use_ict_loss`` is on. None: stage 1, always plain consistency.

    Returns:
        term name -> float32 scalar.
    """
    masked, unmasked = student
    terms = supervised(masked, views.strong, views.weak, views.source, losses)
    compared = unmasked if rules.ssl_no_class_mask else masked
    if interpolate is not None and rules.use_ict_loss and views.mix is not None:
        terms |= interpolation(compared, teacher, views.mix, views.source, losses.selfsup, **interpolate)
    else:
        desed = views.source != MAESTRO
        strong = torch.ones_like(desed) if rules.include_maestro_ssl else desed
        weak = desed if rules.exclude_maestro_weak_ssl else strong
        terms |= consistency(compared, teacher, strong, weak, losses.selfsup)
    if with_pseudo:
        held = unmasked if rules.pseudo_strong_no_class_mask else masked
        terms |= pseudo(held, views.pseudo, views.source, losses.pseudo)
    return terms


# -- weights ----------------------------------------------------------------------------------------------------------


def ssl_weight(step, warmup, w4, scale_max):
    """Weight of consistency: grows linearly, by ``w4`` in ``warmup`` steps, up to ``w4 * scale_max``."""
    return w4 * min(step / warmup if warmup else scale_max, scale_max)


def stage1_weights(loss_weights, lambda_):
    """Weight of every term in stage 1.

    Args:
        loss_weights: the public entry: maestro, real, synthetic, weak, self-supervision, pseudo-labels.
        lambda_: value of :func:`ssl_weight`.

    Raises:
        ValueError: not six weights.
    """
    w0, w1, w2, w3, _, w5 = _six(loss_weights)
    table = {"maestro": w0, "real": w1, "synth": w2, "weak": w3, "ssl_strong": lambda_, "ssl_weak": lambda_}
    table |= {"pseudo_desed": w5 * (w1 + w2 + w3), "pseudo_maestro": w5 * w0}
    return {name: STAGE_FACTOR[1] * weight for name, weight in table.items()}


def stage2_weights(loss_weights, lambda_, mixed):
    """Weight of every term in stage 2.

    Args:
        loss_weights: as for :func:`stage1_weights`.
        lambda_: value of :func:`ssl_weight`.
        mixed: whether interpolation terms stand in for those of plain consistency.

    Raises:
        ValueError: not six weights.
    """
    w0, w1, w2, w3, _, w5 = _six(loss_weights)
    table = {"maestro": w0 / 3, "real": w1 / 3, "synth": w2 / 3, "weak": w3 / 2}
    if mixed:
        table |= dict.fromkeys(INTERPOLATION, lambda_ / 32)
    else:
        table |= {"ssl_strong": lambda_, "ssl_weak": lambda_ / 2}
    return table | {"pseudo_desed": w5 * (w1 + w2 + w3), "pseudo_maestro": w5 * w0}


def combine(terms, weights):
    """The weighted sum of terms.

    Args:
        terms: name -> scalar.
        weights: name -> number; a term whose weight is zero may be missing.

    Raises:
        ValueError: a term without a weight, or a weight other than zero without its term.
    """
    unknown = sorted(set(terms) - set(weights))
    missing = sorted(name for name, weight in weights.items() if weight and name not in terms)
    if unknown or missing:
        raise ValueError(f"terms without a weight: {unknown}, weights without their term: {missing}")
    return sum(weights[name] * value for name, value in terms.items())


def public_names(terms, weights, stage):
    """What the published training logs, from our terms.

    Args:
        terms: name -> scalar.
        weights: name -> weight, as given to :func:`combine`.
        stage: 1 or 2; they differ in some names.

    Returns:
        ``train/student/...`` -> value. ``loss_strong``, ``loss_weak``, ``tot_*`` and the pseudo-label loss are weighted
        sums, before stage 1 multiplies its total; the others are plain terms.
    """

    def weighted(*names):
        return sum(weights[name] * terms[name] for name in names if name in terms) / STAGE_FACTOR[stage]

    logged = {
        "loss_maestro": terms["maestro"],
        "loss_desed_real_strong": terms["real"],
        "loss_desed_synth": terms["synth"],
        "loss_strong": weighted(*SUPERVISED_STRONG),
        "loss_weak": weighted("weak"),
        "tot_supervised": weighted(*SUPERVISED_STRONG, "weak"),
        "tot_ssl": weighted(*CONSISTENCY, *INTERPOLATION),
        "pseudo_strong_loss" if stage == 1 else "loss_pseudo": weighted(*PSEUDO),
    }
    if "ssl_strong" in terms:
        logged |= {"strong_self_sup_loss": terms["ssl_strong"], "weak_self_sup_loss": terms["ssl_weak"]}
    else:
        logged["tot_ict_loss"] = sum(terms[name] for name in INTERPOLATION) / 8
    return {f"train/student/{name}": value for name, value in logged.items()}


def _six(loss_weights):
    if len(loss_weights) != 6:
        raise ValueError(
            "loss_weights: six numbers are needed (maestro, real, synthetic, weak, self-supervision, pseudo-labels), "
            f"found {len(loss_weights)}"
        )
    return loss_weights
