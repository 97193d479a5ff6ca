"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_data():
    """Folder of the small set of real recordings; it is not part of the repository."""
    folder = Path(os.environ.get("REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "MANIFEST.tsv").is_file():
        pytest.skip(f"no real recordings at {folder} (set REAL_DATA to their folder)")
    return folder


@pytest.fixture(autouse=True)
def _same_threads():
    """Two threads everywhere: sums come out in the same order on every machine."""
    torch.set_num_threads(2)
