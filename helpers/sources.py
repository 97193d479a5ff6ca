"""Which clips of a batch are meant: the source numbers of a training batch, and subsets of them.

The numbers are those of the sample format (``Source`` of the data sets), which helpers may not import.
"""

MAESTRO, REAL, SYNTH, WEAK, UNLABELED = range(5)

SUBSETS = {
    "desed_strong": (REAL, SYNTH),
    "strong": (MAESTRO, REAL, SYNTH),
    "desed": (REAL, SYNTH, WEAK, UNLABELED),
    "all": (MAESTRO, REAL, SYNTH, WEAK, UNLABELED),
}


def members(source, kinds):
    """Which clips come from any of some sources.

    Args:
        source: [B] integers, a numpy array or a tensor.
        kinds: source numbers, at least one.

    Returns:
        [B] booleans of the same type and device as ``source``.
    """
    found = source == kinds[0]
    for kind in kinds[1:]:
        found = found | (source == kind)
    return found
