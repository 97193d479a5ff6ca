"""True and false positives by collars around onsets and offsets, at all thresholds."""

from collections.abc import Iterable, Mapping

import numpy as np

from helpers.candidates import Candidates, Changes, Truth
from helpers.count_rows import alive, merged, micro, net, pairs, real
from helpers.metrics import COLLAR
from helpers.operating_points import Counts


def collar_counts(candidates: Candidates, truth: Truth, label: str, criteria: Mapping = COLLAR) -> Counts:
    """Collar-based counts [Mesaros et al., Applied Sciences 2016], to the microsecond those of sed_scores_eval.

    A detection and a true event can be a pair if their onsets are at most ``onset_collar`` apart and their offsets at
    most ``offset_collar`` or, if that is longer, ``offset_collar_rate`` of the true event. True positives are the pairs
    of a largest one-to-one matching, false positives all other detections.

    Args:
        candidates: detections of the class.
        truth: the true events.
        label: the class.
        criteria: as :data:`helpers.metrics.COLLAR`.

    Raises:
        ValueError: an unknown class.
    """
    return collar_counts_of_parts([candidates], truth, label, criteria)


def collar_counts_of_parts(
    parts: Iterable[Candidates],
    truth: Truth,
    label: str,
    criteria: Mapping = COLLAR,
    silent: Changes | None = None,
) -> Counts:
    """:func:`collar_counts` of candidates that come in parts, with different clips in each.

    Args:
        silent: numbers of detections in clips that are in no part because they have no event of the class.
    """
    onset_collar, offset_collar, rate = _criteria(**criteria)
    events = truth.of_label(label)
    offset_collars = np.maximum(offset_collar, rate * (events.offset - events.onset))
    clips = len(truth.clips)

    def rows(candidates):
        candidates = real(candidates)
        which, event = pairs(candidates, events, clips)
        near = micro(np.abs(candidates.onset[which] - events.onset[event]) - onset_collar) <= 0
        which, event = which[near], event[near]
        near = micro(np.abs(candidates.offset[which] - events.offset[event]) - offset_collars[event]) <= 0
        at, event, change = _matched(candidates, which[near], event[near])
        return net([(at, events.clip[event], 0, change, -change, 0), *alive(candidates, fp=1)])

    threshold, clip, _, tp, fp, _ = merged(map(rows, parts), silent)
    return Counts(threshold, clip, tp, fp, np.bincount(events.clip, minlength=clips))


def _criteria(onset_collar, offset_collar, offset_collar_rate=0.0):
    return onset_collar, offset_collar, offset_collar_rate


def _matched(candidates, which, event):
    """Where the number of matched pairs changes: thresholds, events of the clip it happens in, changes.

    Args:
        which, event: the possible pairs.
    """
    upper, lower = candidates.upper[which], candidates.lower[which]
    groups = _ambiguous(which, event, upper, lower)
    clear = np.ones(len(which), dtype=bool)
    clear[[pair for group in groups for pair in group]] = False
    changes = [(upper[clear], event[clear], np.ones(clear.sum(), dtype=np.int64))]
    changes.append((lower[clear], event[clear], -changes[0][2]))
    for group in groups:
        at = np.unique([upper[group], lower[group]])[::-1]
        sizes = [
            _matching_size([(which[i], event[i]) for i in group if lower[i] < threshold <= upper[i]])
            for threshold in at
        ]
        changes.append((at, np.full(len(at), event[group[0]]), np.diff(sizes, prepend=0)))
    return tuple(np.concatenate(column) for column in zip(*changes))


def _ambiguous(which, event, upper, lower):
    """Groups of pairs, linked by candidates or events, in which some threshold leaves a choice; everywhere else each
    detected pair is a match."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(which):
        return []
    choice = np.bincount(which)[which] > 1
    order = np.lexsort((-upper, event))
    at_once = (event[order][1:] == event[order][:-1]) & (upper[order][1:] > lower[order][:-1])
    choice[order[1:]] |= at_once
    _, which = np.unique(which, return_inverse=True)
    _, event = np.unique(event, return_inverse=True)
    nodes = which.max() + 1 + event.max() + 1
    links = coo_array((np.ones(len(which)), (which, which.max() + 1 + event)), shape=(nodes, nodes))
    group = connected_components(links, directed=False)[1][which]
    members = np.flatnonzero(np.isin(group, group[choice]))
    members = members[np.argsort(group[members], kind="stable")]
    return np.split(members, np.flatnonzero(np.diff(group[members])) + 1) if len(members) else []


def _matching_size(possible):
    """How many of these (candidate, event) pairs can hold at once, by augmenting paths."""
    events_of, partner = {}, {}
    for candidate, event in possible:
        events_of.setdefault(candidate, []).append(event)

    def augment(candidate, tried):
        for event in events_of[candidate]:
            if event not in tried:
                tried.add(event)
                if event not in partner or augment(partner[event], tried):
                    partner[event] = candidate
                    return True
        return False

    return sum(augment(candidate, set()) for candidate in events_of)
