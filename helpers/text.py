"""Wording that messages share."""

from collections.abc import Sequence


def listed(names: Sequence, at_most: int = 12) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(map(str, names[:at_most])) + more


def quoted(names: Sequence, at_most: int = 10) -> str:
    """The same in quotation marks, for names with spaces."""
    return listed([f"'{name}'" for name in names], at_most)
