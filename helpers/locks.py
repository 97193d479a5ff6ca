"""Files that are locked as long as a process lives: they tell what of a common work is still being done.

The locks are those of POSIX records. They end with their process, however it ends, no child process inherits them, and
network file systems pass them on to other hosts. Within one process they tell nothing.
"""

import fcntl
import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def holding(path):
    """Gives whether the lock is ours; it is until the block or the process ends. The file is removed at the end."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        ours = _lock(file) and _is_still(path, file)
        try:
            yield ours
        finally:
            if ours:
                path.unlink(missing_ok=True)


def is_held(path) -> bool:
    """Whether another process holds the lock; the file of one that was killed is removed."""
    with holding(path) as ours:
        return not ours


def _lock(file):
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_still(path, file):
    """Whether the file of that name is the opened one: the process that held the lock may just have removed it."""
    try:
        return os.stat(path).st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False
