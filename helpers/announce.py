"""Says that a script has begun, before the imports that take it several seconds; every ex_*.py imports this first.

One line on stderr, of the first process of a script that is run, not of one that is imported.
"""

import os
import sys
from pathlib import Path

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK")


def first_process() -> bool:
    """Whether this is the only process of a run, or the first of them."""
    return all(int(os.environ.get(name, 0)) == 0 for name in RANKS)


def announce(script: str):
    """Prints the line for an experiment script, nothing for any other main module."""
    name = Path(script).stem
    if name.startswith("ex_") and first_process():
        print(f"{name}: loading libraries, which takes some seconds", file=sys.stderr, flush=True)


announce(getattr(sys.modules["__main__"], "__file__", None) or "")
