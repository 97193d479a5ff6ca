"""Reading of the stored expectations below ``tests/golden``."""

import json
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden"


def golden(name):
    """The opened ``.npz`` or parsed ``.json`` of that path below ``tests/golden``."""
    path = GOLDEN / name
    if path.suffix == ".json":
        return json.loads(path.read_text())
    return np.load(path, allow_pickle=False)
