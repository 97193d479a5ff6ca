"""Clips that cannot be read, and what stands in for them."""

import logging

import torch

from data_util.errors import BadAudio

logger = logging.getLogger(__name__)


class StandIns:
    """What happens to clips that cannot be read: an error, or the next good clip stands in for each.

    Args:
        count: number of clips.
        policy: "raise" or "skip".
        key: the config entry that says so, for the error.

    Raises:
        ValueError: another policy.
    """

    def __init__(self, count, policy, key):
        if policy not in ("raise", "skip"):
            raise ValueError(f"{key} is '{policy}', expected 'raise' or 'skip'")
        self.skip = policy == "skip"
        # Shared with loader processes: what one of them found out, the others need neither decode nor report.
        self.bad = torch.zeros(count, dtype=torch.bool).share_memory_()

    def read(self, index, read, name=""):
        """``read(index)``, or that of the next clip that can be read.

        Args:
            index: of the clip.
            read: index -> whatever there is to read.
            name: of the clip, for the error.

        Returns:
            the index that was read, and what ``read`` returned.

        Raises:
            BadAudio: the clip cannot be read and the policy is "raise"; or no clip can be read.
        """
        count = len(self.bad)
        index = range(count)[index]
        if not self.skip:
            return index, read(index)
        for other in (*range(index, count), *range(index)):
            if self.bad[other]:
                continue
            try:
                return other, read(other)
            except BadAudio as error:
                self.bad[other] = True
                logger.warning("%s; skipped, another clip stands in for it", error)
        raise BadAudio(f"none of the {count} clips can be read" + (f", among them {name}" if name else ""))
