"""True and false positives and cross triggers by the intersection criteria, at all thresholds."""

from collections.abc import Iterable, Mapping

import numpy as np

from helpers.candidates import Candidates, Changes, TrueEvents, Truth
from helpers.count_rows import alive, chosen, merged, micro, net, overlapping, real
from helpers.operating_points import PsdCounts

TICKS = 1e9  # per second: whole numbers, so that sums are exact whatever is added and taken away again


def psd_counts(candidates: Candidates, truth: Truth, label: str, criteria: Mapping) -> PsdCounts:
    """Counts with the intersection criteria [Bilen et al., ICASSP 2020], to the microsecond those of sed_scores_eval.

    A detection is relevant if enough of it lies within true events of its class (``dtc_threshold``). A true event is
    found if relevant detections cover enough of it (``gtc_threshold``). A detection that is not relevant is a false
    positive, and a cross trigger for each other class whose events cover enough of it (``cttc_threshold``).

    Args:
        candidates: detections of the class.
        truth: the true events.
        label: the class.
        criteria: as :data:`helpers.metrics.PSDS1`, :data:`helpers.metrics.PSDS2` or
            :data:`helpers.metrics.INTERSECTION`.

    Raises:
        ValueError: an unknown class, or criteria that do not fit together.
    """
    return psd_counts_of_parts([candidates], truth, label, criteria)


def psd_counts_of_parts(
    parts: Iterable[Candidates], truth: Truth, label: str, criteria: Mapping, silent: Changes | None = None
) -> PsdCounts:
    """:func:`psd_counts` of candidates that come in parts, with different clips in each.

    Args:
        silent: numbers of detections in clips that are in no part because all are false positives and none is a
            cross trigger.
    """
    dtc, gtc, cttc, alpha_ct = _criteria(**criteria)
    events = truth.of_label(label)
    foreign = truth.label != truth.position(label)
    others = TrueEvents(truth.clip[foreign], truth.onset[foreign], truth.offset[foreign])
    foreign = truth.label[foreign]
    clips = len(truth.clips)

    def rows(candidates):
        candidates = real(candidates)
        which, event, shared = overlapping(candidates, events, clips)
        relevant = _enough(which, shared, dtc, candidates)
        hits = relevant[which]
        at, event, change = _found(candidates, which[hits], event[hits], shared[hits], gtc, events)
        wrong = chosen(candidates, ~relevant)
        rows = [(at, events.clip[event], 0, change, 0, 0), *alive(wrong, fp=1)]
        if alpha_ct:
            which, other = _triggered(wrong, others, foreign, clips, cttc)
            rows += alive(chosen(wrong, which), other=other, triggers=1)
        return net(rows)

    threshold, clip, other, tp, fp, triggers = merged(map(rows, parts), silent)
    positives = np.bincount(events.clip, minlength=clips)
    return PsdCounts(threshold, clip, tp, fp, positives, other, triggers, truth, label, alpha_ct)


def _criteria(dtc_threshold, gtc_threshold, cttc_threshold=None, alpha_ct=0.0, alpha_st=0.0):
    if (cttc_threshold is None) != (alpha_ct == 0):
        raise ValueError(f"cttc_threshold ({cttc_threshold}) and alpha_ct ({alpha_ct}) need each other")
    shares = {"dtc_threshold": dtc_threshold, "gtc_threshold": gtc_threshold, "cttc_threshold": cttc_threshold}
    for name, share in shares.items():
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"{name} is {share}, expected a share above 0, up to 1")
    return dtc_threshold, gtc_threshold, cttc_threshold, alpha_ct


def _enough(which, shared, share, candidates):
    """[N] whether the seconds that a candidate shares with events are at least that share of its length."""
    length = candidates.offset - candidates.onset
    return micro(np.bincount(which, shared, minlength=len(length))) >= micro(share * length)


def _found(candidates, which, event, shared, gtc, events):
    """Where events become found, or are no longer: thresholds, event numbers, changes by 1 or -1.

    Args:
        which, event, shared: pairs of relevant candidates and events, and the seconds they share.
    """
    ticks = np.rint(shared * TICKS).astype(np.int64)
    at = np.concatenate([candidates.upper[which], candidates.lower[which]])
    event, ticks = np.concatenate([event, event]), np.concatenate([ticks, -ticks])
    order = np.lexsort((-at, event))
    at, event, ticks = at[order], event[order], ticks[order]
    # Whatever begins ends, if only at -inf: the sum is 0 again behind each event. Changes at one threshold may go back
    # and forth, which adds up to what they do together.
    needed = micro(gtc * (events.offset - events.onset))
    found = micro(np.cumsum(ticks) / TICKS) >= needed[event]
    changed = np.diff(found, prepend=False)
    return at[changed], event[changed], np.where(found[changed], 1, -1)


def _triggered(wrong, others, foreign, clips, cttc):
    """Cross triggers: numbers of the candidates and of the classes they are mistaken for.

    Args:
        others: events of the other classes, by clip and then by class.
        foreign: their classes.
    """
    which, event, shared = overlapping(wrong, others, clips)
    other = foreign[event]
    starts = np.ones(len(which), dtype=bool)
    starts[1:] = (which[1:] != which[:-1]) | (other[1:] != other[:-1])
    group = np.cumsum(starts) - 1
    which, other = which[starts], other[starts]
    enough = _enough(group, shared, cttc, chosen(wrong, which))
    return which[enough], other[enough]
